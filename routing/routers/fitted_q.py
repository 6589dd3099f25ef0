"""Fitted Q-iteration: a supervised baseline that knows cost and waiting.

The reward of an answer is correct - price * cost. A rule chooses a route at
each decision. The value of a branch is its expected reward if the current rule
makes all later decisions. A regression on the learned policy's features
predicts the advantage of each larger route over the small route. The improved
rule takes the route of the greatest positive advantage, and is the current rule
of the next sweep.

With known outcomes the targets are values *realised* under the rule;
predictions only choose the actions, as in Longstaff and Schwartz's optimal
stopping, so regression errors do not accumulate. With trajectories only the
branch that was taken is known. Each route then has its own regression, whose
target is the predicted best value of the next decision minus price times the
cost of the step (plain fitted Q-iteration).

One regression serves all depths, with the step index among its features,
because there are too few deep decisions to fit one at each depth.

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
from routing.routers import boosted_trees
from routing.routers import families

# Correct answers per unit of cost; one unit is the cost of the largest model
# alone. Each price gives one policy, and all thresholds of all prices form the
# curve.
PRICES = (0.3, 0.6, 1.0, 1.6)
NUM_SWEEPS = 3
MAX_TREE_ROWS = 60_000  # Decisions per fit of boosted trees; bounds the time.
_CHUNK = 16_384  # Decisions per block of arithmetic; bounds the memory.

# Trials take settings from the front, so the most plausible ones come first.
RIDGE_SETTINGS = tuple(
    dict(penalty=penalty) for penalty in (0.1, 0.03, 0.3, 0.01, 1.0, 0.003)
)
TREE_SETTINGS = (
    dict(num_iterations=60, learning_rate=0.1, num_leaves=12),
    dict(num_iterations=40, learning_rate=0.1, num_leaves=6),
    dict(num_iterations=120, learning_rate=0.05, num_leaves=8),
    dict(num_iterations=80, learning_rate=0.1, num_leaves=20),
    dict(num_iterations=120, learning_rate=0.1, num_leaves=4),
    dict(num_iterations=40, learning_rate=0.15, num_leaves=12),
)

# A regression: from `[M, F]` features to `[M]` predictions.
Predict = Callable[[np.ndarray], np.ndarray]
# Fits a regression to `[M]` targets; the features were given before.
Fit = Callable[[np.ndarray], Predict]


@dataclasses.dataclass(frozen=True)
class Advantage:
  """The predicted advantage of each larger route over the small route.

  larger: one regression of the advantage for each larger route, 1 to A - 1.
  """

  larger: Sequence[Predict]

  def score(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the greatest advantage and the route that has it, `[M]` each."""
    values = np.stack([predict(features) for predict in self.larger], axis=-1)
    return values.max(axis=-1), 1 + values.argmax(axis=-1)


@dataclasses.dataclass(frozen=True)
class Difference:
  """The difference of two regressions, e.g. an advantage from two values."""

  minuend: Predict
  subtrahend: Predict

  def __call__(self, features: np.ndarray) -> np.ndarray:
    """Returns the `[M]` differences at `[M, F]` features."""
    return self.minuend(features) - self.subtrahend(features)


@dataclasses.dataclass(frozen=True)
class Line:
  """A linear regression.

  weights: `[F]` float64.
  constant: the intercept.
  """

  weights: np.ndarray
  constant: float

  def __call__(self, features: np.ndarray) -> np.ndarray:
    """Returns the `[M]` float64 predictions at `[M, F]` features."""
    return features.astype(np.float32) @ self.weights + self.constant


