"""Back ends that write steps: one protocol, one capability table."""
