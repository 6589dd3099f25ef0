"""Ladders to arrays, and the order in which training sees them.

Everything that a policy could have done on a problem is in its ladder, so one
`LadderBatch` is the whole training set; minibatches are rows of it, picked by a
pure function of (seed, step).
"""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import itertools

import numpy as np

from routing import costs
from routing import protocols
from routing import types
from routing.features import observation
from routing.features import standardize


def with_reference(
    accounting: costs.Accounting, ladders: Sequence[types.Ladder]
) -> costs.Accounting:
  """Sets the expected all-large cost to the mean over (training) ladders."""
  all_large = [
      costs.ladder_costs(
          ladder, accounting.specs, accounting.ruler, draft_is_paid=False
      ).all_large
      for ladder in ladders
  ]
  return dataclasses.replace(accounting, reference=float(np.mean(all_large)))


def trace_at(
    ladder: types.Ladder,
    step: int,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
) -> types.Trace:
  """The trace that the live driver shows a router at decision `step`."""
  drafted = step + 1 if protocol.has_draft else step
  return types.Trace(
      question=ladder.problem.question,
      steps=ladder.steps[:step],
      draft=ladder.steps[step] if protocol.has_draft else None,
      spent=accounting.spent(s.usage for s in ladder.steps[:drafted]),
  )


def _features(
    ladder: types.Ladder,
    config: observation.FeatureConfig,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
) -> np.ndarray:
  """`[steps, F]` float32, one row per decision of a ladder."""
  rows = []
  for t, step in enumerate(ladder.steps):
    if not (
        np.isfinite(step.log_probs).all()
        and np.isfinite(step.top_log_probs).all()
    ):
      raise ValueError(
          f'Problem {ladder.problem.id}, step {t}: a log-probability is not '
          'finite.'
      )
    try:
      trace = trace_at(ladder, t, accounting, protocol)
      rows.append(observation.observe(trace, config))
    except ValueError as error:
      raise ValueError(f'Problem {ladder.problem.id}: {error}') from error
  return np.stack(rows)


def _grades(ladder: types.Ladder, num_routes: int) -> np.ndarray:
  """`[steps, A-1, samples]` float32, 1 where a completion is right."""
  grades = {
      (c.step, c.route, c.sample): c.is_correct for c in ladder.completions
  }
  samples = 1 + max(sample for _, _, sample in grades)
  shape = len(ladder.steps), num_routes - 1, samples
  missing = [
      key
      for key in np.ndindex(shape)
      if (key[0], key[1] + 1, key[2]) not in grades
  ]
  if missing:
    step, route, sample = missing[0]
    raise ValueError(
        f'Ladder {ladder.problem.id} has no completion {sample} by route '
        f'{route + 1} from step {step}.'
    )
  out = np.zeros(shape, np.float32)
  for t, m, s in np.ndindex(shape):
    out[t, m, s] = grades[t, m + 1, s]
  return out


def _outcomes(
    ladder: types.Ladder,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
) -> dict[str, np.ndarray]:
  """The fields of a `LadderBatch` but features and mask, for one ladder."""
  charged = costs.ladder_costs(
      ladder,
      accounting.specs,
      accounting.ruler,
      draft_is_paid=protocol.has_draft,
  )
  if not charged.all_large > 0:
    raise ValueError(
        f'Problem {ladder.problem.id}: the all-large cost in the ruler '
        f'{accounting.ruler} is {charged.all_large}; it must be positive.'
    )
  right = _grades(ladder, len(accounting.specs))
  # Paired by sample: draw s of the largest model alone against draw s here.
  alone = right[0, -1]
  return {
      'handover_correct': right.mean(axis=-1),
      'handover_cost': charged.handover / charged.all_large,
      'handover_loss': (alone * (1.0 - right)).mean(axis=-1),
      'stay_correct': np.float32(ladder.is_correct),
      'stay_cost': charged.stay / charged.all_large,
      'stay_loss': alone.mean() * (1.0 - np.float32(ladder.is_correct)),
  }


def ladder_batch(
    ladders: Sequence[types.Ladder],
    config: observation.FeatureConfig,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
) -> types.LadderBatch:
  """Stacks ladders into arrays, padded to `config.max_steps` decisions.

  Args:
    ladders: N ladders with a completion for each (step, route, sample).
    config: what is observed.
    accounting: what is paid, and `reference` for the cost group.
    protocol: whether the draft is seen, and paid.

  Returns:
    NumPy arrays; see `types.LadderBatch`. Features are not standardised.

  Raises:
    ValueError: naming the problem, if a completion is missing, a log-
      probability is not finite, or a trace is longer than `max_steps`.
  """
  if not ladders:
    raise ValueError('There are no ladders; at least 1 is needed.')
  num, num_steps = len(ladders), config.max_steps
  larger = len(accounting.specs) - 1
  features = np.zeros((num, num_steps, config.size), np.float32)
  mask = np.zeros((num, num_steps), bool)
  fields = {
      f'{way}_{what}': np.zeros(
          (num, num_steps, larger) if way == 'handover' else (num,), np.float32
      )
      for way in ('handover', 'stay')
      for what in ('correct', 'cost', 'loss')
  }
  for n, ladder in enumerate(ladders):
    steps = len(ladder.steps)
    if steps > num_steps:
      raise ValueError(
          f'Problem {ladder.problem.id} has {steps} steps; allowed: at most '
          f'{num_steps}.'
      )
    features[n, :steps] = _features(ladder, config, accounting, protocol)
    mask[n, :steps] = True
    for name, values in _outcomes(ladder, accounting, protocol).items():
      if name.startswith('handover'):
        fields[name][n, :steps] = values
      else:
        fields[name][n] = values
  return types.LadderBatch(features=features, mask=mask, **fields)


def standardized(
    batch: types.LadderBatch, statistics: standardize.Statistics
) -> types.LadderBatch:
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


def minibatches(
    seed: int, start: int, num_problems: int, batch_size: int
) -> Iterator[np.ndarray]:
  """The rows of steps `start`, `start + 1`, ... without end."""
  for step in itertools.count(start):
    yield minibatch_indices(seed, step, num_problems, batch_size)


def trimmed(batch: types.LadderBatch) -> types.LadderBatch:
  """The batch without the trailing steps at which nobody decides anything."""
  used = int(np.flatnonzero(batch.mask.any(axis=0)).max(initial=0)) + 1
  return dataclasses.replace(
      batch,
      features=batch.features[:, :used],
      mask=batch.mask[:, :used],
      handover_correct=batch.handover_correct[:, :used],
      handover_cost=batch.handover_cost[:, :used],
      handover_loss=batch.handover_loss[:, :used],
  )