def ridge(features: np.ndarray, penalty: float) -> Fit:
  """Returns a function that fits a ridge regression to any targets.

  The matrix of the features is factored here, once for all targets.

  Args:
    features: `[M, F]` float32; this function standardises them.
    penalty: ridge penalty per observation, in units of the variance of a
      standardised feature.
  """
  mean = features.mean(axis=0, dtype=np.float64)
  # With D = diag(scale), X the centred features and G = X^T X, standardised
  # weights v solve (D^-1 G D^-1 + penalty M I) v = D^-1 X^T y; the weights of
  # the raw features are D^-1 v. X is never standardised in memory.
  gram = np.zeros((features.shape[1],) * 2)
  for start in range(0, len(features), _CHUNK):
    centred = features[start : start + _CHUNK] - mean.astype(np.float32)
    gram += centred.T @ centred
  # The floor prevents division by zero for a constant feature. The weight of
  # such a feature is 0, since its product with the targets is 0.
  scale = np.sqrt(np.maximum(np.diag(gram) / len(features), 1e-12))
  gram /= np.outer(scale, scale)
  gram[np.diag_indices_from(gram)] += penalty * len(features)
  from scipy import linalg

  # The penalty makes the matrix positive definite. It is factored once, since
  # every sweep, price and route solves with the same matrix.
  factor = linalg.cho_factor(gram, overwrite_a=True)

  def fit(targets: np.ndarray) -> Line:
    middle = targets.mean()
    moment = np.zeros(features.shape[1])
    for start in range(0, len(features), _CHUNK):
      rows = slice(start, start + _CHUNK)
      residual = (targets[rows] - middle).astype(np.float32)
      # Products are summed in float32 within a block and in float64 over
      # blocks, which bounds the rounding error.
      moment += residual @ (features[rows] - mean.astype(np.float32))
    weights = linalg.cho_solve(factor, moment / scale) / scale
    return Line(weights, float(middle - mean @ weights))

  return fit


def fit_linear(
    data: table_lib.OutcomeTable | sources.Recorded,
    *,
    metric: str,
    features: observation.FeatureConfig,
    setting: Mapping[str, Any],
    seed: int,
) -> list[families.Scored]:
  """Runs fitted Q-iteration with ridge regression; see `Learner.fit`."""
  del seed  # Ridge regression is deterministic.
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
  """Runs fitted Q-iteration with boosted trees; see `Learner.fit`.

  With more than `MAX_TREE_ROWS` decisions, the trees are fitted on a random
  sample of whole problems. If outcomes are known, the values that a rule
  realises are still computed on all problems.
  """
  make = lambda rows: boosted_trees.learner(rows, setting, 'regression')
  return _fit(data, metric, features, make, np.random.default_rng(seed))


def _fit(data, metric, features, make, rng) -> list[families.Scored]:
  """Returns one router family for each price in `PRICES`.

  Args:
    data: an outcome table, or recorded trajectories.
    metric: cost metric.
    features: the features that live routers compute.
    make: returns a `Fit`, given `[M, F]` features.
    rng: draws the problems to fit on; None = all problems.
  """
  if isinstance(data, table_lib.OutcomeTable):
    learn = _Known(data, metric, make, rng)
  else:
    learn = _Recorded(data, metric, make, rng)
  return [
      families.Scored(learn(price), features, features.num_routes - 1)
      for price in PRICES
  ]


