"""Stepwise model routing: which language model writes the next step?

Axes, one letter each, here and in every docstring and shape:
  B batch, T steps, F features, A routes, N problems, K thresholds.
Route 0 is the smallest model and route A - 1 the largest.

Importing this package imports nothing else; take the modules you need.
"""


def load(path='shipped'):
  """The trained router in a directory, or the one that ships with the package.

  Args:
    path: 'shipped', a run directory, or a folder that a router was saved to.

  Returns:
    A `routing.routers.learned.LearnedRouter`.

  Raises:
    ValueError: if there is no finished router, or its files do not match.
  """
  from routing.routers import learned

  return learned.load(path)
