"""From a problem to a trace: the one driver, and what collects with it."""
