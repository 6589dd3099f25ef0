"""The outcome table: all paths through many problems, as flat arrays.

A *decision* is a step boundary at which a router chooses a route. An *ending*
is a graded answer with its total cost. Both ladders and reply trees fit into
the table. In a ladder every larger route ends the answer, and the small route
leads to the next decision. The decisions of all problems form one flat
sequence, in which each decision comes before its successors. A network can
therefore score the decisions of all problems in one batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools

import numpy as np

from routing import types


@dataclasses.dataclass(frozen=True)
class Decisions:
  """The observations that a router receives at M decisions.

  features: `[M, F]` float32, not standardised.
  uncertainty: `[M, S]` float32 nats, as `observation.uncertainties`: 0 where no
    step is visible, NaN where the engine returned no log-probabilities.
  depth: `[M]` int32, number of earlier decisions on the path to this one.
  parents: `[M]` int32, index of the previous decision on the path; -1 at the
    first decision of a problem.
  step_scores: `[M]` float64 in [0, 1], what a step scorer says of the newest
    step that is visible, 1 where none is; None = the steps are not scored.
  questions: `[N]` texts, the question of each problem, for routers that read
    it; None = not given.
  """

  features: np.ndarray
  uncertainty: np.ndarray
  depth: np.ndarray
  parents: np.ndarray
  step_scores: np.ndarray | None = None
  questions: tuple[str, ...] | None = None

  @property
  def problem(self) -> np.ndarray:
    """`[M]` int in 0..N-1, the problem of each decision."""
    # The decisions of a problem are adjacent, with the root in front.
    return np.cumsum(self.parents < 0) - 1

  @property
  def max_depth(self) -> int:
    """T, the largest number of decisions on a path."""
    return 1 + int(self.depth.max(initial=-1))

  def path(self) -> np.ndarray:
    """Returns the path from the root to each decision, `[M, T]` int32.

    Row i lists the ancestors of decision i, then i itself in column `depth[i]`,
    then -1.
    """
    path = np.full((len(self.depth), self.max_depth), -1, np.int32)
    for depth in range(self.max_depth):
      here = np.flatnonzero(self.depth == depth)
      # The rows of the parents are complete: shallower levels come first.
      if depth:
        path[here] = path[self.parents[here]]
      path[here, depth] = here
    return path


@dataclasses.dataclass(frozen=True)
class OutcomeTable:
  """N problems with M decisions and L endings, for A routes.

  decisions: the observations at each of the M decisions.
  children: `[M, A]` int32, the result of choosing route a: the index of the
    next decision, or -1 - i for ending i.
  roots: `[N]` int32, the first decision of each problem.
  ending_problem: `[L]` int32 in 0..N-1, ascending.
  ending_correct: `[L]` float32 in [0, 1], share of right samples.
  ending_loss: `[L]` float32 in [0, 1], relative loss: share of samples in which
    the largest model alone is right and this ending is wrong.
  ending_cost: cost metric -> `[L]` float64, fraction of the problem's all-large
    cost (see `large_cost`).
  large_correct: `[N]` float32 in [0, 1], share of right answers of the largest
    model alone.
  large_cost: cost metric -> `[N]` float64 > 0, cost of the largest model alone,
    in the unit of the metric.
  ending_cut: `[L]` float32 in [0, 1], share of samples that the token limit cut
    off; NaN where this was not recorded, None = nowhere recorded.
  large_cut: `[N]` float32, the same of the largest model alone.
  """

  decisions: Decisions
  children: np.ndarray
  roots: np.ndarray
  ending_problem: np.ndarray
  ending_correct: np.ndarray
  ending_loss: np.ndarray
  ending_cost: Mapping[str, np.ndarray]
  large_correct: np.ndarray
  large_cost: Mapping[str, np.ndarray]
  ending_cut: np.ndarray | None = None
  large_cut: np.ndarray | None = None

  @property
  def num_problems(self) -> int:
    """N, the number of problems."""
    return len(self.roots)

  @property
  def num_routes(self) -> int:
    """A, the number of routes."""
    return self.children.shape[1]

  @functools.cached_property
  def problem(self) -> np.ndarray:
    """`[M]` int, the problem of each decision."""
    return self.decisions.problem

  @functools.cached_property
  def ending_gain(self) -> np.ndarray:
    """`[L]` float32 in [0, 1], relative gain of each ending.

    The share of samples in which the ending is right and the paired answer of
    the largest model alone is wrong.
    """
    # For each sample right - right_of_largest = gain - loss, and the shares
    # obey the same identity. `clip` removes rounding errors outside [0, 1].
    alone = self.large_correct[self.ending_problem]
    return np.clip(self.ending_correct - alone + self.ending_loss, 0.0, 1.0)

  def levels(self) -> Iterator[np.ndarray]:
    """Yields the indices of the decisions at depth 0, then at depth 1, etc."""
    for depth in range(self.decisions.max_depth):
      yield np.flatnonzero(self.decisions.depth == depth)


class TableBuilder:
  """Builds an outcome table from decisions and endings, problem by problem.

  Args:
    metrics: names of the cost metrics, in the order of `add_ending`'s costs.
  """

  def __init__(self, metrics: Sequence[str]):
    self._metrics = tuple(metrics)
    self._features, self._uncertainty = [], []
    self._depth, self._parents, self._children = [], [], []
    self._roots, self._large_correct, self._large_cost = [], [], []
    self._ending_problem, self._ending_correct = [], []
    self._ending_loss, self._ending_cost = [], []
    self._ending_cut, self._large_cut = [], []

  def begin_problem(
      self,
      large_correct: float,
      large_cost: Sequence[float] | None = None,
      large_cut: float = np.nan,
  ) -> None:
    """Starts a problem, to which later calls add decisions and endings.

    Args:
      large_correct: in [0, 1], share of right answers of the largest model
        alone.
      large_cost: cost of the largest model alone, one number per metric in the
        metric's unit; None = 1 in every metric.
      large_cut: share of its answers that were cut off; NaN = not recorded.
    """
    if large_cost is None:
      large_cost = np.ones(len(self._metrics))
    self._roots.append(len(self._depth))
    self._large_correct.append(large_correct)
    self._large_cost.append(large_cost)
    self._large_cut.append(large_cut)

  def add_decision(
      self,
      features: np.ndarray,
      uncertainty: Sequence[float],
      num_routes: int,
      parent: tuple[int, int] | None = None,
  ) -> int:
    """Adds a decision of the current problem and returns its index.

    Args:
      features: `[F]`, the observation at this decision.
      uncertainty: `[S]`, the uncertainty scores in nats; see `Decisions`.
      num_routes: A, the number of routes to choose from.
      parent: index of the previous decision and the route chosen there; None =
        this is the first decision of the problem.
    """
    index = len(self._depth)
    self._features.append(features)
    self._uncertainty.append(uncertainty)
    # Placeholders. Later calls put a decision or an ending on every branch.
    self._children.append([0] * num_routes)
    self._parents.append(parent[0] if parent else -1)
    # A parent is added before its children, so the parent's depth is known.
    self._depth.append(self._depth[parent[0]] + 1 if parent else 0)
    if parent:
      self._children[parent[0]][parent[1]] = index
    return index

  def add_ending(
      self,
      parent: tuple[int, int],
      correct: float,
      loss: float,
      costs: Sequence[float],
      cut: float = np.nan,
  ) -> None:
    """Adds an ending: the graded answer after one choice of route.

    Args:
      parent: index of the last decision and the route chosen there.
      correct: in [0, 1], share of right samples.
      loss: in [0, 1], relative loss.
      costs: total cost of the answer, one number per metric, as fractions of
        the problem's all-large cost.
      cut: share of samples that were cut off; NaN = not recorded.
    """
    # Decisions have indices >= 0, endings -1 - index, so that one integer array
    # holds both.
    self._children[parent[0]][parent[1]] = -1 - len(self._ending_correct)
    self._ending_problem.append(len(self._roots) - 1)
    self._ending_correct.append(correct)
    self._ending_loss.append(loss)
    self._ending_cost.append(costs)
    self._ending_cut.append(cut)

  def table(self) -> OutcomeTable:
    """Returns the outcome table of all problems that were added.

    Raises:
      ValueError: if no problem was added.
    """
    if not self._roots:
      raise ValueError('The outcome table has 0 problems; it needs 1 or more.')
    # float64, since costs are summed and compared across metrics; grades and
    # features are float32 to halve the memory.
    cost = np.array(self._ending_cost, np.float64)
    large_cost = np.array(self._large_cost, np.float64)
    return OutcomeTable(
        decisions=Decisions(
            features=np.stack(self._features),
            uncertainty=np.array(self._uncertainty, np.float32),
            depth=np.array(self._depth, np.int32),
            parents=np.array(self._parents, np.int32),
        ),
        children=np.array(self._children, np.int32),
        roots=np.array(self._roots, np.int32),
        ending_problem=np.array(self._ending_problem, np.int32),
        ending_correct=np.array(self._ending_correct, np.float32),
        ending_loss=np.array(self._ending_loss, np.float32),
        ending_cost=dict(zip(self._metrics, cost.T, strict=True)),
        large_correct=np.array(self._large_correct, np.float32),
        large_cost=dict(zip(self._metrics, large_cost.T, strict=True)),
        ending_cut=np.array(self._ending_cut, np.float32),
        large_cut=np.array(self._large_cut, np.float32),
    )


def from_batch(
    batch: types.OutcomeBatch, metric: str = 'price'
) -> OutcomeTable:
  """Converts a padded batch, e.g. from a simulation, to an outcome table.

  Uncertainty scores are 0, because a batch has none.

  Args:
    batch: B problems; features are copied as they are.
    metric: name of the cost metric that `batch.cost` is in.
  """
  builder = TableBuilder([metric])
  starts = np.cumsum([0, *batch.widths])
  num_routes = batch.correct.shape[-1]
  right = np.asarray(batch.correct)
  for row, mask in enumerate(np.asarray(batch.mask)):
    # (level, place within the level) -> index of the decision in the table.
    found: dict[tuple[int, int], int] = {}
    # Choosing the largest route at the first decision keeps no step of another
    # model, so the answer is that of the largest model alone.
    largest = right[row, 0, -1]
    builder.begin_problem(float(largest))
    for level, start in enumerate(starts[:-1]):
      for place in range(batch.widths[level]):
        at = start + place
        # Padding: this problem has fewer decisions in this level than others.
        if not mask[at]:
          continue
        parent = None
        if level:
          # `branch` numbers the branches of the previous level, A per place.
          earlier, route = divmod(int(batch.branch[row, at]), num_routes)
          parent = found[level - 1, earlier], route
        found[level, place] = builder.add_decision(
            np.asarray(batch.features[row, at]), 0.0, num_routes, parent
        )
    _add_endings(builder, batch, row, found)
  return builder.table()


def _add_endings(
    builder: TableBuilder,
    batch: types.OutcomeBatch,
    row: int,
    found: Mapping[tuple[int, int], int],
) -> None:
  """Adds an ending for every branch of one problem that leads to no decision.

  Args:
    builder: receives the endings.
    batch: the padded batch.
    row: the problem's row in the batch.
    found: (level, place) -> index of the decision in the table.
  """
  starts = np.cumsum([0, *batch.widths])
  num_routes = batch.correct.shape[-1]
  # Branches (level, place, route) that lead to another decision.
  has_child = {
      (
          level - 1,
          *divmod(int(batch.branch[row, starts[level] + place]), num_routes),
      )
      for level, place in found
      if level
  }
  for (level, place), decision in found.items():
    for route in range(num_routes):
      if (level, place, route) not in has_child:
        at = row, starts[level] + place, route
        builder.add_ending(
            (decision, route),
            float(batch.correct[at]),
            float(batch.loss[at]),
            [float(batch.cost[at])],
        )
