"""Off-policy estimates of thresholds from a behaviour policy's trajectories.

`switch` and `redraft` need such estimates, because another threshold produces
another text. The behaviour policy takes action a_t with probability mu_t. The
target policy takes, at each decision, `routes` where score >= kappa and route 0
elsewhere. The importance weights of the target policy are

  w_t = prod_{s <= t} 1[a_s is the target's action] / mu_s     (E[w_t] = 1),

and stay constant after the end of a trace. The *per-decision* estimate of a
mean cost is the mean of sum_t w_t c_t: the payment c_t is weighted by the
actions up to t and not by later actions. Quantities that are known only at the
end (correct, loss, gain, cut) are weighted by w_T. There are two versions:

  unbiased: as above; exact in expectation, with a high variance.
  weighted: each w_t is divided by its mean over trajectories. The bias is
    O(1 / N) and the variance far lower; the estimate is consistent. This is the
    point estimate.

**The interval** is based on clipped unbiased terms, not on the weighted
estimate. Let X = sum_t w_t g_t, where g is the quantity in units of its cap
(sum g in [0, 1]), and let M be a bound that is fixed in advance. Then min(X, M)
lies in [0, M], and its mean is at most the mean of g. Maurer and Pontil's
inequality bounds that mean from below. The upper bound is 1 minus the same
bound for min(w_T (1 - sum g), M). Clipping only widens the interval. So does a
behaviour policy that never takes some of the target's actions: then E[w_T] < 1,
and the point estimate is meaningless (see `mass`). The bound is computed for
each M of a fixed list, at an equal share of delta, and the best one is used.

Sources: Precup, Sutton, Singh 2000, "Eligibility traces for off-policy policy
evaluation" (per-decision); Thomas 2015, "Safe reinforcement learning", chapter
3 (weighted per-decision, clipped bounds); Maurer and Pontil 2009, "Empirical
Bernstein bounds and sample variance penalization", theorem 4.
"""

import dataclasses

import numpy as np

from routing import types
from routing.outcomes import frontier as frontier_lib
from routing.outcomes import refusal

# The bounds M, 1 to 1,024. The list is fixed, since choosing M by the data
# without a correction would break the interval. A factor of 4 keeps the list
# short, and every entry costs a share of delta.
_CLIPS = 4.0 ** np.arange(6)
# Field of `Frontier` -> field of `TrajectoryBatch`.
_FIGURES = {
    'accuracy': 'correct',
    'cost': 'cost',
    'loss': 'loss',
    'gain': 'gain',
}


@dataclasses.dataclass(frozen=True)
class Estimates:
  """Off-policy estimates of accuracy, cost, loss and gain at K thresholds.

  weighted: self-normalised; the point estimate. Costs have no cap.
  unbiased: not normalised; may leave [0, 1]. Costs have no cap.
  lower, upper: ends of the confidence interval of each quantity at each
    threshold separately. The cost has the interval of min(cost, cap).
  effective: `[K]` effective number of problems, (sum w_T)^2 / sum w_T^2.
  mass: `[K]` mean of w_T. If it is far from 1 although `effective` is large,
    the behaviour policy cannot take some action of the target. Then only the
    interval is valid.
  """

  weighted: frontier_lib.Frontier
  unbiased: frontier_lib.Frontier
  lower: frontier_lib.Frontier
  upper: frontier_lib.Frontier
  effective: np.ndarray
  mass: np.ndarray


def empirical_bernstein_lower(
    values: np.ndarray, top: float, delta: float
) -> float:
  """Returns a lower confidence bound on E[X]: P(E[X] < bound) <= delta.

  The bound is mean - sqrt(2 V log(2 / delta) / n) - 7 top log(2 / delta) / (3
  (n - 1)), where V is the sample variance (divisor n - 1). It is never below 0.

  Args:
    values: `[N]` independent samples of X, in [0, top].
    top: upper limit of the values, fixed in advance.
    delta: in (0, 1).

  Raises:
    ValueError: if there are fewer than two values or one is outside [0, top].

  Source: Maurer and Pontil 2009, theorem 4 for top - X.
  """
  values, num = np.asarray(values, np.float64), len(values)
  if num < 2 or values.min() < 0 or values.max() > top:
    raise ValueError(
        f'The values are {values}; the bound needs two or more in [0, {top:g}].'
    )
  # Theorem 4 bounds a mean from above. Applied to top - X, which has the same
  # variance as X, it bounds E[X] from below.
  log = np.log(2 / delta)
  spread = np.sqrt(2 * values.var(ddof=1) * log / num)
  return max(values.mean() - spread - 7 * top * log / (3 * (num - 1)), 0.0)


