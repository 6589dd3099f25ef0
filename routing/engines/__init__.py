"""Back ends that write steps: one protocol, one table of capabilities."""
