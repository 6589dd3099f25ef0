"""Stepwise model routing: which language model writes the next step?

Axes, one letter each, here and in every docstring and shape:
  B batch, T steps, F features, A routes, N problems, K thresholds.
Route 0 is the smallest model and route A - 1 the largest.

Importing this package imports nothing else; take the modules you need.
"""
