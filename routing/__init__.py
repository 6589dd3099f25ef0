"""Stepwise model routing: choose, step by step, which language model writes.

Docstrings and array shapes of this package name each axis by one letter:
  B batch, T steps, F features, A routes, N problems, K thresholds.
A route is the index of a model: route 0 is the smallest, A - 1 the largest.

`import routing` loads no submodule; import the modules you need by name.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `import routing` alone loads neither JAX nor Flax.
  from routing import types
  from routing.routers import learned

# The one place of the version; see CHANGELOG.md.
__version__ = '0.1.0'


def load(path: pathlib.Path | str = 'shipped') -> learned.LearnedRouter:
  """Loads a trained router from a directory.

  Args:
    path: a directory of a training run, a directory that a router was saved to,
      or 'shipped' for the router that comes with the package.

  Returns:
    A `routing.routers.learned.LearnedRouter`.

  Raises:
    ValueError: if the directory has no finished router, or its files do not
      match each other.
  """
  from routing.routers import learned

  return learned.load(path)


def load_ladders(name: str, split: str = 'test') -> list[types.Ladder]:
  """Loads graded ladders that come with the package.

  A ladder has the small model's answer to one problem, step by step, and the
  larger model's continuation from every step, graded, with tokens and
  log-probabilities.

  Args:
    name: of the collection, e.g. 'qwen25_coder'; its README.md is in
      `routing.shards.reader.shipped(name)`.
    split: 'train', 'select', 'prove' or 'test'.

  Returns:
    A list of `routing.types.Ladder`, in the order of the problems.

  Raises:
    ValueError: if there is no such collection or split, or the split still
      grows; `reader.read_ladders(..., is_partial=True)` reads what there is.
  """
  from routing.shards import reader
  from routing.tasks import splits

  if split not in splits.SPLITS:
    raise ValueError(
        f'Unknown split {split!r}; allowed: {", ".join(splits.SPLITS)}.'
    )
  return reader.read_ladders(reader.shipped(name) / 'shards' / split)
