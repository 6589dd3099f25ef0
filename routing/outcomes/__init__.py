"""What thresholds earn on problems: known, recorded or answered live."""
