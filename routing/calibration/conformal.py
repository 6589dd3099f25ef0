"""Split conformal prediction of the route, as a baseline for the thresholds.

At each decision the *prediction set* contains every route whose action
probability is at least kappa. If the set has exactly one route, the router
takes that route. If the set is larger or empty, the largest model takes over
(KnowNo calls this asking for help). Sources: KnowNo (Ren et al. 2023, "Robots
That Ask For Help", sections 3.2 and 3.3) and CCPO (arXiv 2511.11828), whose
prediction sets have this form.

A route is *acceptable* at a decision if the problem can still end without
relative loss after this route. A larger route is acceptable if the answer that
it would finish is no loss. Route 0 (stay with the small model) is acceptable if
some later hand-over, or never handing over, is no loss.

Split conformal prediction promises coverage: every set along the small trace
contains an acceptable route, as long as one exists. The promise holds with
probability 1 - alpha over the calibration problems and one new problem
together. With `delta` the promise is stronger: all but a fraction delta of
calibration samples give a kappa with coverage of at least 1 - alpha.

Coverage does not bound the loss. A covering set of two routes hands over to the
largest model, which may fail from that prefix. So the relative loss is at most
alpha plus the probability of such failures, which this module does not bound.
`thresholds.learn_then_test` promises the loss itself.
"""

from collections.abc import Sequence

import numpy as np

from routing.calibration import bounds
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from routing.outcomes import stopping as stopping_lib


def acceptable(tables: Sequence[stopping_lib.Outcomes]) -> np.ndarray:
  """Returns whether each route is acceptable at each decision.

  Args:
    tables: A-1 tables of the same problems, one per larger route, smallest
      first. Every relative loss above 0 counts as a loss, fractions too.

  Returns:
    `[N, T, A]` bool; False where there is no decision.
  """
  mask = tables[0].mask
  larger = np.stack([table.loss[:, :-1] == 0 for table in tables], axis=-1)
  larger &= mask[..., None]
  # Staying at t is acceptable if some exit after t is without loss; the last
  # exit, in column T, is 'never hand over'. The reversed running "or" over
  # `[N, T + 1]` gives "some exit at t or later"; dropping its column 0 turns
  # this into "some exit later than t".
  ways = np.column_stack([larger.any(axis=-1), tables[0].loss[:, -1] == 0])
  later = np.logical_or.accumulate(ways[:, ::-1], axis=1)[:, ::-1][:, 1:]
  return np.concatenate([(later & mask)[..., None], larger], axis=-1)


def conformity(
    probabilities: np.ndarray, tables: Sequence[stopping_lib.Outcomes]
) -> np.ndarray:
  """Returns `[N]` the highest kappa at which every set has an acceptable route.

  At each decision, take the highest probability of an acceptable route. The
  conformity is the minimum of these up to the first decision at which staying
  is not acceptable (KnowNo, the sequence-level score). The conformity is -inf
  for problems that have no acceptable route at the first decision.

  Args:
    probabilities: `[N, T, A]` float in [0, 1], the policy's action
      probabilities; route 0 stays with the small model.
    tables: A-1 tables, one per larger route, smallest first.

  Raises:
    ValueError: if the shapes do not match.
  """
  is_good = acceptable(tables)
  if probabilities.shape != is_good.shape:
    raise ValueError(
        f'probabilities must be [N, T, A] = {is_good.shape}, got '
        f'{probabilities.shape}.'
    )
  best = np.where(is_good, probabilities, -np.inf).max(axis=-1)
  # After the first decision at which staying is not acceptable, a router that
  # stayed cannot avoid the loss. So coverage is required up to this decision,
  # and not later.
  is_saved = np.logical_and.accumulate(is_good[..., 0], axis=1)
  is_open = tables[0].mask.copy()
  is_open[:, 1:] &= is_saved[:, :-1]
  return np.where(is_open, best, np.inf).min(axis=1)


