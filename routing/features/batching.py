"""Ladders and rollouts to arrays, and the order in which training sees them.

Everything that a policy could have done on a problem is in its ladder, and what
a behaviour policy did do is in its rollouts, so one batch is the whole training
set; minibatches are rows of it, picked by a pure function of (seed, step).
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
  """Sets the expected all-large cost to the mean over (training) records."""
  all_large = [_all_large_cost(record, accounting) for record in records]
  return dataclasses.replace(accounting, reference=float(np.mean(all_large)))


def _all_large_cost(
    record: types.Ladder | types.Rollouts, accounting: costs.Accounting
) -> float:
  """Returns what the largest model alone costs on one problem, unscaled."""
  specs, metric = accounting.specs, accounting.metric
  if isinstance(record, types.Rollouts):
    return costs.completion_cost(record.reference, specs, metric)
  if not record.steps:
    raise ValueError(
        f'Problem {record.problem.id} has 0 steps; allowed: 1 or more.'
    )
  charged = costs.ladder_costs(record, specs, metric, draft_is_paid=False)
  return charged.all_large


def _observe(
    problem: types.Problem,
    written: Sequence[types.Step],
    traces: Iterable[types.Trace],
    config: observation.FeatureConfig,
) -> np.ndarray:
  """`[decisions, F]` float32; `written` are the steps that `traces` show."""
  try:
    observation.check_log_probs(written)
    return np.stack([observation.observe(trace, config) for trace in traces])
  except ValueError as error:
    raise ValueError(f'Problem {problem.id}: {error}') from error


def _check_positive(
    all_large: float, problem: types.Problem, metric: str
) -> None:
  """Raises ValueError unless costs can be fractions of `all_large`."""
  if not all_large > 0:
    raise ValueError(
        f'Problem {problem.id}: the all-large cost in cost metric {metric} is '
        f'{all_large}; it must be positive.'
    )


def _paid(
    trajectory: types.Trajectory,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
) -> np.ndarray:
  """`[decisions]` float64 >= 0, the part of the cost that each brought about.

  The draft that is shown at a decision is paid by the decision before; the
  first one, which nobody decided on, by the first.
  """
  bounds = traces_lib.num_calls_seen(trajectory, protocol)
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
  """The fields of a `TrajectoryBatch` that have steps, for one trajectory."""
  problem, decisions = trajectory.problem, trajectory.decisions
  if len(decisions) > config.max_decisions:
    raise ValueError(
        f'Problem {problem.id} has {len(decisions)} decisions; allowed: at '
        f'most {config.max_decisions}.'
    )
  for t, decision in enumerate(decisions):
    if not 0 < decision.probability <= 1:
      raise ValueError(
          f'Problem {problem.id}, decision {t}: the probability is '
          f'{decision.probability}; allowed: in (0, 1].'
      )
  all_large = _all_large_cost(rollout, accounting)
  _check_positive(all_large, problem, accounting.metric)
  written = (*trajectory.steps, *trajectory.discarded)
  seen = traces_lib.of_trajectory(trajectory, accounting, protocol)
  return {
      'features': _observe(problem, written, seen, config),
      'mask': np.ones(len(decisions), bool),
      # In `escalate`, too: only after the small model is the router asked.
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
  """Stacks behaviour trajectories, padded to `config.max_decisions` decisions.

  Args:
    rollouts: of N problems; B is the number of all their trajectories, which
      keep their order.
    config: what is observed.
    accounting: what is paid, and `reference` for the cost group.
    protocol: the one they were collected in.

  Returns:
    NumPy arrays; see `types.TrajectoryBatch`. Features are not standardised.
    Padding is zero, but for `available` and `behaviour`, which are one there:
    a softmax over the routes and a ratio of chances stay finite.

  Raises:
    ValueError: naming the problem, if a trajectory is of another protocol, has
      no decision or more than `max_decisions`, or a log-probability is not
      finite.
  """
  pairs = [(x, y) for x in rollouts for y in x.trajectories]
  if not pairs:
    raise ValueError('There are no trajectories; at least 1 is needed.')
  shape, num_routes = (len(pairs), config.max_decisions), len(accounting.specs)
  right = np.array([y.is_correct for _, y in pairs], np.float32)
  alone = np.array([x.reference.is_correct for x, _ in pairs], np.float32)
  batch = types.TrajectoryBatch(
      features=np.zeros((*shape, config.size), np.float32),
      mask=np.zeros(shape, bool),
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
  """Cost metric -> `[B, T]` float64, `TrajectoryBatch.costs` in that metric."""
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
  """The batch with standardised features; padding stays zero."""
  features = standardize.apply(batch.features, statistics)
  features[~batch.mask] = 0.0
  return dataclasses.replace(batch, features=features)


def minibatch_indices(
    seed: int, step: int, num_problems: int, batch_size: int
) -> np.ndarray:
  """Rows of gradient step `step`, counted from 0: pure in (seed, step).

  Steps read an endless row of shuffled epochs, so every problem is seen once
  per epoch, whether or not the batch size divides N.

  Returns:
    `[min(batch_size, N)]` int32 in [0, N).
  """
  size = min(batch_size, num_problems)
  start = step * size
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
  """The batch without the trailing steps at which nobody decides anything.

  Known outcomes are as wide as their decisions already, and come back as they
  are.
  """
  if isinstance(batch, types.OutcomeBatch):
    return batch
  used = int(np.flatnonzero(batch.mask.any(axis=0)).max(initial=0)) + 1
  return dataclasses.replace(
      batch,
      **{
          name: array[:, :used]
          for name, array in vars(batch).items()
          if array.ndim > 1  # The others have no steps.
      },
  )
