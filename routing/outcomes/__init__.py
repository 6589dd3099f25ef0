"""Outcomes of thresholds on problems: known, recorded or answered live."""
