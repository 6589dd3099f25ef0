"""Thresholds, and what is proved about their loss and cost.

The functions are pure functions of arrays. `calibrator` combines them.
"""
