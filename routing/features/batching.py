"""Converts rollouts to arrays, and selects the rows of each minibatch.

One batch holds the whole training set. A minibatch is a set of rows of this
batch, selected by a pure function of (seed, step). So a resumed run sees the
same minibatches as an uninterrupted one.
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
  """Returns the accounting with its `reference` computed from records.

  The reference is the mean cost of the largest model alone, in the metric of
  the accounting. Pass training records only: the feature group `cost` divides
  by the reference, so other records would leak into the features.
  """
  all_large = [all_large_cost(record, accounting) for record in records]
  return dataclasses.replace(accounting, reference=float(np.mean(all_large)))


def all_large_cost(
    record: types.Ladder | types.Rollouts, accounting: costs.Accounting
) -> float:
  """Returns what the largest model alone costs on the problem of a record.

  The cost is in the metric's own unit.
  """
  specs, metric = accounting.specs, accounting.metric
  if isinstance(record, types.Rollouts):
    return costs.completion_cost(record.reference, specs, metric)
  if not record.steps:
    raise ValueError(
        f'The ladder of problem {record.problem.id} has 0 steps; allowed: 1 or '
        'more.'
    )
  # `draft_is_paid` has no effect on `all_large`; any value would do.
  charged = costs.ladder_costs(record, specs, metric, draft_is_paid=False)
  return charged.all_large


def _observe(
    problem: types.Problem,
    written: Sequence[types.Step],
    traces: Iterable[types.Trace],
    config: observation.FeatureConfig,
) -> np.ndarray:
  """Returns the observations of one problem's traces, `[decisions, F]` float32.

  Args:
    problem: the problem, which error messages name.
    written: all steps and drafts that the traces show.
    traces: the trace at each decision, in order.
    config: the configuration of the features.

  Raises:
    ValueError: naming the problem, if a log-probability or a feature is not
      finite.
  """
  try:
    observation.check_log_probs(written)
    return np.stack([observation.observe(trace, config) for trace in traces])
  except ValueError as error:
    raise ValueError(f'Problem {problem.id}: {error}') from error


def _check_positive(
    all_large: float, problem: types.Problem, metric: str
) -> None:
  """Raises ValueError unless `all_large`, the divisor of costs, is positive."""
  if not all_large > 0:
    raise ValueError(
        f'Problem {problem.id}: the cost of the largest model alone in cost '
        f'metric {metric} is {all_large}; it must be positive, because other '
        'costs are divided by it.'
    )


def _paid(
    trajectory: types.Trajectory,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
) -> np.ndarray:
  """Returns the cost of the calls between each decision and the next one.

  Returns:
    `[decisions]` float64 >= 0, in the metric's own unit; the sum is the cost of
    the trajectory.
  """
  bounds = traces_lib.num_calls_seen(trajectory, protocol)
  # Calls bounds[t]:bounds[t + 1] follow decision t. They include the draft
  # shown at decision t + 1, because decision t chose to continue. The first
  # draft precedes every decision; bounds[0] = 0 charges it to decision 0.
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
  """Returns the arrays of one trajectory, with one row per decision.

  Args:
    rollout: the rollouts of the problem, for the cost of the largest model.
    trajectory: one of their trajectories.
    config: the configuration of the features.
    accounting: charges the calls.
    protocol: the protocol in which the trajectory was collected.

  Returns:
    Field name -> array `[decisions, ...]`, for each field of
    `types.TrajectoryBatch` that has an axis T. There is no padding.
  """
  problem, decisions = trajectory.problem, trajectory.decisions
  if len(decisions) > config.max_decisions:
    raise ValueError(
        f'Problem {problem.id} has {len(decisions)} decisions; allowed: at '
        f'most {config.max_decisions}.'
    )
  # Importance weights divide by these probabilities, so none may be 0.
  for t, decision in enumerate(decisions):
    if not 0 < decision.probability <= 1:
      raise ValueError(
          f'Problem {problem.id}, decision {t}: the action probability is '
          f'{decision.probability}; it must be in (0, 1].'
      )
  all_large = all_large_cost(rollout, accounting)
  _check_positive(all_large, problem, accounting.metric)
  written = (*trajectory.steps, *trajectory.discarded)
  seen = traces_lib.of_trajectory(trajectory, accounting, protocol)
  return {
      'features': _observe(problem, written, seen, config),
      'mask': np.ones(len(decisions), bool),
      # The mask after writer 0 is right at every decision: in `escalate` the
      # router is asked only while the small model writes, and in the other
      # protocols the mask does not depend on the writer.
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
  """Stacks trajectories into arrays, padded to T decisions.

  Args:
    rollouts: the rollouts of N problems. Rows follow the order of the problems;
      B is the total number of trajectories.
    config: the configuration of the features; its max_decisions is T.
    accounting: charges the calls; its `reference` is the unit of the feature
      `spent`.
    protocol: the protocol in which the rollouts were collected.

  Returns:
    NumPy arrays; see `types.TrajectoryBatch`. Features are not standardised.
    Padding is 0, except in `available` and `behaviour`, where it is 1.

  Raises:
    ValueError: naming the problem, if a trajectory was collected in another
      protocol, has no decision or more than T, or has a log-probability that is
      not finite.
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
      # Padding is 1 in `available` and `behaviour`, so that the softmax over
      # routes and the importance weight are finite there. `mask` removes both
      # from every loss.
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
  """Returns the cost that follows each decision, in every cost metric.

  Results report all metrics, whichever one the policy was trained on.

  Args:
    rollouts: the rollouts of N problems.
    accounting: its models charge the calls; its metric is ignored.
    protocol: the protocol in which the rollouts were collected.
    config: its max_decisions is T.

  Returns:
    Cost metric -> `[B, T]` float64, as in `types.TrajectoryBatch.costs`:
    fractions of what the largest model alone costs on the same problem in this
    metric. Rows are as in `trajectory_batch`.
  """
  num = sum(len(x.trajectories) for x in rollouts)
  found = {}
  for metric in costs.COST_METRICS:
    charged = dataclasses.replace(accounting, metric=metric)
    values = np.zeros((num, config.max_decisions))
    rows = ((x, y) for x in rollouts for y in x.trajectories)
    for row, (rollout, trajectory) in enumerate(rows):
      all_large = all_large_cost(rollout, charged)
      _check_positive(all_large, rollout.problem, metric)
      paid = _paid(trajectory, charged, protocol)
      values[row, : len(paid)] = paid / all_large
    found[metric] = values
  return found


