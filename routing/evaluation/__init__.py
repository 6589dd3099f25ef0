"""Evaluation: methods, metrics, confidence intervals, tables and plots."""
