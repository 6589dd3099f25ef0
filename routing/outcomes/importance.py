"""What a threshold would have done, from what another policy did.

For `switch` and `redraft`, where another threshold writes another text. The
behaviour policy took action a_t with chance mu_t; the target takes, at each
decision, `routes` where score >= kappa and 0 where not. With the weights

  w_t = prod_{s <= t} 1[a_s is the target's] / mu_s     (E[w_t] = 1),

carried on after the end of a trace, the *per-decision* estimate of a mean cost
is the mean of sum_t w_t c_t: a payment is weighted by what led to it and not by
what came after. What is known at the end only (correct, loss, gain) has the
last weight. Two versions:

  unbiased: as it stands; exact in expectation, and wild.
  weighted: each w_t over its mean across trajectories. Biased by O(1 / N),
    consistent, and far calmer: this is the point estimate.

**The interval** is of the first kind, clipped, and not of the weighted one. For
X = sum_t w_t g_t, g the value in units of its cap (sum g in [0, 1]), and a
bound M fixed in advance, min(X, M) lies in [0, M] and has a mean of at most the
value sought; Maurer and Pontil's inequality bounds that mean from below. From
above: 1 minus the same for min(w_T (1 - sum g), M). Clipping thus errs on the
safe side at both ends, and so does a behaviour policy that never takes some of
the target's actions (then E[w_T] < 1, and the point estimate is worth nothing:
see `mass`). M is the best of a fixed list, each at its share of delta.

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

_CLIPS = 4.0 ** np.arange(6)  # M: 1 to 1,024.
_FIGURES = {
    'accuracy': 'correct',
    'cost': 'cost',
    'loss': 'loss',
    'gain': 'gain',
}


@dataclasses.dataclass(frozen=True)
class Estimates:
  """What K thresholds would have done; each part is a frontier of them.

  weighted: self-normalised, the point estimate; costs without a cap.
  unbiased: not normalised, costs without a cap; may leave [0, 1].
  lower, upper: the interval of each figure at each threshold, by itself; of
    cost, that of min(cost, cap).
  effective: `[K]` effective number of problems, (sum w_T)^2 / sum w_T^2.
  mass: `[K]` mean of w_T. Far from 1 at a good `effective`, the behaviour
    policy cannot take some action of the target, and only the interval counts.
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
  """Lower bound on E[X]: P(E[X] < bound) <= delta.

  mean - sqrt(2 V log(2 / delta) / n) - 7 top log(2 / delta) / (3 (n - 1)), V
  the sample variance (over n - 1); never below 0.

  Args:
    values: `[N]` in [0, top], independent.
    top: fixed in advance.
    delta: in (0, 1).

  Raises:
    ValueError: if there are fewer than two values or one is outside [0, top].

  Source: Maurer and Pontil 2009, theorem 4 for top - X.
  """
  values, num = np.asarray(values, np.float64), len(values)
  if num < 2 or values.min() < 0 or values.max() > top:
    raise ValueError(f'Takes two or more values in [0, {top:g}], got {values}.')
  log = np.log(2 / delta)
  spread = np.sqrt(2 * values.var(ddof=1) * log / num)
  return max(values.mean() - spread - 7 * top * log / (3 * (num - 1)), 0.0)


def cumulative_weights(
    scores: np.ndarray,
    batch: types.TrajectoryBatch,
    threshold: float,
    routes: np.ndarray | None = None,
) -> np.ndarray:
  """`[B, T]` float64 w_t >= 0 of one thresholded target.

  Args:
    scores: `[B, T]` float, at the decisions of the batch; higher escalates.
    batch: behaviour trajectories.
    threshold: kappa; -inf always takes `routes`, inf always route 0.
    routes: `[B, T]` int in 1..A-1, what an escalation takes; None = A - 1.

  Raises:
    ValueError: on a wrong shape, a score that is not finite, a behaviour
      probability outside (0, 1], or a route that is not available.
  """
  mask = np.asarray(batch.mask, bool)
  scores, actions = np.asarray(scores), np.asarray(batch.actions)
  behaviour = np.where(mask, batch.behaviour, 1.0).astype(np.float64)
  if scores.shape != mask.shape or not np.isfinite(scores[mask]).all():
    raise ValueError(
        f'Scores must be [B, T] = {mask.shape} and finite at decisions, got '
        f'{scores.shape}.'
    )
  if not np.all((behaviour > 0) & (behaviour <= 1)):
    raise ValueError(
        'Behaviour probabilities must be in (0, 1], got '
        f'{behaviour.min():g} to {behaviour.max():g}.'
    )
  if routes is None:
    routes = np.full(mask.shape, batch.available.shape[-1] - 1)
  target = np.where(scores >= threshold, routes, 0)
  allowed = np.take_along_axis(batch.available, target[..., None], -1)[..., 0]
  if not allowed[mask].all():
    row, step = np.argwhere(mask & ~allowed)[0]
    raise ValueError(
        f'Trajectory {row}, step {step}: the target takes route '
        f'{target[row, step]}, which is not available.'
    )
  ratios = np.where(mask, (actions == target) / behaviour, 1.0)
  return np.cumprod(ratios, axis=1)


def random_weights(batch: types.TrajectoryBatch, rate: float) -> np.ndarray:
  """`[B, T]` float64 w_t of random routing to the largest route at a rate."""
  mask, actions = np.asarray(batch.mask, bool), np.asarray(batch.actions)
  largest = batch.available.shape[-1] - 1
  chance = np.where(actions == largest, rate, (actions == 0) * (1.0 - rate))
  ratios = np.where(mask, chance / np.where(mask, batch.behaviour, 1.0), 1.0)
  return np.cumprod(ratios, axis=1)


