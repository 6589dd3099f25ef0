"""Converts rollouts to arrays, and picks the rows of each minibatch.

One batch holds the whole training set. Minibatches are rows of it, chosen by a
pure function of (seed, step), so that a resumed run sees the same minibatches
as an uninterrupted one.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses
import itertools
from typing import TypeVar

import numpy as np

from routing import costs
from routing import protocols
from routing import types
from routing.features import observation
from routing.features import standardize
from routing.features import traces as traces_lib

Batch = TypeVar('Batch', types.OutcomeBatch, types.TrajectoryBatch)


def with_reference(
    accounting: costs.Accounting,
    records: Sequence[types.Ladder | types.Rollouts],
) -> costs.Accounting:
  """Returns the accounting with `reference` set from records.

  It becomes the mean all-large cost of the records, in the accounting's metric.
  Pass training records only, since the observation group `cost` uses it.
  """
  all_large = [_all_large_cost(record, accounting) for record in records]
  return dataclasses.replace(accounting, reference=float(np.mean(all_large)))


def _all_large_cost(
    record: types.Ladder | types.Rollouts, accounting: costs.Accounting
) -> float:
  """Returns the cost of the largest model alone, in the metric's own unit."""
  specs, metric = accounting.specs, accounting.metric
  if isinstance(record, types.Rollouts):
    return costs.completion_cost(record.reference, specs, metric)
  if not record.steps:
    raise ValueError(
        f'Problem {record.problem.id} has 0 steps; allowed: 1 or more.'
    )
  # `all_large` is the same in both views; `draft_is_paid` does not matter.
  charged = costs.ladder_costs(record, specs, metric, draft_is_paid=False)
  return charged.all_large


def _observe(
    problem: types.Problem,
    written: Sequence[types.Step],
    traces: Iterable[types.Trace],
    config: observation.FeatureConfig,
) -> np.ndarray:
  """Returns the observations of `traces`, `[decisions, F]` float32.

  Args:
    problem: the problem, for error messages.
    written: the steps that the traces show.
    traces: one per decision.
    config: the features.
  """
  try:
    observation.check_log_probs(written)
    return np.stack([observation.observe(trace, config) for trace in traces])
  except ValueError as error:
    raise ValueError(f'Problem {problem.id}: {error}') from error


def _check_positive(
    all_large: float, problem: types.Problem, metric: str
) -> None:
  """Raises ValueError unless `all_large`, a denominator, is positive."""
  if not all_large > 0:
    raise ValueError(
        f'Problem {problem.id}: the all-large cost in cost metric {metric} is '
        f'{all_large}; it must be positive, because costs are fractions of it.'
    )


def _paid(
    trajectory: types.Trajectory,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
) -> np.ndarray:
  """Returns the cost of the calls that each decision caused.

  Returns:
    `[decisions]` float64 >= 0, in the metric's own unit; sums to the cost of
    the trajectory.
  """
  bounds = traces_lib.num_calls_seen(trajectory, protocol)
  # Calls bounds[t]:bounds[t + 1] follow decision t. So the draft shown at t + 1
  # is charged to t, which chose to continue. The first draft precedes every
  # decision; starting at 0 charges it to the first.
  bounds[0] = 0
  return np.array(
      [
          costs.total_cost(
              trajectory.calls[a:b], accounting.specs, accounting.metric
          )
          for a, b in itertools.pairwise(bounds)
      ]
  )


def _decisions(
    rollout: types.Rollouts,
    trajectory: types.Trajectory,
    config: observation.FeatureConfig,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
) -> dict[str, np.ndarray]:
  """Returns the fields of `TrajectoryBatch` that have an axis T, unpadded."""
  problem, decisions = trajectory.problem, trajectory.decisions
  if len(decisions) > config.max_decisions:
    raise ValueError(
        f'Problem {problem.id} has {len(decisions)} decisions; allowed: at '
        f'most {config.max_decisions}.'
    )
  # Importance weights divide by these probabilities.
  for t, decision in enumerate(decisions):
    if not 0 < decision.probability <= 1:
      raise ValueError(
          f'Problem {problem.id}, decision {t}: the probability is '
          f'{decision.probability}; it must be in (0, 1].'
      )
  all_large = _all_large_cost(rollout, accounting)
  _check_positive(all_large, problem, accounting.metric)
  written = (*trajectory.steps, *trajectory.discarded)
  seen = traces_lib.of_trajectory(trajectory, accounting, protocol)
  return {
      'features': _observe(problem, written, seen, config),
      'mask': np.ones(len(decisions), bool),
      # Writer 0 at every decision: `escalate` asks the router only while the
      # small model writes, and the other protocols allow every route.
      'available': protocol.action_mask(
          np.zeros(len(decisions), int), len(accounting.specs)
      ),
      'actions': np.array([x.route for x in decisions]),
      'behaviour': np.array([x.probability for x in decisions]),
      'costs': _paid(trajectory, accounting, protocol) / all_large,
  }


