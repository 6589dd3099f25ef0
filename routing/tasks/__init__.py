"""Problem sources, the four splits, and the record of problems seen."""
