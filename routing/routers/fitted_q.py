"""Fitted Q-iteration: the supervised baseline that knows cost and waiting.

An answer is worth correct - price * cost. The value of a branch is what it
brings if the current rule decides from there on, and a regression on the
policy's own features learns how much more a larger route is worth than the
small one. The better rule that follows decides in the next sweep, and so forth.

From known outcomes the targets are values *realised* under the rule, and
predictions only choose (as Longstaff and Schwartz do for optimal stopping), so
errors do not add up. From trajectories only the branch that was taken is known:
there one regression for each route has the target cost now plus the predicted
best value after, the plain form.

One regression serves all depths, with the step's index among its features:
deep decisions are too few to learn from alone.

Sources: Ernst, Geurts and Wehenkel 2005, "Tree-Based Batch Mode Reinforcement
Learning"; Longstaff and Schwartz 2001, "Valuing American Options by
Simulation".
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from routing.features import observation
from routing.outcomes import sources
from routing.outcomes import table as table_lib
from routing.routers import families

# Correct answers per unit of cost, the cost of one large answer.
PRICES = (0.3, 0.6, 1.0, 1.6)
NUM_SWEEPS = 3
MAX_TREE_ROWS = 60_000  # Decisions that trees are fitted on, whole problems.
_CHUNK = 16_384

RIDGE_SETTINGS = tuple(
    dict(penalty=penalty) for penalty in (0.1, 0.03, 0.3, 0.01, 1.0, 0.003)
)
TREE_SETTINGS = (
    dict(max_iter=60, learning_rate=0.1, max_leaf_nodes=12),
    dict(max_iter=40, learning_rate=0.1, max_leaf_nodes=6),
    dict(max_iter=120, learning_rate=0.05, max_leaf_nodes=8),
    dict(max_iter=80, learning_rate=0.1, max_leaf_nodes=20),
    dict(max_iter=120, learning_rate=0.1, max_leaf_nodes=4),
    dict(max_iter=40, learning_rate=0.15, max_leaf_nodes=12),
)

Predict = Callable[[np.ndarray], np.ndarray]  # `[M, F]` to `[M]`.
Fit = Callable[[np.ndarray], Predict]  # Targets `[M]` to a prediction.


@dataclasses.dataclass(frozen=True)
class Advantage:
  """How much more each larger route is worth than the small one.

  larger: of each larger route the predicted advantage.
  """

  larger: Sequence[Predict]

  def score(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`[M]` the greatest advantage, and `[M]` the route that has it."""
    values = np.stack([predict(features) for predict in self.larger], axis=-1)
    return values.max(axis=-1), 1 + values.argmax(axis=-1)


@dataclasses.dataclass(frozen=True)
class Difference:
  """A prediction minus another one."""

  minuend: Predict
  subtrahend: Predict

  def __call__(self, features: np.ndarray) -> np.ndarray:
    """`[M]` from `[M, F]`."""
    return self.minuend(features) - self.subtrahend(features)


@dataclasses.dataclass(frozen=True)
class Line:
  """A linear prediction: weights `[F]` float64, and a constant."""

  weights: np.ndarray
  constant: float

  def __call__(self, features: np.ndarray) -> np.ndarray:
    """`[M]` float64 from `[M, F]`."""
    return features.astype(np.float32) @ self.weights + self.constant


def ridge(features: np.ndarray, penalty: float) -> Fit:
  """A ridge regression whose features are factored once, for many targets.

  Args:
    features: `[M, F]` float32; standardised here.
    penalty: per observation, in units of a standardised feature's variance.
  """
  mean = features.mean(axis=0, dtype=np.float64)
  gram = np.zeros((features.shape[1],) * 2)
  for start in range(0, len(features), _CHUNK):
    centred = features[start : start + _CHUNK] - mean.astype(np.float32)
    gram += centred.T @ centred
  scale = np.sqrt(np.maximum(np.diag(gram) / len(features), 1e-12))
  gram /= np.outer(scale, scale)
  gram[np.diag_indices_from(gram)] += penalty * len(features)
  from scipy import linalg

  factor = linalg.cho_factor(gram, overwrite_a=True)

  def fit(targets: np.ndarray) -> Line:
    middle = targets.mean()
    moment = np.zeros(features.shape[1])
    for start in range(0, len(features), _CHUNK):
      rows = slice(start, start + _CHUNK)
      residual = (targets[rows] - middle).astype(np.float32)
      moment += residual @ (features[rows] - mean.astype(np.float32))
    weights = linalg.cho_solve(factor, moment / scale) / scale
    return Line(weights, float(middle - mean @ weights))

  return fit


def boosted(features: np.ndarray, setting: Mapping[str, Any], seed: int) -> Fit:
  """Gradient boosting of regression trees on `[M, F]` features."""
  from sklearn import ensemble

  def fit(targets: np.ndarray) -> Predict:
    model = ensemble.HistGradientBoostingRegressor(
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
        **setting,
    )
    return model.fit(features, targets).predict

  return fit


