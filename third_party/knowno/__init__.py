"""KnowNo: conformal sets of routes; a set of several asks for help."""