def trajectory_batch(
    rollouts: Sequence[types.Rollouts],
    config: observation.FeatureConfig,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
) -> types.TrajectoryBatch:
  """Stacks trajectories to arrays, padded to `config.max_decisions` decisions.

  Args:
    rollouts: of N problems. B is the number of their trajectories together, in
      the order of the problems.
    config: the features; its max_decisions is T.
    accounting: charges the calls; its `reference` scales the feature `spent`.
    protocol: the protocol in which the rollouts were collected.

  Returns:
    NumPy arrays; see `types.TrajectoryBatch`. Features are not standardised.
    Padding is 0, except in `available` and `behaviour`, where it is 1.

  Raises:
    ValueError: naming the problem, if a trajectory is of another protocol, has
      no decision or more than T, or has a log-probability that is not finite.
  """
  pairs = [(x, y) for x in rollouts for y in x.trajectories]
  if not pairs:
    raise ValueError('There are no trajectories; at least 1 is needed.')
  shape, num_routes = (len(pairs), config.max_decisions), len(accounting.specs)
  # Relative loss and gain compare each trajectory with the largest model alone.
  right = np.array([y.is_correct for _, y in pairs], np.float32)
  alone = np.array([x.reference.is_correct for x, _ in pairs], np.float32)
  batch = types.TrajectoryBatch(
      features=np.zeros((*shape, config.size), np.float32),
      mask=np.zeros(shape, bool),
      # Ones in the padding keep the softmax over routes and the importance
      # weight finite there; `mask` removes both from every loss.
      available=np.ones((*shape, num_routes), bool),
      actions=np.zeros(shape, np.int32),
      behaviour=np.ones(shape, np.float32),
      costs=np.zeros(shape, np.float32),
      correct=right,
      loss=alone * (1 - right),
      gain=right * (1 - alone),
  )
  for row, (rollout, trajectory) in enumerate(pairs):
    rows = _decisions(rollout, trajectory, config, accounting, protocol)
    for name, values in rows.items():
      getattr(batch, name)[row, : len(values)] = values
  return batch


def costs_by_metric(
    rollouts: Sequence[types.Rollouts],
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
    config: observation.FeatureConfig,
) -> dict[str, np.ndarray]:
  """Returns `TrajectoryBatch.costs` in every cost metric.

  Returns:
    Cost metric -> `[B, T]` float64, fractions of the all-large cost of the same
    problem in that metric. Rows are as in `trajectory_batch`.
  """
  num = sum(len(x.trajectories) for x in rollouts)
  found = {}
  for metric in costs.COST_METRICS:
    charged = dataclasses.replace(accounting, metric=metric)
    values = np.zeros((num, config.max_decisions))
    rows = ((x, y) for x in rollouts for y in x.trajectories)
    for row, (rollout, trajectory) in enumerate(rows):
      all_large = _all_large_cost(rollout, charged)
      _check_positive(all_large, rollout.problem, metric)
      paid = _paid(trajectory, charged, protocol)
      values[row, : len(paid)] = paid / all_large
    found[metric] = values
  return found


def standardized(batch: Batch, statistics: standardize.Statistics) -> Batch:
  """Returns the batch with standardised features."""
  features = standardize.apply(batch.features, statistics)
  # Standardising turned the padding's zeros into -mean / std.
  features[~batch.mask] = 0.0
  return dataclasses.replace(batch, features=features)


def minibatch_indices(
    seed: int, step: int, num_problems: int, batch_size: int
) -> np.ndarray:
  """Returns the rows of the minibatch of gradient step `step` (from 0).

  Minibatches are consecutive parts of an endless sequence of shuffled epochs.
  Every problem occurs once per epoch, whether or not the batch size divides N.
  The result depends on the arguments only, so a resumed run repeats it.

  Returns:
    `[min(batch_size, N)]` int32 in [0, N).
  """
  size = min(batch_size, num_problems)
  start = step * size
  # A minibatch may span the end of one epoch and the start of the next.
  epochs = range(start // num_problems, (start + size - 1) // num_problems + 1)
  order = np.concatenate(
      [
          np.random.default_rng((seed, epoch)).permutation(num_problems)
          for epoch in epochs
      ]
  )
  offset = start - epochs[0] * num_problems
  return order[offset : offset + size].astype(np.int32)


def trimmed(batch: Batch) -> Batch:
  """Returns the batch without trailing steps at which no row has a decision."""
  if isinstance(batch, types.OutcomeBatch):
    return batch  # Already as wide as its widest level; `widths` says so.
  used = int(np.flatnonzero(batch.mask.any(axis=0)).max(initial=0)) + 1
  return dataclasses.replace(
      batch,
      **{
          name: array[:, :used]
          for name, array in vars(batch).items()
          if array.ndim > 1  # `correct`, `loss` and `gain` have no axis T.
      },
  )