def standardized(batch: Batch, statistics: standardize.Statistics) -> Batch:
  """Returns the batch with standardised features; padding stays 0."""
  features = standardize.apply(np.asarray(batch.features), statistics)
  # `apply` has turned the zeros of the padding into -mean / std.
  features[np.asarray(batch.mask) == 0] = 0.0
  return dataclasses.replace(batch, features=features)


def minibatch_indices(
    seed: int, step: int, num_problems: int, batch_size: int
) -> np.ndarray:
  """Returns the row indices of the minibatch of one gradient step.

  Minibatches are consecutive parts of an endless sequence of shuffled epochs.
  Every row occurs once per epoch, whether or not the batch size divides N. The
  result depends on the arguments only, so a resumed run repeats it.

  Args:
    seed: of the order of rows.
    step: index of the gradient step, from 0.
    num_problems: N, the number of rows.
    batch_size: number of rows of a minibatch; a number above N means N.

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
  """Returns the batch without the last columns if they hold only padding."""
  if isinstance(batch, types.OutcomeBatch):
    return batch  # Every column is a decision of some problem; see `widths`.
  used = int(np.flatnonzero(batch.mask.any(axis=0)).max(initial=0)) + 1
  return dataclasses.replace(
      batch,
      **{
          name: array[:, :used]
          for name, array in vars(batch).items()
          if array.ndim > 1  # `correct`, `loss` and `gain` have no axis T.
      },
  )