def exits(
    probabilities: np.ndarray, mask: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns when a router with prediction sets hands over, and to which route.

  Args:
    probabilities: `[N, T, A]` float, action probabilities.
    mask: `[N, T]` bool, decision t exists.
    thresholds: `[K]` float, values of kappa.

  Returns:
    `[K, N]` int stopping times, T for 'never hand over'; `[K, N]` int channels,
    the route taken minus 1, or 0 for problems that are never handed over.
  """
  num_steps, num_routes = probabilities.shape[1:]
  times, channels = [], []
  for kappa in thresholds:
    is_in = probabilities >= kappa
    is_sure = is_in.sum(axis=-1) == 1
    # An empty set names no route either, so the largest model takes over.
    route = np.where(is_sure, is_in.argmax(axis=-1), num_routes - 1)
    hands_over = np.asarray(mask, bool) & (route > 0)
    time = np.where(
        hands_over.any(axis=1), hands_over.argmax(axis=1), num_steps
    )
    # `route` has no column T, the time of 'never'. Such rows read column T - 1
    # instead, and `np.where` below replaces what they read.
    at = np.minimum(time, num_steps - 1)
    to = route[np.arange(len(route)), at] - 1
    times.append(time)
    channels.append(np.where(time < num_steps, to, 0))
  return np.stack(times), np.stack(channels)


def _kappa(conformities: np.ndarray, promise: thresholds_lib.Promise) -> float:
  """Returns kappa, the k-th smallest conformity, with k from alpha and delta.

  Args:
    conformities: `[n]` float, from `conformity`, one per problem.
    promise: gives alpha (its level) and delta.

  Raises:
    risks.Refusal: if n is too small, or too many problems cannot be covered.
  """
  num, alpha, delta = len(conformities), promise.level, promise.delta
  if delta is None:
    # The rank of a new problem's conformity among all n + 1 is uniform. So the
    # new conformity is below the k-th smallest of the n with probability at
    # most k / (n + 1), ties included. This is at most alpha for k =
    # floor(alpha (n + 1)), which is at least 1 for n >= 1 / alpha - 1. `round`
    # keeps 0.29 * 100 from becoming 28.999.
    rank = int(np.floor(np.round(alpha * (num + 1), 9)))
    minimum = int(np.ceil(1 / alpha - 1e-9)) - 1
  else:
    # Vovk 2012: with kappa the k-th smallest conformity, the miscoverage
    # exceeds alpha with probability at most P(Bin(n, alpha) <= k - 1). The
    # largest k at which this is at most delta is the number of j = 0..n-1 with
    # P(Bin(n, alpha) <= j) <= delta.
    probabilities = bounds.binomial_p_value(np.arange(num), num, alpha)
    rank = int(np.sum(probabilities <= delta))
    minimum = bounds.trajectories_needed(0.0, alpha, delta)
  if rank < 1:
    raise risks_lib.Refusal(
        f'{promise.name} needs at least {minimum} trajectories; got {num}.',
        minimum,
    )
  kappa = float(np.sort(conformities)[rank - 1])
  if kappa == -np.inf:
    raise risks_lib.Refusal(
        f'{promise.name} cannot be promised: at least {rank} of {num} problems '
        'have no acceptable route, so no kappa covers them.',
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
  """Returns the kappa at which the sets cover a share 1 - alpha of problems.

  Kappa is the k-th smallest conformity of the sample, with
  k = floor(alpha (n + 1)). With `delta`, k is the largest number for which
  P(Bin(n, alpha) < k) <= delta.

  Args:
    probabilities: `[N, T, A]` float in [0, 1], of a policy frozen before these
      problems came.
    tables: A-1 tables of the same problems, one per larger route, smallest
      first.
    alpha: miscoverage allowed, in (0, 1): the share of new problems whose
      `conformity` is below kappa.
    delta: probability that the sample gives a kappa with a miscoverage above
      alpha, in (0, 1); None = alpha holds on average over samples.

  Returns:
    The point. Its `threshold` is the kappa of the prediction sets (see
    `exits`), not the threshold of a score.

  Raises:
    risks.Refusal: if n is too small, or if too many problems have no acceptable
      route for any kappa to cover them.
    ValueError: if alpha or delta is outside (0, 1).

  Source: Vovk et al. 2005; Ren et al. 2023, equations 2 to 4; with `delta`,
  Vovk 2012, "Conditional validity of inductive conformal predictors".
  """
  if not 0 < alpha < 1:
    raise ValueError(f'alpha must be in (0, 1), got {alpha}.')
  if delta is not None and not 0 < delta < 1:
    raise ValueError(f'delta must be in (0, 1) or None, got {delta}.')
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
  # Means of a router with this kappa on the sample; no promise covers them.
  values = stopping_lib.at_exits(tables, times, channels)
  mean = {name: float(x.mean()) for name, x in values.items()}
  return thresholds_lib.OperatingPoint(
      threshold=kappa,
      promises=(promise,),
      accuracy=mean.pop('correct'),
      **mean,
  )
