"""Promises in switch and redraft, counted on rollouts of the simulated process.

Every problem is answered at each threshold of a grid, as calibration with an
engine does. Samples are drawn from many problems with replacement, so the risk
of these problems is the truth. In addition, the off-policy interval is counted,
which needs no engine: it is *broken* if the true loss of a threshold lies
outside it.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import functools

import jax
import numpy as np

from experiments.studies.coverage import counts as counts_lib
from experiments.studies.coverage import data as data_lib
from routing import protocols
from routing.calibration import risks as risks_lib
from routing.outcomes import importance
from routing.simulation import history_tree as tree_lib
from routing.simulation import process as process_lib
from routing.simulation import sampling

NAMES = ('switch', 'redraft')
_GRID_SIZE = 15  # Thresholds, besides both ends.
_CHUNK = 25_000  # Problems simulated at a time; bounds the memory.
_LEAST_EFFECTIVE = 20.0  # Smallest effective sample size of an interval.


@dataclasses.dataclass(frozen=True)
class Rollouts:
  """The outcomes of N distinct problems at each of K thresholds.

  protocol: name of the protocol.
  name, kind: for the tables.
  grid: `[K]` thresholds.
  values: quantity -> `[K, N]`.
  weights: `[N]`, share of each problem; the sum is 1.
  """

  protocol: str
  name: str
  kind: str
  grid: np.ndarray
  values: dict[str, np.ndarray]
  weights: np.ndarray


class Sample(counts_lib.Sample):
  """S samples of n problems, drawn from rollouts whose means are the truth."""

  def __init__(self, case: Rollouts, num_splits: int, size: int, seed: int):
    self.case, self.n, self.seed = case, size, seed
    self.rows = data_lib.draw(case.weights, num_splits, size, seed)
    self.counts = counts_lib.count(self.rows, len(case.weights))
    self.values = case.values
    self.truth = {name: x @ case.weights for name, x in case.values.items()}


@dataclasses.dataclass(frozen=True)
class Routed:
  """A process under a protocol, with a score that is linear in its features."""

  tree: tree_lib.HistoryTree
  weights: np.ndarray

  def score(self, features: np.ndarray) -> np.ndarray:
    """Returns `[...]` scores of `[..., F]` features; higher means hand over."""
    return np.round(np.asarray(features, np.float64) @ self.weights, 6)

  def at(self, threshold: float) -> tree_lib.Policy:
    """Returns the policy that hands over at scores >= `threshold`."""
    scores = [self.score(level.features) for level in self.tree.levels]
    return tree_lib.thresholded(self.tree, scores, threshold)


def routed(name: str) -> Routed:
  """Returns the default process under a protocol, with a fitted score.

  The score approximates how much the loss rises if the small model writes this
  one step and the large model all later ones.
  """
  tree = tree_lib.build(process_lib.Process(), protocols.Protocol(name))
  # Weighted least squares over all histories; the weight of a history is its
  # probability given the step, so rows are scaled by its square root.
  after, seen, targets, shares = None, [], [], []
  for t in reversed(range(len(tree.levels))):
    worth = tree_lib.action_values(tree, t, after)
    level, after = tree.levels[t], worth[:, -1]
    share = level.chance / level.chance.sum()
    seen.append(level.features)
    shares.append(np.sqrt(share))
    targets.append((worth[:, 0, 2] - worth[:, -1, 2]) / level.chance)
  share = np.concatenate(shares)
  seen, targets = np.concatenate(seen), np.concatenate(targets)
  weights = np.linalg.lstsq(share[:, None] * seen, share * targets, rcond=None)[
      0
  ]
  return Routed(tree, weights)


def roll_out(name: str, num: int = 200_000, seed: int = 0) -> Rollouts:
  """Simulates problems, each answered at every threshold of a grid.

  The grid has quantiles of the scores of a behaviour policy on other problems.

  Args:
    name: of the protocol.
    num: problems, a multiple of `_CHUNK`.
    seed: of all draws.
  """
  law = routed(name)
  key = jax.random.fold_in(jax.random.key(seed), NAMES.index(name))
  met = jax.device_get(_behave(law.tree, key, 5_000))
  inner = np.quantile(
      law.score(met.features)[met.mask],
      np.linspace(0, 1, _GRID_SIZE),
      method='lower',
  )
  grid = np.concatenate([[-np.inf], np.unique(inner), [np.inf]])
  roll = jax.jit(
      lambda tree, policy, own: _ends(
          sampling.rollout(tree, sampling.follow(policy), own, _CHUNK)
      )
  )
  policies = [law.at(kappa) for kappa in grid]

  def chunks() -> Iterator[np.ndarray]:
    for k in range(num // _CHUNK):
      # The same key at every threshold: the same problems with the same random
      # draws, as greedy models would answer them.
      own = jax.random.fold_in(key, 1 + k)
      yield np.concatenate(
          [jax.device_get(roll(law.tree, x, own)) for x in policies], 1
      )

  kept, rows = data_lib.distinct(chunks())
  correct, cost, loss = np.moveaxis(kept.reshape(len(kept), -1, 3), 2, 0)
  values = {'correct': correct.T, 'cost': cost.T, 'loss': loss.T}
  values['paid'] = np.minimum(values['cost'], counts_lib.COST_CAP)
  shares = np.bincount(rows, minlength=len(kept)) / len(rows)
  return Rollouts(name, f'simulated {name}', 'simulated', grid, values, shares)


def _ends(batch) -> jax.Array:
  """Returns correctness, total cost and loss of each trajectory, `[B, 3]`."""
  return jax.numpy.stack(
      [batch.correct, batch.costs.sum(axis=1), batch.loss], axis=1
  )


def intervals(
    name: str,
    risks: Sequence[risks_lib.Risk],
    num_splits: int,
    size: int,
    seed: int,
) -> list[counts_lib.Verdict]:
  """Returns the verdict on the off-policy interval of the loss, per risk.

  The interval is computed at the cheapest threshold whose true loss is within
  the level of the risk.

  Args:
    name: of the protocol.
    risks: their delta is that of the interval.
    num_splits, size: S samples of n trajectories, one per problem.
    seed: of all draws.
  """
  law = routed(name)
  grid = np.unique(law.score(law.tree.levels[-1].features))
  grid = np.concatenate([[-np.inf], grid[:: max(len(grid) // 40, 1)]])
  truth = [tree_lib.evaluate(law.tree, law.at(kappa)) for kappa in grid]
  loss = np.array([x.loss for x in truth])
  chosen = [np.flatnonzero(loss <= x.level)[-1] for x in risks]
  key = jax.random.key(seed)
  shape = len(risks), num_splits
  broken, refused = np.zeros(shape, bool), np.zeros(shape, bool)
  for s in range(num_splits):
    batch = jax.device_get(_behave(law.tree, jax.random.fold_in(key, s), size))
    scores = law.score(batch.features)
    for r, (risk, k) in enumerate(zip(risks, chosen, strict=True)):
      try:
        found = importance.estimate(
            scores,
            batch,
            grid[k : k + 1],
            delta=risk.delta,
            min_effective_size=_LEAST_EFFECTIVE,
        )
      except ValueError:  # The effective sample size is too small.
        refused[r, s] = True
        continue
      broken[r, s] = not found.lower.loss[0] <= loss[k] <= found.upper.loss[0]
  # An interval chooses no point, so there is no cost to compare.
  unpriced = np.full(num_splits, np.nan)
  return [
      counts_lib.Verdict(broken[r], refused[r], unpriced, np.nan)
      for r in range(len(risks))
  ]


@functools.partial(jax.jit, static_argnums=2)
def _behave(tree, key, num):
  """Rolls out `num` trajectories of the behaviour policy with random rates."""
  rates, rolling = jax.random.split(key)
  behaviour = sampling.random_rates(tree.process, rates, num)
  return sampling.rollout(tree, behaviour, rolling, num)
