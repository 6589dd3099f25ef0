"""What a recipe consists of: learners, their training, and their features."""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses

import numpy as np

from routing import protocols
from routing.simulation import history_tree as tree_lib

ESCALATE = (
    protocols.Protocol('escalate', 'peek'),
    protocols.Protocol('escalate', 'commit'),
)
EVERY = (*ESCALATE, protocols.Protocol('switch'), protocols.Protocol('redraft'))


@dataclasses.dataclass(frozen=True)
class Size:
  """How much is trained.

  num_seeds: runs, each with problems and initial weights of its own.
  num_problems: per update where every update draws new problems; otherwise in
    all.
  num_steps: updates, at most.
  """

  num_seeds: int
  num_problems: int
  num_steps: int


# For each level of a history tree: `[seeds, budgets, n, A]` action
# probabilities at its n histories.
Tables = list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Recipe:
  """A way to train policies on simulated processes.

  name: the value of --recipe.
  title: of its page in the documentation.
  learners: (estimator, source of its data, protocols).
  features: one of `simulation.histories.FEATURES`, what the networks observe.
  train: (tree, estimator, source, size, budgets) -> tables.
  full, quick: sizes.
  text: introduction of the page; may contain fields of the result in braces.
  files: source files that rows depend on, besides `routing`. A change of one
    invalidates the finished rows.
  """

  name: str
  title: str
  learners: Sequence[tuple[str, str, Sequence[protocols.Protocol]]]
  features: str
  train: Callable[
      [tree_lib.HistoryTree, str, str, Size, Sequence[float]], Tables
  ]
  full: Size
  quick: Size
  text: str
  files: Sequence[str]
