"""The set-valued rule: act alone on a set of one, otherwise ask the largest.

At each decision the *set* holds every route whose chance under the policy is at
least kappa. A set of one is acted on; a larger or an empty one is unsure, and
the largest model takes over. Sources: KnowNo (Ren et al. 2023, "Robots That Ask
For Help", sections 3.2 and 3.3) and CCPO (arXiv 2511.11828), whose sets are of
this form.

A route is *acceptable* at a decision if it leaves the problem without loss: a
larger one, if its answer is no loss; staying, if some later way out is none.
What split conformal prediction promises is coverage: with probability 1 - alpha
over the calibration problems and one new problem together, every set along the
small trace holds an acceptable route, for as long as the trace can still be
saved. With `delta`, all but a fraction delta of calibration samples give a
kappa whose coverage of new problems is at least 1 - alpha.

Coverage is not loss. A set of two that covers makes the router ask, and the
largest model may fail from that prefix; so the relative loss is at most alpha
plus the chance that help fails, which nothing here bounds. `learn_then_test`
promises the loss itself; this is for comparison.
"""

from collections.abc import Sequence

import numpy as np

from routing.calibration import bounds
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from routing.outcomes import stopping as stopping_lib


def acceptable(tables: Sequence[stopping_lib.Outcomes]) -> np.ndarray:
  """`[N, T, A]` bool, which routes leave a problem without loss.

  Args:
    tables: A-1 of the same problems, one per larger route, smallest first. A
      loss that is a chance counts as lost unless it is 0.

  Returns:
    False where there is no decision.
  """
  mask = tables[0].mask
  larger = np.stack([table.loss[:, :-1] == 0 for table in tables], axis=-1)
  larger &= mask[..., None]
  # Staying at t leaves the ways out after t, the last of them being 'never'.
  ways = np.column_stack([larger.any(axis=-1), tables[0].loss[:, -1] == 0])
  later = np.logical_or.accumulate(ways[:, ::-1], axis=1)[:, ::-1][:, 1:]
  return np.concatenate([(later & mask)[..., None], larger], axis=-1)


def conformity(
    probabilities: np.ndarray, tables: Sequence[stopping_lib.Outcomes]
) -> np.ndarray:
  """`[N]` the highest kappa at which every set still holds a good route.

  The least, over the decisions at which the problem can still be saved, of the
  highest chance that the policy gives an acceptable route (KnowNo, the
  sequence-level score); -inf where no route is acceptable to begin with.

  Args:
    probabilities: `[N, T, A]` float in [0, 1], the policy's chance of each
      route; 0 = stay.
    tables: A-1, one per larger route.

  Raises:
    ValueError: if the shapes do not belong together.
  """
  is_good = acceptable(tables)
  if probabilities.shape != is_good.shape:
    raise ValueError(
        f'Probabilities must be [N, T, A] = {is_good.shape}, got '
        f'{probabilities.shape}.'
    )
  best = np.where(is_good, probabilities, -np.inf).max(axis=-1)
  # Once staying was a mistake no later set can mend it, or is asked to.
  is_saved = np.logical_and.accumulate(is_good[..., 0], axis=1)
  is_open = tables[0].mask.copy()
  is_open[:, 1:] &= is_saved[:, :-1]
  return np.where(is_open, best, np.inf).min(axis=1)


def exits(
    probabilities: np.ndarray, mask: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """When the set-valued rule hands over, and to whom.

  Args:
    probabilities: `[N, T, A]` float.
    mask: `[N, T]` bool, decision t exists.
    thresholds: `[K]` float, kappa.

  Returns:
    `[K, N]` int stopping times, T for 'never'; `[K, N]` int channels, the
    larger route less 1, 0 where never.
  """
  num_steps, num_routes = probabilities.shape[1:]
  times, channels = [], []
  for kappa in thresholds:
    is_in = probabilities >= kappa
    is_sure = is_in.sum(axis=-1) == 1
    route = np.where(is_sure, is_in.argmax(axis=-1), num_routes - 1)
    leaves = np.asarray(mask, bool) & (route > 0)
    time = np.where(leaves.any(axis=1), leaves.argmax(axis=1), num_steps)
    at = np.minimum(time, num_steps - 1)
    to = route[np.arange(len(route)), at] - 1
    times.append(time)
    channels.append(np.where(time < num_steps, to, 0))
  return np.stack(times), np.stack(channels)


def _kappa(conformities: np.ndarray, promise: thresholds_lib.Promise) -> float:
  """The k-th smallest of n conformities, or a refusal."""
  num, alpha, delta = len(conformities), promise.level, promise.delta
  if delta is None:
    rank = int(np.floor(np.round(alpha * (num + 1), 9)))
    least = int(np.ceil(1 / alpha - 1e-9)) - 1
  else:
    probabilities = bounds.binomial_p_value(np.arange(num), num, alpha)
    rank = int(np.sum(probabilities <= delta))
    least = bounds.trajectories_needed(0.0, alpha, delta)
  if rank < 1:
    raise risks_lib.Refusal(
        f'{promise.name} takes {least} trajectories or more; got {num}.', least
    )
  kappa = float(np.sort(conformities)[rank - 1])
  if kappa == -np.inf:
    raise risks_lib.Refusal(
        f'{promise.name} cannot be promised: {rank} of {num} problems or more '
        'have no acceptable route.',
        None,
    )
  return kappa


def split_conformal(
    probabilities: np.ndarray,
    tables: Sequence[stopping_lib.Outcomes],
    *,
    alpha: float,
    delta: float | None = None,
) -> thresholds_lib.OperatingPoint:
  """The kappa whose sets miss every acceptable route with chance <= alpha.

  The k-th smallest conformity of the sample: k = floor(alpha (n + 1)), so that
  a new problem, whose rank among all n + 1 is uniform, is below it with chance
  at most alpha, ties included. With `delta`, the largest k for which
  P(Bin(n, alpha) < k) <= delta.

  Args:
    probabilities: `[N, T, A]` float in [0, 1], of a policy frozen before these
      problems came.
    tables: A-1 of the same problems, one per larger route, smallest first.
    alpha: miscoverage allowed, in (0, 1).
    delta: chance that the sample gives a kappa of more miscoverage than alpha;
      None = alpha holds on average over samples.

  Returns:
    The point. `threshold` is kappa of the set-valued rule (see `exits`), not of
    a score. Its miscoverage is the share of new problems whose `conformity` is
    below it.

  Raises:
    risks.Refusal: if n is too small, or so many problems have no acceptable
      route that no sets cover.
    ValueError: if alpha or delta is outside (0, 1).

  Source: Vovk et al. 2005; Ren et al. 2023, equations 2 to 4; with `delta`,
  Vovk 2012, "Conditional validity of inductive conformal predictors".
  """
  if not 0 < alpha < 1:
    raise ValueError(f'alpha must be in (0, 1), got {alpha}.')
  promise = thresholds_lib.Promise(
      'miscoverage',
      alpha,
      delta,
      tables[0].num_problems,
      test='conformal',
      is_marginal=delta is None,
  )
  kappa = _kappa(conformity(probabilities, tables), promise)
  times, channels = exits(probabilities, tables[0].mask, np.array([kappa]))
  values = stopping_lib.at_exits(tables, times, channels)
  mean = {name: float(x.mean()) for name, x in values.items()}
  return thresholds_lib.OperatingPoint(
      threshold=kappa,
      promises=(promise,),
      accuracy=mean.pop('correct'),
      **mean,
  )
