"""The best that any policy can do under a constraint, and the best of chance.

The values that policies reach, with a coin tossed once to choose among them,
are a convex set whose corners are deterministic policies. The best value under
a constraint therefore lies on an edge: a mixture of two policies that are both
best for the same multiplier, one on either side of the level. The multiplier is
found by walking from the two ends towards the edge, each step exact, so there
is no grid and nothing to tune.

Sources: Altman, "Constrained Markov Decision Processes" (1999), ch. 3; the walk
is that of Eisner and Severance 1976 for parametric linear programs.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from routing.simulation import history_tree as tree_lib

# What is maximised and what is held down, as weights of `tree.Values`.
FORMS = {
    'budget': ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    'reliability': ((0.0, -1.0, 0.0), (0.0, 0.0, 1.0)),
}
_TOLERANCE = 1e-12


@dataclasses.dataclass(frozen=True)
class Optimum:
  """The solution of a constrained problem.

  multiplier: >= 0, what a unit of the constraint is worth; 0 if it is slack.
  values: what is expected of `policy`.
  policy: as chances of actions; at most where two policies meet is it a coin.
    It knows of no coin tossed before, and reaches the same values.
  """

  multiplier: float
  values: tree_lib.Values
  policy: list[np.ndarray]


def solve(
    tree: tree_lib.HistoryTree, level: float, *, form: str = 'budget'
) -> Optimum:
  """The best policy of all whose constraint is met.

  Args:
    tree: of a process under a protocol.
    level: budget (cost fraction), or alpha (relative loss).
    form: 'budget', highest accuracy at cost <= level; or 'reliability', lowest
      cost at relative loss <= level.

  Raises:
    ValueError: if there is no such form, or no policy meets the level.
  """
  if form not in FORMS:
    raise ValueError(f'Unknown form {form!r}; allowed: {", ".join(FORMS)}.')
  gain, charge = map(np.asarray, FORMS[form])
  within, beyond = tree_lib.respond(tree, -charge), tree_lib.respond(tree, gain)
  if charge @ within[1] > level + _TOLERANCE:
    raise ValueError(
        f'No policy has {form} level {level:g}; the least is '
        f'{charge @ within[1]:.4g}.'
    )
  if charge @ beyond[1] <= level:
    return Optimum(0.0, beyond[1], beyond[0])
  while True:
    rise, run = (x @ np.subtract(beyond[1], within[1]) for x in (gain, charge))
    multiplier = rise / run
    weights = gain - multiplier * charge
    between = tree_lib.respond(tree, weights)
    if weights @ np.subtract(between[1], within[1]) <= _TOLERANCE:
      break
    if charge @ between[1] <= level:
      within = between
    else:
      beyond = between
  share = (level - charge @ within[1]) / run
  policy = mix(tree, (within[0], beyond[0]), (1.0 - share, share))
  return Optimum(float(multiplier), tree_lib.evaluate(tree, policy), policy)


def mix(
    tree: tree_lib.HistoryTree,
    policies: Sequence[tree_lib.Policy],
    weights: Sequence[float],
) -> list[np.ndarray]:
  """One policy with the values of tossing a coin once among several.

  At each history it does what those do that would have got there, in
  proportion to their weights.

  Source: Kuhn 1953, "Extensive Games and the Problem of Information".
  """
  reached = [tree_lib.reached(tree, policy) for policy in policies]
  mixed = []
  for t in range(len(tree.levels)):
    share = np.stack([w * x[t] for w, x in zip(weights, reached, strict=True)])
    # Where none gets to, it does not matter.
    share = np.where(share.sum(axis=0) > 0, share, 1.0)
    tables = np.stack([policy[t] for policy in policies])
    mixed.append(np.einsum('kn,kna->na', share / share.sum(axis=0), tables))
  return mixed


def random_accuracy(
    tree: tree_lib.HistoryTree, costs: np.ndarray | float, num_rates: int = 101
) -> np.ndarray:
  """The best accuracy without looking, at mean costs.

  Chance has every advantage here: at each decision a larger route is taken with
  the same chance, of a grid, and a coin may be tossed first among all such
  policies. Both random baselines of the tables, a chance per step and a coin
  per question, are among them.

  Args:
    tree: of a process under a protocol.
    costs: mean cost fractions, any shape.
    num_rates: chances that are tried, 0 and 1 included.

  Returns:
    Shape of `costs`; -inf below the cheapest.
  """
  num_routes = tree.process.num_routes
  points = [
      tree_lib.evaluate(
          tree, tree_lib.constant(tree, _to_route(num_routes, a, rate))
      )
      for a in range(1, num_routes)
      for rate in np.linspace(0.0, 1.0, num_rates)
  ]
  correct, cost = np.array([(x.correct, x.cost) for x in points]).T
  return np.vectorize(lambda x: _between(correct, cost, x))(costs)


def _to_route(num_routes: int, route: int, rate: float) -> np.ndarray:
  """`[A]`: `route` with the chance `rate`, else the smallest."""
  probabilities = np.zeros(num_routes)
  probabilities[0], probabilities[route] = 1.0 - rate, rate
  return probabilities


def _between(correct: np.ndarray, cost: np.ndarray, level: float) -> float:
  """Height at `level` of the least concave, rising curve above the points."""
  is_low = cost <= level
  if not is_low.any():
    return -np.inf
  low = correct[is_low].max()
  if is_low.all():
    return float(low)
  run = cost[~is_low] - cost[is_low][:, None]
  rise = correct[~is_low] - correct[is_low][:, None]
  chords = correct[is_low][:, None] + rise * (
      (level - cost[is_low][:, None]) / run
  )
  return float(max(low, chords.max()))
