"""The optimal constrained policy, and the best policy without observations.

If a policy may be drawn at random once per problem, the expected outcomes that
can be reached form a convex set whose corners are deterministic policies. The
constrained optimum lies on an edge of this set: it is a mixture of two
deterministic policies that are both best for the same multiplier, one on each
side of the level. `solve` walks from the two extreme policies to that edge by
exact best responses, so there is no grid and nothing to tune.

Sources: Altman, "Constrained Markov Decision Processes" (1999), ch. 3; the walk
is that of Eisner and Severance 1976 for parametric linear programs.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from routing.simulation import history_tree as tree_lib

# Per form, the objective to maximise and the constrained quantity, each as
# weights of (correct, cost, loss) in `tree_lib.Values`.
FORMS = {
    'budget': ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    'reliability': ((0.0, -1.0, 0.0), (0.0, 0.0, 1.0)),
}
_TOLERANCE = 1e-12


@dataclasses.dataclass(frozen=True)
class Optimum:
  """The solution of a constrained problem.

  multiplier: >= 0, rise of the best objective per unit by which the level is
    raised; 0 if the constraint is slack.
  values: expected outcomes of `policy`.
  policy: per level of the history tree `[n, A]` action probabilities. The
    policy is random only at histories where the two mixed policies differ; it
    needs no random draw per problem.
  """

  multiplier: float
  values: tree_lib.Values
  policy: list[np.ndarray]


def solve(
    tree: tree_lib.HistoryTree, level: float, *, form: str = 'budget'
) -> Optimum:
  """Returns the best of all policies that meet a constraint.

  Args:
    tree: all histories of a process under a protocol.
    level: budget (cost fraction), or alpha (relative loss).
    form: 'budget', highest accuracy at cost <= level; or 'reliability', lowest
      cost at relative loss <= level.

  Raises:
    ValueError: if `form` is unknown, or no policy meets the level.
  """
  if form not in FORMS:
    raise ValueError(f'Unknown form {form!r}; allowed: {", ".join(FORMS)}.')
  # The objective is gain.v and the constraint charge.v <= level; both are
  # linear in the policy's values v.
  gain, charge = map(np.asarray, FORMS[form])
  # Pairs (policy, values): `within` has the lowest charge.v of all policies,
  # `beyond` the highest gain.v.
  within = tree_lib.best_response(tree, -charge)
  beyond = tree_lib.best_response(tree, gain)
  if charge @ within[1] > level + _TOLERANCE:
    raise ValueError(
        f'No policy has {form} level {level:g}; the lowest possible level is '
        f'{charge @ within[1]:.4g}.'
    )
  if charge @ beyond[1] <= level:
    return Optimum(0.0, beyond[1], beyond[0])  # The constraint is slack.
  # Invariant: charge.v of `within` <= level < charge.v of `beyond`. The
  # multiplier is the slope of the line between the two values, so both have the
  # same Lagrangian gain.v - multiplier * charge.v.
  while True:
    rise, run = (x @ np.subtract(beyond[1], within[1]) for x in (gain, charge))
    multiplier = rise / run
    weights = gain - multiplier * charge
    between = tree_lib.best_response(tree, weights)
    # If the best response has no higher Lagrangian, the line is an edge of the
    # convex set. Otherwise the best response is a corner above the line, and
    # replaces the end of the line on its side of the level. There are finitely
    # many corners, so the loop ends.
    if weights @ np.subtract(between[1], within[1]) <= _TOLERANCE:
      break
    if charge @ between[1] <= level:
      within = between
    else:
      beyond = between
  # Mix the two ends of the edge so that the constraint holds with equality.
  share = (level - charge @ within[1]) / run
  policy = mix(tree, (within[0], beyond[0]), (1.0 - share, share))
  return Optimum(float(multiplier), tree_lib.evaluate(tree, policy), policy)


def mix(
    tree: tree_lib.HistoryTree,
    policies: Sequence[tree_lib.Policy],
    weights: Sequence[float],
) -> list[np.ndarray]:
  """Returns a policy equivalent to drawing one of several per problem.

  Its expected outcomes are those of the random draw:

    pi(a | h) = sum_k w_k P_k(h) pi_k(a | h) / sum_k w_k P_k(h),

  with P_k(h) the probability that policy k reaches the history h.

  Args:
    tree: the history tree on which the policies act.
    policies: per policy and level `[n, A]` action probabilities.
    weights: w_k, probability of drawing each policy.

  Source: Kuhn 1953, "Extensive Games and the Problem of Information".
  """
  reached = [tree_lib.reached(tree, policy) for policy in policies]
  mixed = []
  for t in range(len(tree.levels)):
    share = np.stack([w * x[t] for w, x in zip(weights, reached, strict=True)])
    # At a history that no policy reaches any probabilities are right, but 0 / 0
    # would be NaN. All policies get equal shares there.
    share = np.where(share.sum(axis=0) > 0, share, 1.0)
    tables = np.stack([policy[t] for policy in policies])
    mixed.append(np.einsum('kn,kna->na', share / share.sum(axis=0), tables))
  return mixed


def random_accuracy(
    tree: tree_lib.HistoryTree, costs: np.ndarray | float, num_rates: int = 101
) -> np.ndarray:
  """Returns the best accuracy of a random router at given mean costs.

  The random router takes one larger route with the same probability at every
  decision, and may draw route and probability once per problem. Both random
  baselines of the result tables are special cases: a random draw per step, and
  a random draw per question.

  Args:
    tree: all histories of a process under a protocol.
    costs: mean cost fractions, any shape.
    num_rates: number of probabilities that are tried per larger route, 0 and 1
      included.

  Returns:
    Accuracies, in the shape of `costs`; -inf where the cost is below that of
    the cheapest random router.
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
  """Returns `[A]` action probabilities: `rate` on `route`, the rest on route 0.

  Args:
    num_routes: A.
    route: in 1..A-1.
    rate: in [0, 1].
  """
  probabilities = np.zeros(num_routes)
  probabilities[0], probabilities[route] = 1.0 - rate, rate
  return probabilities


def _between(correct: np.ndarray, cost: np.ndarray, level: float) -> float:
  """Returns the best accuracy of a mixture of routers with mean cost <= level.

  This is the upper concave, non-decreasing hull of the points (cost, correct),
  evaluated at `level`; -inf if every router costs more.

  Args:
    correct, cost: `[n]`, accuracy and mean cost of each router.
    level: mean cost of the mixture.
  """
  is_low = cost <= level
  if not is_low.any():
    return -np.inf
  low = correct[is_low].max()
  if is_low.all():
    return float(low)
  # A chord joins a point with cost <= level and a point with cost > level. The
  # arrays below are [points with low cost, points with high cost]. The hull at
  # the level is the highest chord there.
  run = cost[~is_low] - cost[is_low][:, None]
  rise = correct[~is_low] - correct[is_low][:, None]
  chords = correct[is_low][:, None] + rise * (
      (level - cost[is_low][:, None]) / run
  )
  return float(max(low, chords.max()))
