"""What a recipe says: which learners, trained how, seen as what."""

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

  num_seeds: runs, each with its own problems and weights.
  num_problems: of one update that makes up its own, or to train on in all.
  num_steps: updates, at most.
  """

  num_seeds: int
  num_problems: int
  num_steps: int


# For each level `[seeds, budgets, n, A]`, the chances of the actions.
Tables = list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Recipe:
  """A way to train.

  name: as in the command.
  title: of its page.
  learners: estimator, whose problems or trajectories it learns from, and the
    protocols.
  features: of `simulation.histories.FEATURES`, what networks are shown.
  train: (tree, estimator, source, size, budgets) -> tables.
  full, quick: sizes.
  text: for the page, what is trained how; may name fields of the result.
  files: whose content rows depend on, besides `routing`.
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