class _Known:
  """Fitted Q-iteration where the outcomes of all branches are known."""

  def __init__(self, table, metric, make, rng):
    self._table = table
    self._correct = table.ending_correct.astype(np.float64)
    self._cost = table.ending_cost[metric]
    # The deepest level comes first: the value of a decision needs the values of
    # the decisions that follow.
    self._levels = list(table.levels())[::-1]
    features = table.decisions.features
    self._rows = _sample_problems(table.problem, rng)
    self._fit = make(features[self._rows])
    self._chunks = [
        slice(start, start + _CHUNK)
        for start in range(0, len(features), _CHUNK)
    ]

  def __call__(self, price: float) -> Advantage:
    """Runs `NUM_SWEEPS` sweeps at one price and returns the last rule."""
    reward = self._correct - price * self._cost
    # The first rule never hands over.
    action = np.zeros(len(self._table.children), np.int64)
    for _ in range(NUM_SWEEPS):
      values = self._branch_values(reward, action)
      gains = values[:, 1:] - values[:, :1]
      rule = Advantage([self._fit(x[self._rows]) for x in gains.T])
      for rows in self._chunks:
        score, route = rule.score(self._table.decisions.features[rows])
        # The rule acts at all decisions, not only at those it was fitted on,
        # because the next sweep realises values under it.
        action[rows] = np.where(score >= 0, route, 0)
    return rule

  def _branch_values(self, reward, action) -> np.ndarray:
    """Returns the realised value of each branch, `[M, A]`.

    Args:
      reward: `[L]`, the reward of each ending.
      action: `[M]` int, the route that the current rule takes at each decision.
    """
    children = self._table.children
    values = np.zeros(children.shape)
    realised = np.zeros(len(children))
    for here in self._levels:
      child = children[here]
      # A negative child -1 - i is ending i. `maximum` keeps both look-ups in
      # range; `where` discards the entries of the wrong kind.
      values[here] = np.where(
          child < 0,
          reward[np.maximum(-1 - child, 0)],
          realised[np.maximum(child, 0)],
      )
      realised[here] = values[here, action[here]]
    return values


def _sample_problems(
    problem: np.ndarray, rng: np.random.Generator | None
) -> np.ndarray:
  """Returns the decisions of a random sample of problems, as `int` indices.

  About `MAX_TREE_ROWS` decisions are returned, or all if there are fewer.

  Args:
    problem: `[M]` int, ascending, the problem of each decision.
    rng: draws the problems; None = all problems.
  """
  if rng is None or len(problem) <= MAX_TREE_ROWS:
    return np.arange(len(problem))
  num_problems = int(problem[-1]) + 1
  is_sampled = rng.random(num_problems) < MAX_TREE_ROWS / len(problem)
  return np.flatnonzero(is_sampled[problem])


class _Recorded:
  """Fitted Q-iteration on the branches that a behaviour policy took."""

  def __init__(self, data, metric, make, rng):
    batch = data.in_metric(metric)
    mask = np.asarray(batch.mask, bool)
    owner = np.broadcast_to(data.owner[:, None], mask.shape)[mask]
    # Whole problems are sampled, so that the decision after a sampled one is
    # sampled too: `__call__` reads the value of that decision in the next row.
    rows = _sample_problems(owner, rng)
    chosen = lambda values: np.asarray(values)[mask][rows]
    self._features = chosen(batch.features)
    self._actions = chosen(batch.actions)
    self._costs = chosen(batch.costs).astype(np.float64)
    # True at the last decision of each trajectory.
    ends = mask.copy()
    ends[:, :-1] &= ~mask[:, 1:]
    self._ends = chosen(ends)
    right = np.broadcast_to(np.asarray(batch.correct)[:, None], mask.shape)
    self._correct = chosen(right).astype(np.float64)
    # Values move back by one decision in each sweep, so T sweeps carry a grade
    # to the first decision.
    self._num_sweeps = mask.shape[1]
    self._fits = []
    for route in range(batch.available.shape[-1]):
      taken = np.flatnonzero(self._actions == route)
      if not taken.size:
        raise ValueError(
            f'No trajectory chooses route {route}, so its value cannot be '
            'learnt; collect with a behaviour policy that chooses it.'
        )
      self._fits.append((taken, make(self._features[taken])))

  def __call__(self, price: float) -> Advantage:
    """Runs the sweeps at one price and returns the last rule.

    The target of the route taken at a decision is -price * cost + V(next). At
    the last decision, the grade of the answer takes the place of V(next).
    """
    after = np.zeros(len(self._actions))
    for _ in range(self._num_sweeps):
      targets = -price * self._costs + np.where(
          self._ends, self._correct, after
      )
      values = [fit(targets[rows]) for rows, fit in self._fits]
      best = np.max([predict(self._features) for predict in values], axis=0)
      # The next row holds the next decision of the trajectory. At a last
      # decision it belongs to another trajectory; `self._ends` ignores it.
      after[:-1] = best[1:]
    return Advantage([Difference(x, values[0]) for x in values[1:]])