def cumulative_weights(
    scores: np.ndarray,
    batch: types.TrajectoryBatch,
    threshold: float,
    routes: np.ndarray | None = None,
) -> np.ndarray:
  """Returns the importance weights w_t of one thresholded target policy.

  Args:
    scores: `[B, T]` float at the decisions of the batch; higher = more in need
      of a larger route.
    batch: behaviour trajectories.
    threshold: kappa; -inf always takes `routes`, inf always route 0.
    routes: `[B, T]` int in 1..A-1, the route that the target takes where score
      >= kappa; None = the largest, A - 1.

  Returns:
    `[B, T]` float64 >= 0.

  Raises:
    ValueError: on a wrong shape, a score that is not finite, a behaviour
      probability outside (0, 1], or a route that is not available.
  """
  mask = np.asarray(batch.mask, bool)
  scores, actions = np.asarray(scores), np.asarray(batch.actions)
  # Padding gets ratio 1, which carries the last weight to the end of the row.
  behaviour = np.where(mask, batch.behaviour, 1.0).astype(np.float64)
  if scores.shape != mask.shape or not np.isfinite(scores[mask]).all():
    raise ValueError(
        f'Scores must be [B, T] = {mask.shape} and finite at decisions; their '
        f'shape is {scores.shape}.'
    )
  if not np.all((behaviour > 0) & (behaviour <= 1)):
    raise ValueError(
        'Behaviour probabilities must be in (0, 1], got '
        f'{behaviour.min():g} to {behaviour.max():g}.'
    )
  if routes is None:
    routes = np.full(mask.shape, batch.available.shape[-1] - 1)
  target = np.where(scores >= threshold, routes, 0)
  # Without this check a trajectory would only get weight 0 where the target's
  # action is not available, and the estimate would describe another policy.
  allowed = np.take_along_axis(batch.available, target[..., None], -1)[..., 0]
  if not allowed[mask].all():
    row, step = np.argwhere(mask & ~allowed)[0]
    raise ValueError(
        f'Trajectory {row}, step {step}: the target policy takes route '
        f'{target[row, step]}, which is not available.'
    )
  ratios = np.where(mask, (actions == target) / behaviour, 1.0)
  return np.cumprod(ratios, axis=1)


def random_weights(batch: types.TrajectoryBatch, rate: float) -> np.ndarray:
  """Returns the importance weights w_t of the random router, `[B, T]` float64.

  The random router takes the largest route with probability `rate`, and
  otherwise route 0.
  """
  mask, actions = np.asarray(batch.mask, bool), np.asarray(batch.actions)
  largest = batch.available.shape[-1] - 1
  # Probability that the random router takes the recorded action; it is 0 for
  # routes between the smallest and the largest.
  target = np.where(actions == largest, rate, (actions == 0) * (1.0 - rate))
  ratios = np.where(mask, target / np.where(mask, batch.behaviour, 1.0), 1.0)
  return np.cumprod(ratios, axis=1)


def effective_number(
    weights: np.ndarray, problems: np.ndarray | None = None
) -> float:
  """Returns the effective number of problems, (sum w_T)^2 / sum w_T^2.

  An unweighted sample of this size would give about the same precision. Weights
  of the trajectories of one problem are averaged first.

  Args:
    weights: `[B, T]`, w_t of each trajectory.
    problems: `[B]`, the problem of each trajectory; None = each trajectory has
      a problem of its own.
  """
  last = _problem_mean(problems, len(weights))(weights[:, -1])
  # If no trajectory agrees with the target, all weights are 0. The floor then
  # gives 0 instead of NaN.
  return float(last.sum() ** 2 / max((last**2).sum(), 1e-300))


