"""From a trace to the observation vector, the same everywhere."""
