"""Trees of many problems as arrays: what any router sees, and what it gets.

Decisions of all problems stand in one row, each before those that follow it, so
that a network scores them all at once; branches are indices. With them the
outcome of a router on each problem is a walk of look-ups.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses

import chex
import numpy as np

from routing import costs
from routing import types
from routing.features import observation
from routing.features import standardize
from routing.rollout import trees


@dataclasses.dataclass(frozen=True)
class Forest:
  """N trees of M decisions and L leaves, A routes.

  features: `[M, F]` float32, the observation at each decision; not
    standardised.
  children: `[M, A]` int32, what follows when route a is named: the index of a
    decision or, for a leaf, -1 minus its index.
  roots: `[N]` int32, the first decision of each problem.
  depth: `[M]` int32, number of decisions before.
  parents: `[M]` int32, the decision before; -1 = none.
  doubt: `[M]` float32 nats, minus the least log-probability on view; 0 where
    there is none.
  leaf_problem: `[L]` int32 in 0..N-1, ascending.
  leaf_correct: `[L]` float32 in {0, 1}.
  leaf_cost: ruler -> `[L]` float64, fraction of the problem's all-large cost.
  alone: `[N]` float32 in {0, 1}, the largest model alone is right.
  """

  features: np.ndarray
  children: np.ndarray
  roots: np.ndarray
  depth: np.ndarray
  parents: np.ndarray
  doubt: np.ndarray
  leaf_problem: np.ndarray
  leaf_correct: np.ndarray
  leaf_cost: dict[str, np.ndarray]
  alone: np.ndarray

  @property
  def num_problems(self) -> int:
    """N."""
    return len(self.roots)

  @property
  def max_depth(self) -> int:
    """T, decisions at most."""
    return 1 + int(self.depth.max())

  def path(self) -> np.ndarray:
    """`[M, T]` int32, the decisions up to each, itself at `depth`; -1 after."""
    path = np.full((len(self.depth), self.max_depth), -1, np.int32)
    for depth in range(self.max_depth):
      here = np.flatnonzero(self.depth == depth)
      if depth:
        path[here] = path[self.parents[here]]
      path[here, depth] = here
    return path


def forest(
    source: Iterable[trees.Tree],
    config: observation.FeatureConfig,
    accounting: costs.Accounting,
) -> Forest:
  """Turns trees into arrays, one tree at a time.

  Args:
    source: N >= 1 trees; they may be made on the way, and are not kept.
    config: what is observed.
    accounting: what a router is told it has spent, and who costs what.

  Raises:
    ValueError: naming the problem, if an observation cannot be made, or the
      largest model alone costs nothing.
  """
  rows = _Rows(config, accounting)
  for tree in source:
    rows.add(tree)
  return rows.forest()


class _Rows:
  """The lists that become a `Forest`."""

  def __init__(
      self, config: observation.FeatureConfig, accounting: costs.Accounting
  ):
    self._config, self._accounting = config, accounting
    self._costs: dict[types.Usage, np.ndarray] = {}
    self._features, self._doubt = [], []
    self._children, self._parents, self._depth = [], [], []
    self._roots, self._alone = [], []
    self._leaf_problem, self._leaf_correct, self._leaf_cost = [], [], []

  def add(self, tree: trees.Tree) -> None:
    """Appends the decisions and leaves of one problem."""
    all_large = self._all_large(tree)
    self._roots.append(len(self._depth))
    self._alone.append(tree.reference.is_correct)
    # (what follows, where it is named: (decision, route)).
    pending = [(tree.root, None)]
    while pending:
      what, place = pending.pop()
      if isinstance(what, trees.Leaf):
        index = -1 - len(self._leaf_correct)
        self._leaf_problem.append(len(self._roots) - 1)
        self._leaf_correct.append(what.is_correct)
        self._leaf_cost.append(self._paid(what.calls) / all_large)
      else:
        index = len(self._depth)
        self._observe(tree.problem, what)
        self._children.append([0] * len(what.branches))
        self._parents.append(place[0] if place else -1)
        self._depth.append(len(what.steps))
        branches = enumerate(what.branches)
        pending += [(x, (index, a)) for a, x in reversed(list(branches))]
      if place:
        self._children[place[0]][place[1]] = index

  def forest(self) -> Forest:
    """All that was added.

    Raises:
      ValueError: if nothing was.
    """
    if not self._roots:
      raise ValueError('There are no trees; at least 1 is needed.')
    leaf_cost = np.array(self._leaf_cost)
    return Forest(
        features=np.stack(self._features),
        children=np.array(self._children, np.int32),
        roots=np.array(self._roots, np.int32),
        depth=np.array(self._depth, np.int32),
        parents=np.array(self._parents, np.int32),
        doubt=np.array(self._doubt, np.float32),
        leaf_problem=np.array(self._leaf_problem, np.int32),
        leaf_correct=np.array(self._leaf_correct, np.float32),
        leaf_cost=dict(zip(costs.RULERS, leaf_cost.T, strict=True)),
        alone=np.array(self._alone, np.float32),
    )

  def _observe(self, problem: types.Problem, node: trees.Node) -> None:
    ruler = costs.RULERS.index(self._accounting.ruler)
    spent = self._paid(node.calls)[ruler] / self._accounting.reference
    trace = types.Trace(problem.question, node.steps, node.draft, float(spent))
    fresh = (*node.steps[-1:], *([node.draft] if node.draft else ()))
    try:
      observation.check_log_probs(fresh, len(node.steps[:-1]))
      self._features.append(observation.observe(trace, self._config))
    except ValueError as error:
      raise ValueError(f'Problem {problem.id}: {error}') from error
    viewed = observation.viewed_step(trace)
    has_none = viewed is None or not len(viewed.log_probs)
    self._doubt.append(0.0 if has_none else -float(viewed.log_probs.min()))

  def _paid(self, calls: Sequence[types.Usage]) -> np.ndarray:
    """`[rulers]` float64, in each ruler's unit."""
    return sum(map(self._cost, calls), np.zeros(len(costs.RULERS)))

  def _cost(self, usage: types.Usage) -> np.ndarray:
    """Of one call; the same call stands on many ways."""
    if usage not in self._costs:
      spec = self._accounting.specs[usage.route]
      self._costs[usage] = np.array(
          [float(costs.call_cost(usage, spec, x)) for x in costs.RULERS]
      )
    return self._costs[usage]

  def _all_large(self, tree: trees.Tree) -> np.ndarray:
    specs = self._accounting.specs
    cost = np.array(
        [costs.completion_cost(tree.reference, specs, x) for x in costs.RULERS]
    )
    if not (cost > 0).all():
      raise ValueError(
          f'Problem {tree.problem.id}: the all-large cost is {cost.tolist()} '
          f'in the rulers {", ".join(costs.RULERS)}; it must be positive.'
      )
    return cost