def contributions(
    weights: np.ndarray,
    batch: types.TrajectoryBatch,
    problems: np.ndarray | None = None,
    min_effective_size: float = 100.0,
    cut: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
  """Returns each problem's contribution to the weighted estimates of a policy.

  Args:
    weights: `[B, T]`, w_t of the target policy.
    batch: the behaviour trajectories.
    problems: `[B]`, ascending, the problem of each trajectory; None = each
      trajectory has a problem of its own.
    min_effective_size: smallest effective number of problems allowed.
    cut: `[B]`, where the token limit cut an answer off; None = not known.

  Returns:
    correct, cost, loss, gain and, if given, cut, each `[N]`; the mean over
    problems is the weighted (self-normalised) per-decision estimate.

  Raises:
    refusal.Refusal: if too few trajectories agree with the target.
  """
  mean_by_problem = _problem_mean(problems, len(batch.mask))
  effective = effective_number(weights, problems)
  num = len(mean_by_problem(weights[:, -1]))
  _check_effective(effective, num, None, min_effective_size)
  # `[T]`, the mean weight at each decision; divided by it, weights have mean 1.
  norms = mean_by_problem(weights).mean(axis=0)
  costs = np.where(batch.mask, batch.costs, 0.0)
  found = {'cost': (mean_by_problem(weights * costs) / norms).sum(axis=1)}
  ends = {name: getattr(batch, name) for name in ('correct', 'loss', 'gain')}
  for name, end in (ends if cut is None else {**ends, 'cut': cut}).items():
    # These are known only at the end, so the weight includes every action.
    value = weights[:, -1] * np.asarray(end)
    found[name] = mean_by_problem(value) / norms[-1]
  return found


def estimate(
    scores: np.ndarray,
    batch: types.TrajectoryBatch,
    thresholds: np.ndarray,
    *,
    routes: np.ndarray | None = None,
    problems: np.ndarray | None = None,
    delta: float = 0.1,
    cost_cap: float = 2.0,
    min_effective_size: float = 100.0,
) -> Estimates:
  """Estimates accuracy, cost, loss and gain at K thresholds off-policy.

  Args:
    scores: `[B, T]` float, from a policy that was frozen before these
      trajectories were collected.
    batch: behaviour trajectories. Time is O(K B T), memory O(B T).
    thresholds: `[K]` strictly rising, fixed without these trajectories.
    routes: `[B, T]` int, the route taken where score >= kappa; None = the
      largest.
    problems: `[B]`, the problem of each trajectory; None = each trajectory has
      a problem of its own. Trajectories of one problem are averaged, because
      only problems are independent.
    delta: error probability of the interval of one quantity at one threshold.
      For all intervals at once pass delta / (4 K).
    cost_cap: the confidence interval of the cost is that of min(cost,
      cost_cap).
    min_effective_size: smallest effective number of problems allowed.

  Raises:
    refusal.Refusal: if the effective number at some threshold is too small. The
      message names the threshold; `needed` estimates how many problems suffice.
    ValueError: see `cumulative_weights`.
  """
  thresholds = frontier_lib.check_rising(thresholds)
  if not 0 < delta < 1:
    raise ValueError(f'delta is {delta}; it must be in (0, 1).')
  if not 0 < cost_cap < np.inf:
    raise ValueError(f'cost_cap is {cost_cap}; it must be positive and finite.')
  mean_by_problem = _problem_mean(problems, len(batch.mask))
  rows = []
  for threshold in thresholds:
    weights = cumulative_weights(scores, batch, threshold, routes)
    last = mean_by_problem(weights[:, -1])
    effective = effective_number(weights, problems)
    _check_effective(effective, len(last), threshold, min_effective_size)
    rows.append(
        {'effective': effective, 'mass': last.mean()}
        | _figures(weights, batch, mean_by_problem, delta, cost_cap)
    )
  columns = {key: np.array([row[key] for row in rows]) for key in rows[0]}
  parts = {
      part: frontier_lib.Frontier(
          thresholds, **{name: columns[part, name] for name in _FIGURES}
      )
      for part in ('weighted', 'unbiased', 'lower', 'upper')
  }
  return Estimates(
      **parts, effective=columns['effective'], mass=columns['mass']
  )


def _problem_mean(problems, num_rows):
  """Returns a function that averages `[B, ...]` per problem, to `[N, ...]`."""
  if problems is None:
    return lambda values: values
  if len(problems) != num_rows:
    raise ValueError(
        f'problems must have {num_rows} entries, one per trajectory; got '
        f'{len(problems)}.'
    )
  # Trajectories of one problem are dependent: their mean is one observation.
  _, index, counts = np.unique(
      problems, return_inverse=True, return_counts=True
  )

  def mean_by_problem(values):
    sums = np.zeros((len(counts), *values.shape[1:]))
    np.add.at(sums, index, values)
    return (sums.T / counts).T

  return mean_by_problem


def _check_effective(effective, num, threshold, min_effective_size):
  """Raises Refusal if the effective number of problems is too small.

  Args:
    effective: effective number of problems.
    num: number of problems.
    threshold: named in the message; None = none is named.
    min_effective_size: smallest effective number allowed.
  """
  if effective >= min_effective_size:
    return
  where = '' if threshold is None else f'At threshold {threshold:g}, '
  # The effective number grows in proportion to the number of problems.
  needed = (
      int(np.ceil(num * min_effective_size / effective)) if effective else None
  )
  remedy = (
      f'collect about {needed:,} problems under this behaviour policy, or use '
      'one closer to the target'
      if needed
      else 'no trajectory agrees with the target policy; use a behaviour '
      'policy closer to it'
  )
  raise refusal.Refusal(
      f'{where}{num:,} problems have an effective sample size of '
      f'{effective:.1f}; {min_effective_size:g} are needed: {remedy}.',
      needed,
  )


def _figures(weights, batch, mean_by_problem, delta, cost_cap):
  """Returns (field of `Estimates`, of `Frontier`) -> value at one threshold."""
  costs = np.where(batch.mask, batch.costs, 0.0)
  # The cap applies to the running cost: payments beyond the cap count as 0. A
  # cap on the total would make the weights of payments depend on later actions.
  capped_total = np.minimum(np.cumsum(costs, axis=1), cost_cap)
  capped = np.diff(capped_total, axis=1, prepend=0.0) / cost_cap
  # Grades are known at the end only, so they are placed at the last step.
  is_last = np.arange(weights.shape[1]) == weights.shape[1] - 1
  # Half of delta for each end of the interval.
  bound = lambda x: _clipped_lower(x, mean_by_problem, delta / 2)
  norms = mean_by_problem(weights).mean(axis=0)
  figures = {}
  for name, field in _FIGURES.items():
    if name == 'cost':
      values, units, scale = costs, capped, cost_cap
    else:
      values = units = np.asarray(getattr(batch, field))[:, None] * is_last
      scale = 1.0
    means = mean_by_problem(weights * values).mean(axis=0)
    # 1 - sum g, without negative rounding errors.
    rest = np.maximum(1 - units.sum(axis=1), 0.0)
    # Upper bound on E[g] = 1 - lower bound on E[1 - g], with weights w_T, since
    # 1 - sum g is known at the end only.
    figures |= {
        ('unbiased', name): means.sum(),
        # Normalised at each decision t by the mean of w_t, since E[w_t] = 1.
        ('weighted', name): (means / norms).sum(),
        ('lower', name): scale * bound((weights * units).sum(axis=1)),
        ('upper', name): scale * (1 - bound(weights[:, -1] * rest)),
    }
  return figures


def _clipped_lower(values, mean_by_problem, delta):
  """Returns a lower confidence bound on a mean in [0, 1] of weighted sums.

  Args:
    values: `[B]` weighted sums X >= 0, one per trajectory.
    mean_by_problem: see `_problem_mean`.
    delta: error probability of the best bound over all clips M.
  """
  share = delta / len(_CLIPS)  # Union bound over the list.
  best = max(
      empirical_bernstein_lower(
          mean_by_problem(np.minimum(values, clip)), clip, share
      )
      for clip in _CLIPS
  )
  # Weighted sums may exceed 1, but the true mean is at most 1.
  return min(best, 1.0)