def effective_number(
    weights: np.ndarray, problems: np.ndarray | None = None
) -> float:
  """Effective number of problems, (sum w_T)^2 / sum w_T^2; 0 of no weight.

  Args:
    weights: `[B, T]`, w_t of each trajectory.
    problems: `[B]`, which problem each answers; None = each another.
  """
  last = _averaging(problems, len(weights))(weights[:, -1])
  return float(last.sum() ** 2 / max((last**2).sum(), 1e-300))


def contributions(
    weights: np.ndarray,
    batch: types.TrajectoryBatch,
    problems: np.ndarray | None = None,
    min_effective_size: float = 100.0,
) -> dict[str, np.ndarray]:
  """What each problem adds to the weighted estimate of one target.

  Args:
    weights: `[B, T]`, w_t of the target.
    batch: the behaviour trajectories.
    problems: `[B]`, ascending, which problem each answers; None = each another.
    min_effective_size: refuse below this effective number of problems.

  Returns:
    correct, cost, loss and gain, each `[N]` float64 >= 0; the mean over
    problems is the weighted (self-normalised) per-decision estimate.

  Raises:
    refusal.Refusal: if too few trajectories agree with the target.
  """
  mean_by_problem = _averaging(problems, len(batch.mask))
  effective = effective_number(weights, problems)
  num = len(mean_by_problem(weights[:, -1]))
  _check_effective(effective, num, None, min_effective_size)
  norms = mean_by_problem(weights).mean(axis=0)
  costs = np.where(batch.mask, batch.costs, 0.0)
  found = {'cost': (mean_by_problem(weights * costs) / norms).sum(axis=1)}
  for name in ('correct', 'loss', 'gain'):
    value = weights[:, -1] * np.asarray(getattr(batch, name))
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
  """Accuracy, cost, relative loss and gain of K thresholds, without a rollout.

  Args:
    scores: `[B, T]` float, of a policy frozen before these trajectories came.
    batch: behaviour trajectories. Time and memory are linear in B T, times K
      for time alone.
    thresholds: `[K]` strictly rising, fixed without these trajectories.
    routes: `[B, T]` int, what an escalation takes; None = the largest.
    problems: `[B]`, which problem each trajectory answers; None = each another.
      Those of one problem are averaged: only problems are independent.
    delta: chance that the interval of one figure at one threshold misses. For
      all at once pass delta / (4 K).
    cost_cap: in the interval dearer problems count as this.
    min_effective_size: refuse below this effective number of problems.

  Raises:
    refusal.Refusal: if some threshold has too small an effective number, saying
      which, and in `needed` what it would take.
    ValueError: as `cumulative_weights`.
  """
  thresholds = frontier_lib.check_rising(thresholds)
  if not 0 < delta < 1:
    raise ValueError(f'delta must be in (0, 1), got {delta}.')
  if not 0 < cost_cap < np.inf:
    raise ValueError(f'cost_cap must be positive, got {cost_cap}.')
  mean_by_problem = _averaging(problems, len(batch.mask))
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


def _averaging(problems, num_rows):
  """A function from `[B, ...]` to `[N, ...]`, the mean over each problem."""
  if problems is None:
    return lambda values: values
  if len(problems) != num_rows:
    raise ValueError(f'problems must be [{num_rows}], got {len(problems)}.')
  _, index, counts = np.unique(
      problems, return_inverse=True, return_counts=True
  )

  def mean_by_problem(values):
    sums = np.zeros((len(counts), *values.shape[1:]))
    np.add.at(sums, index, values)
    return (sums.T / counts).T

  return mean_by_problem


def _check_effective(effective, num, threshold, least):
  if effective >= least:
    return
  where = '' if threshold is None else f'At threshold {threshold:g} '
  needed = int(np.ceil(num * least / effective)) if effective else None
  remedy = (
      f'about {needed:,} problems under this behaviour policy, or one closer '
      'to the target'
      if needed
      else 'no trajectory agrees with the target; a behaviour policy closer to '
      'it'
  )
  raise refusal.Refusal(
      f'{where}{num:,} problems are worth {effective:.1f} '
      f'(effective sample size); {least:g} are needed: {remedy}.',
      needed,
  )


def _figures(weights, batch, mean_by_problem, delta, cost_cap):
  """{(part, name): figure} of one threshold."""
  costs = np.where(batch.mask, batch.costs, 0.0)
  paid = np.minimum(np.cumsum(costs, axis=1), cost_cap)
  capped = np.diff(paid, axis=1, prepend=0.0) / cost_cap
  # What is known at the end only comes with the last step.
  is_last = np.arange(weights.shape[1]) == weights.shape[1] - 1
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
    rest = np.maximum(1 - units.sum(axis=1), 0.0)  # Rounding may undershoot.
    figures |= {
        ('unbiased', name): means.sum(),
        ('weighted', name): (means / norms).sum(),
        ('lower', name): scale * bound((weights * units).sum(axis=1)),
        ('upper', name): scale * (1 - bound(weights[:, -1] * rest)),
    }
  return figures


def _clipped_lower(values, mean_by_problem, delta):
  """The best over M of a lower bound on a mean <= 1, valid with 1 - delta."""
  share = delta / len(_CLIPS)
  best = max(
      empirical_bernstein_lower(
          mean_by_problem(np.minimum(values, clip)), clip, share
      )
      for clip in _CLIPS
  )
  return min(best, 1.0)  # Weights may add up to more; what they stand for not.
