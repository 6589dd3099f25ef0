"""Problem sources, the four splits, and records of the problems seen."""
