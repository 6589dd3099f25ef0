"""Thresholds and what they promise: pure functions of arrays."""