@chex.dataclass(frozen=True)
class TreeBatch:
  """Trees as arrays: D = 1 + A + ... + A^(T-1) places for decisions.

  features: `[B, D, F]` float32, the observation at each decision.
  mask: `[B, D]` bool, the decision exists.
  correct, cost, loss: `[B, D, A]` float32, of the answer that naming route a
    there ends in; 0 where it leads to another decision, or does not exist. Cost
    is a fraction of all-large.
  """

  features: chex.Array
  mask: chex.Array
  correct: chex.Array
  cost: chex.Array
  loss: chex.Array


def num_places(num_routes: int, num_steps: int) -> int:
  """D of a `TreeBatch`."""
  return sum(num_routes**depth for depth in range(num_steps))


def tree_batch(
    forest: Forest,
    statistics: standardize.Statistics,
    ruler: str,
    num_steps: int,
) -> TreeBatch:
  """A forest as padded trees of `num_steps` decisions a way.

  Args:
    forest: of N problems.
    statistics: of the features.
    ruler: of the costs.
    num_steps: T; at least `forest.max_depth`.

  Returns:
    NumPy arrays, B = N; features are standardised, padding is 0.

  Raises:
    ValueError: if a way is longer.
  """
  if forest.max_depth > num_steps:
    raise ValueError(
        f'A tree has {forest.max_depth} decisions in a row; allowed: '
        f'{num_steps}.'
    )
  num_routes = forest.children.shape[1]
  shape = len(forest.roots), num_places(num_routes, num_steps)
  places = heap_places(forest)
  problem = np.cumsum(forest.parents < 0) - 1
  at = problem, places
  features = np.zeros((*shape, forest.features.shape[1]), np.float32)
  features[at] = standardize.apply(forest.features, statistics)
  mask = np.zeros(shape, bool)
  mask[at] = True
  ends = forest.children < 0
  leaf = np.where(ends, -1 - forest.children, 0)
  right = forest.leaf_correct[leaf]
  alone = forest.alone[problem][:, None]
  fields = {}
  for name, values in (
      ('correct', right),
      ('cost', forest.leaf_cost[ruler][leaf]),
      ('loss', alone * (1 - right)),
  ):
    fields[name] = np.zeros((*shape, num_routes), np.float32)
    fields[name][at] = np.where(ends, values, 0.0)
  return TreeBatch(features=features, mask=mask, **fields)


def heap_places(forest: Forest) -> np.ndarray:
  """`[M]` int, where each decision stands in its problem's heap."""
  num_routes = forest.children.shape[1]
  places = np.zeros(len(forest.depth), np.int64)
  for depth in range(forest.max_depth):
    here = np.flatnonzero(forest.depth == depth)
    for route in range(num_routes):
      child = forest.children[here, route]
      inner = child >= 0
      places[child[inner]] = num_routes * places[here[inner]] + 1 + route
  return places
