"""All that a router can come to see and do, listed, and what it then knows.

Confidence has few levels and a trace few steps, so every history can be listed,
with the joint chance of its observations and of each hidden state: the exact
filter.

A network is shown a history in one of two ways. `belief`: the posterior over
hidden states, in which the problem is Markov, so that a network of the current
observation can be optimal. `signals`: what a real router has, the confidence of
the last step and of the draft, who wrote last, spending. Only their whole
history says as much as the belief, so they are for networks with memory. Both
end with the step, one-hot, and both are functions of the history alone.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from routing import protocols
from routing.simulation import kernels as kernels_lib
from routing.simulation import process as process_lib

FEATURES = ('belief', 'signals')


@dataclasses.dataclass(frozen=True)
class Histories:
  """The n histories before one decision, those of one parent side by side.

  masses: `[n, S]` float64, joint chance of all that was seen and of each hidden
    state, given the actions.
  parent: `[n]` int32, the history one decision earlier; -1 before the first.
  action: `[n]` int32, what was done then; -1 before the first.
  seen: `[n]` int32, what was seen since, as `Kernels` counts it.
  """

  masses: np.ndarray
  parent: np.ndarray
  action: np.ndarray
  seen: np.ndarray


def first(kernels: kernels_lib.Kernels) -> Histories:
  """Those before the first decision."""
  num = len(kernels.initial)
  none = np.full(num, -1, np.int32)
  return Histories(
      masses=kernels.initial,
      parent=none,
      action=none,
      seen=np.arange(num, dtype=np.int32),
  )


def successors(
    kernels: kernels_lib.Kernels,
    histories: Histories,
    actions: Sequence[int],
) -> tuple[Histories, np.ndarray]:
  """The histories one decision later.

  Args:
    kernels: the dynamics.
    histories: n of them.
    actions: after which there is another decision; at least one.

  Returns:
    The successors, and `[n, A]` int32, where those of a history and an action
    begin; -1 for other actions.
  """
  masses, num = histories.masses, len(histories.masses)
  begins = np.full((num, len(kernels.steps)), -1, np.int32)
  blocks, size = [], 0
  for action in actions:
    grown = np.einsum('ns,sck->nck', masses, kernels.steps[action])
    num_seen = grown.shape[1]
    begins[:, action] = size + num_seen * np.arange(num)
    size += num * num_seen
    blocks.append(
        (
            grown.reshape(-1, masses.shape[1]),
            np.repeat(np.arange(num, dtype=np.int32), num_seen),
            np.full(num * num_seen, action, np.int32),
            np.tile(np.arange(num_seen, dtype=np.int32), num),
        )
    )
  return Histories(*map(np.concatenate, zip(*blocks, strict=True))), begins


def observe(
    levels: Sequence[Histories],
    process: process_lib.Process,
    protocol: protocols.Protocol,
    kind: str,
) -> list[np.ndarray]:
  """For each level, `[n, F]` float32: the observation at each history.

  Args:
    levels: histories before each of T decisions.
    process, protocol: what they are histories of.
    kind: one of `FEATURES`.

  Raises:
    ValueError: if there is no such kind.
  """
  if kind == 'belief':
    columns = [_posterior(x.masses) for x in levels]
  elif kind == 'signals':
    columns = _signals(levels, process, protocol)
  else:
    raise ValueError(
        f'Unknown features {kind!r}; allowed: {", ".join(FEATURES)}.'
    )
  steps = np.eye(len(levels))
  return [
      np.hstack([x, np.tile(step, (len(x), 1))]).astype(np.float32)
      for x, step in zip(columns, steps, strict=True)
  ]


def uncertainty_weights(
    process: process_lib.Process, protocol: protocols.Protocol
) -> np.ndarray:
  """`[F]`: `belief` features times these are the chance that all is not well.

  That is, that the trace is wrong, or would be if the draft were kept. A score
  to put a threshold on.
  """
  axes = (len(process.start),) + (2,) * (3 if protocol.has_draft else 2)
  is_wrong = np.indices(axes)[-1 if protocol.has_draft else 1].ravel()
  return np.append(is_wrong, np.zeros(process.num_steps)).astype(np.float32)


def _posterior(masses: np.ndarray) -> np.ndarray:
  """`[n, S]`; zeros for what cannot be seen."""
  chance = masses.sum(axis=-1, keepdims=True)
  return masses / np.where(chance > 0, chance, 1.0)


def _signals(
    levels: Sequence[Histories],
    process: process_lib.Process,
    protocol: protocols.Protocol,
) -> list[np.ndarray]:
  """For each level `[n, 3 + A]`: confidences in [-1, 1], spending, writer."""
  scale = np.linspace(-1.0, 1.0, process.num_levels)
  num = len(levels[0].seen)
  draft = scale[levels[0].seen] if protocol.has_draft else np.zeros(num)
  last, spent = np.zeros(num), np.zeros(num)
  writers = np.zeros((num, process.num_routes))
  columns = [np.column_stack([last, draft, spent, writers])]
  costs = process_lib.action_costs(process, protocol)
  for step, level in enumerate(levels[1:]):
    # Seen is the new step's level, or the next draft's, or both.
    new, drafted = np.divmod(level.seen, process.num_levels)
    if protocol.has_draft:
      is_kept = level.action == 0
      last = np.where(is_kept, draft[level.parent], scale[new])
      draft = scale[drafted]
    else:
      last, draft = scale[level.seen], np.zeros(len(level.seen))
    spent = spent[level.parent] + costs[step, level.action]
    writers = np.eye(process.num_routes)[level.action]
    columns.append(np.column_stack([last, draft, spent, writers]))
  return columns