def fit_linear(
    data: table_lib.OutcomeTable | sources.Recorded,
    *,
    metric: str,
    features: observation.FeatureConfig,
    setting: Mapping[str, Any],
    seed: int,
) -> list[families.Scored]:
  """Fitted Q with a ridge regression; see `learners.Learner.fit`."""
  del seed  # Nothing is drawn.
  make = lambda rows: ridge(rows, setting['penalty'])
  return _fit(data, metric, features, make, None)


def fit_trees(
    data: table_lib.OutcomeTable | sources.Recorded,
    *,
    metric: str,
    features: observation.FeatureConfig,
    setting: Mapping[str, Any],
    seed: int,
) -> list[families.Scored]:
  """Fitted Q with boosted trees; see `learners.Learner.fit`.

  Of more than `MAX_TREE_ROWS` decisions it is fitted on a random share of the
  problems; known values are realised on all.
  """
  make = lambda rows: boosted(rows, setting, seed)
  return _fit(data, metric, features, make, np.random.default_rng(seed))


def _fit(data, metric, features, make, rng) -> list[families.Scored]:
  """One family for each price."""
  if isinstance(data, table_lib.OutcomeTable):
    learn = _Known(data, metric, make, rng)
  else:
    learn = _Recorded(data, metric, make, rng)
  return [
      families.Scored(learn(price), features, features.num_routes - 1)
      for price in PRICES
  ]


class _Known:
  """Fitted Q where both branches of every decision are known."""

  def __init__(self, table, metric, make, rng):
    self._table = table
    self._correct = table.ending_correct.astype(np.float64)
    self._cost = table.ending_cost[metric]
    self._levels = list(table.levels())[::-1]
    features = table.decisions.features
    self._rows = _share(table.problem, rng)
    self._fit = make(features[self._rows])
    self._chunks = [
        slice(start, start + _CHUNK)
        for start in range(0, len(features), _CHUNK)
    ]

  def __call__(self, price: float) -> Advantage:
    reward = self._correct - price * self._cost
    action = np.zeros(len(self._table.children), np.int64)
    for _ in range(NUM_SWEEPS):
      values = self._branch_values(reward, action)
      gains = values[:, 1:] - values[:, :1]
      rule = Advantage([self._fit(x[self._rows]) for x in gains.T])
      for rows in self._chunks:
        score, route = rule.score(self._table.decisions.features[rows])
        action[rows] = np.where(score >= 0, route, 0)
    return rule

  def _branch_values(self, reward, action) -> np.ndarray:
    """`[M, A]` what each branch brings if `action` decides afterwards."""
    children = self._table.children
    values = np.zeros(children.shape)
    realised = np.zeros(len(children))
    for here in self._levels:
      child = children[here]
      values[here] = np.where(
          child < 0,
          reward[np.maximum(-1 - child, 0)],
          realised[np.maximum(child, 0)],
      )
      realised[here] = values[here, action[here]]
    return values


def _share(problem: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
  """Decisions of whole problems, about `MAX_TREE_ROWS` at most.

  Without a generator it is all of them.
  """
  if rng is None or len(problem) <= MAX_TREE_ROWS:
    return np.arange(len(problem))
  num = int(problem[-1]) + 1
  kept = rng.random(num) < MAX_TREE_ROWS / len(problem)
  return np.flatnonzero(kept[problem])


class _Recorded:
  """Fitted Q from the branches that a behaviour policy took."""

  def __init__(self, data, metric, make, rng):
    batch = data.in_metric(metric)
    mask = np.asarray(batch.mask, bool)
    owner = np.broadcast_to(data.owner[:, None], mask.shape)[mask]
    # Whole problems, so that what follows a decision is always there.
    kept = _share(owner, rng)
    chosen = lambda values: np.asarray(values)[mask][kept]
    self._features = chosen(batch.features)
    self._actions = chosen(batch.actions)
    self._costs = chosen(batch.costs).astype(np.float64)
    ends = mask.copy()
    ends[:, :-1] &= ~mask[:, 1:]
    self._ends = chosen(ends)
    right = np.broadcast_to(np.asarray(batch.correct)[:, None], mask.shape)
    self._correct = chosen(right).astype(np.float64)
    self._num_sweeps = mask.shape[1]
    self._fits = []
    for route in range(batch.available.shape[-1]):
      rows = np.flatnonzero(self._actions == route)
      if not rows.size:
        raise ValueError(
            f'No trajectory names route {route}: its value cannot be learnt.'
        )
      self._fits.append((rows, make(self._features[rows])))

  def __call__(self, price: float) -> Advantage:
    after = np.zeros(len(self._actions))
    for _ in range(self._num_sweeps):
      targets = -price * self._costs + np.where(
          self._ends, self._correct, after
      )
      values = [fit(targets[rows]) for rows, fit in self._fits]
      best = np.max([predict(self._features) for predict in values], axis=0)
      after[:-1] = best[1:]
    return Advantage([Difference(x, values[0]) for x in values[1:]])
