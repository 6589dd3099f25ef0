"""All histories of a process, with exact probabilities of the hidden states.

A history is the sequence of actions and observations before a decision. There
are few confidence levels and few steps, so every history can be listed, with
the joint probability of its observations and of each hidden state.

A network gets one of two feature sets for a history; the last features of both
are the one-hot number of the step.

- `belief`: the posterior over hidden states. The decision problem is Markov in
  the posterior, so a network without memory can be optimal.
- `signals`: what a real router observes: the confidence of the last step and of
  the draft, the cost so far, and the last writer. Only the whole sequence of
  these features is as informative as the belief, so they are for networks with
  memory.
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
  """The n histories before one decision, and their links to earlier histories.

  The successors of one history after one action are adjacent rows.

  masses: `[n, S]` float64, P(observations so far, hidden state | actions).
  parent: `[n]` int32, index of the same history one decision earlier; -1 before
    the first decision.
  action: `[n]` int32, the action taken at the parent; -1 before the first
    decision.
  seen: `[n]` int32, the observation after that action, numbered as in
    `Kernels`.
  """

  masses: np.ndarray
  parent: np.ndarray
  action: np.ndarray
  seen: np.ndarray


def first(kernels: kernels_lib.Kernels) -> Histories:
  """Returns the histories before the first decision, one per observation."""
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
    histories: n histories before a decision.
    actions: the actions that lead to another decision; at least one.

  Returns:
    The successors of all histories; and `[n, A]` int32, the index of the first
    successor of each history and action, -1 for actions not in `actions`.
  """
  masses, num = histories.masses, len(histories.masses)
  begins = np.full((num, len(kernels.steps)), -1, np.int32)
  blocks, size = [], 0
  for action in actions:
    # Filter step: P(.., o, s') = sum_s P(.., s) P(o, s' | s, action).
    joint = np.einsum('ns,sck->nck', masses, kernels.steps[action])
    num_seen = joint.shape[1]
    # Successors are ordered by action, then by history, then by observation. So
    # begins[n, action] + observation is the index of a successor.
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
  """Returns the features of each history, one `[n, F]` float32 per decision.

  Args:
    levels: the histories before each of T decisions.
    process, protocol: the process and protocol of the histories.
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
  """Returns `[F]` weights that make `belief` features an uncertainty score.

  The dot product of weights and features is the probability that the trace is
  wrong or, under a protocol with drafts, that the trace would be wrong if the
  draft were kept.
  """
  # The axes of a state are d, e, r and, with drafts, f. The weight is 1 for the
  # states with f = 1, or with e = 1 where there are no drafts.
  axes = (len(process.start),) + (2,) * (3 if protocol.has_draft else 2)
  is_wrong = np.indices(axes)[-1 if protocol.has_draft else 1].ravel()
  return np.append(is_wrong, np.zeros(process.num_steps)).astype(np.float32)


def _posterior(masses: np.ndarray) -> np.ndarray:
  """Returns P(hidden state | history), `[n, S]`, from joint `masses` `[n, S]`.

  Histories of probability 0 get zeros.
  """
  chance = masses.sum(axis=-1, keepdims=True)
  return masses / np.where(chance > 0, chance, 1.0)


def _signals(
    levels: Sequence[Histories],
    process: process_lib.Process,
    protocol: protocols.Protocol,
) -> list[np.ndarray]:
  """Returns the `signals` of each history, one `[n, 3 + A]` per decision.

  Columns: confidence of the last step, and of the draft, each in [-1, 1] and 0
  if there is no such step; cost so far; last writer, one-hot (zeros at first).

  Args:
    levels, process, protocol: as in `observe`.
  """
  scale = np.linspace(-1.0, 1.0, process.num_levels)
  num = len(levels[0].seen)
  draft = scale[levels[0].seen] if protocol.has_draft else np.zeros(num)
  last, spent = np.zeros(num), np.zeros(num)
  writers = np.zeros((num, process.num_routes))
  columns = [np.column_stack([last, draft, spent, writers])]
  costs = process_lib.action_costs(process, protocol)
  for step, level in enumerate(levels[1:]):
    # With drafts, the observation after a rewrite is (level of the new step) *
    # L + (level of the next draft). After a kept draft the observation is the
    # level of the next draft alone; it is below L, so `divmod` gives (0,
    # level).
    new, drafted = np.divmod(level.seen, process.num_levels)
    if protocol.has_draft:
      # A draft that is kept becomes the last step.
      is_kept = level.action == 0
      last = np.where(is_kept, draft[level.parent], scale[new])
      draft = scale[drafted]
    else:
      last, draft = scale[level.seen], np.zeros(len(level.seen))
    spent = spent[level.parent] + costs[step, level.action]
    writers = np.eye(process.num_routes)[level.action]
    columns.append(np.column_stack([last, draft, spent, writers]))
  return columns
