"""All histories of a process, and their exact filter over hidden states.

A history is the sequence of actions and observations before a decision. There
are few confidence levels and few steps, so every history can be listed, with
the joint probability of its observations and of each hidden state.

A network observes a history in one of two ways; both end with the one-hot step.

- `belief`: the posterior over hidden states. The problem is Markov in it, so a
  network of the current observation alone can be optimal.
- `signals`: what a real router has, namely the confidence of the last step and
  of the draft, the last writer, and the spending. Only their whole sequence is
  as informative as the belief, so they are for networks with memory.
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
  """The n histories before one decision, successors of a parent side by side.

  masses: `[n, S]` float64, P(observations so far, hidden state | actions).
  parent: `[n]` int32, index of the history one decision earlier; -1 before the
    first decision.
  action: `[n]` int32, the action taken there; -1 before the first decision.
  seen: `[n]` int32, the observation since then, numbered as in `Kernels`.
  """

  masses: np.ndarray
  parent: np.ndarray
  action: np.ndarray
  seen: np.ndarray


def first(kernels: kernels_lib.Kernels) -> Histories:
  """Returns the histories before the first decision."""
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
  """Returns the histories one decision later.

  Args:
    kernels: the dynamics.
    histories: n histories.
    actions: those that lead to another decision; at least one.

  Returns:
    The successors; and `[n, A]` int32, the index of the first successor of a
    history and action, -1 for actions that are not in `actions`.
  """
  masses, num = histories.masses, len(histories.masses)
  begins = np.full((num, len(kernels.steps)), -1, np.int32)
  blocks, size = [], 0
  for action in actions:
    # Filter step: P(.., o, s') = sum_s P(.., s) P(o, s' | s, action).
    joint = np.einsum('ns,sck->nck', masses, kernels.steps[action])
    num_seen = joint.shape[1]
    # Blocks follow by action; within one, by history and then by observation,
    # so that begins[n, action] + observation is the index of a successor.
    begins[:, action] = size + num_seen * np.arange(num)
    size += num * num_seen
    blocks.append(
        (
            joint.reshape(-1, masses.shape[1]),
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
  """Returns the observation at each history, `[n, F]` float32 per decision.

  Args:
    levels: histories before each of T decisions.
    process, protocol: those of the histories.
    kind: one of `FEATURES`.

  Raises:
    ValueError: if `kind` is not in `FEATURES`.
  """
  if kind == 'belief':
    columns = [_posterior(x.masses) for x in levels]
  elif kind == 'signals':
    columns = _signals(levels, process, protocol)
  else:
    raise ValueError(
        f'Unknown features {kind!r}; allowed: {", ".join(FEATURES)}.'
    )
  steps = np.eye(len(levels))  # Row t is the one-hot step.
  return [
      np.hstack([x, np.tile(step, (len(x), 1))]).astype(np.float32)
      for x, step in zip(columns, steps, strict=True)
  ]


def uncertainty_weights(
    process: process_lib.Process, protocol: protocols.Protocol
) -> np.ndarray:
  """Returns `[F]` weights of an uncertainty score on `belief` features.

  The dot product is the probability that the trace is wrong or, with drafts,
  that it would be if the draft were kept.
  """
  # Axes of a state: d, e, r and, with drafts, f. Selects the states with f = 1,
  # or with e = 1 where there are no drafts.
  axes = (len(process.start),) + (2,) * (3 if protocol.has_draft else 2)
  is_wrong = np.indices(axes)[-1 if protocol.has_draft else 1].ravel()
  return np.append(is_wrong, np.zeros(process.num_steps)).astype(np.float32)


def _posterior(masses: np.ndarray) -> np.ndarray:
  """Returns `[n, S]` posteriors; zeros for histories of probability 0."""
  chance = masses.sum(axis=-1, keepdims=True)
  return masses / np.where(chance > 0, chance, 1.0)


def _signals(
    levels: Sequence[Histories],
    process: process_lib.Process,
    protocol: protocols.Protocol,
) -> list[np.ndarray]:
  """Returns `[n, 3 + A]` per decision.

  Columns: confidence of the last step and of the draft, in [-1, 1] and 0 where
  there is none; cost so far; one-hot last writer.
  """
  scale = np.linspace(-1.0, 1.0, process.num_levels)
  num = len(levels[0].seen)
  draft = scale[levels[0].seen] if protocol.has_draft else np.zeros(num)
  last, spent = np.zeros(num), np.zeros(num)
  writers = np.zeros((num, process.num_routes))
  columns = [np.column_stack([last, draft, spent, writers])]
  costs = process_lib.action_costs(process, protocol)
  for step, level in enumerate(levels[1:]):
    # After a rewrite an observation is new step * L + next draft. After a kept
    # draft it is the next draft alone, which `divmod` leaves as it is.
    new, drafted = np.divmod(level.seen, process.num_levels)
    if protocol.has_draft:
      is_kept = level.action == 0  # The draft has become the last step.
      last = np.where(is_kept, draft[level.parent], scale[new])
      draft = scale[drafted]
    else:
      last, draft = scale[level.seen], np.zeros(len(level.seen))
    spent = spent[level.parent] + costs[step, level.action]
    writers = np.eye(process.num_routes)[level.action]
    columns.append(np.column_stack([last, draft, spent, writers]))
  return columns
