"""Replay, metrics, intervals, tables and plots."""
