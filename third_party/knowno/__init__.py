"""KnowNo: sets of routes by conformal prediction, and help where they are large."""
