"""Transition kernels of a process, as matrices over its hidden states.

The hidden state before a step is

  d  difficulty of the step,
  e  whether the trace is wrong (1) or right (0),
  r  whether the reference, the largest model's own trace, is wrong,
  f  whether the shown draft would leave the trace wrong (only with drafts).

The S states are laid out flat in this order. In the sums (einsum) below, the
state after the step has capital letters D, E, R, F; o is the confidence level
of the step that was written, p that of the next draft.
"""

import dataclasses

import numpy as np

from routing import protocols
from routing.simulation import process as process_lib


@dataclasses.dataclass(frozen=True)
class Kernels:
  """The dynamics from one decision to the next under one protocol.

  C counts the possible observations between two decisions.

  initial: `[C, S]`, P(first observation, hidden state). The observation is the
    confidence level of the first draft; without drafts there is none, C = 1.
  steps: per action `[S, C, S]`, P(observation, next state | state, action).
    C = L for the level of the step just written or, if a draft was kept, of the
    next draft. C = L * L if a draft was rewritten: level of the new step * L +
    level of the next draft.
  ends: `[T, A, S, 2]`, probability of a right answer, and of a relative loss,
    after a final action: one at the last step, or a hand-over for good. NaN for
    other actions.
  """

  initial: np.ndarray
  steps: tuple[np.ndarray, ...]
  ends: np.ndarray


def make_kernels(
    process: process_lib.Process, protocol: protocols.Protocol
) -> Kernels:
  """Returns the transition kernels of a process under a protocol."""
  # Trace and reference are right (e = r = 0) before the first step.
  initial = np.zeros((len(process.start), 2, 2))
  initial[:, 0, 0] = process.start
  ends = _ends(process, protocol)
  if not protocol.has_draft:
    # P(E, R | d, e, r) P(o | d, E) P(D | d): the confidence is that of the
    # step just written, whose difficulty is d and which left the trace as E.
    steps = tuple(
        np.einsum('derER,dEo,dD->deroDER', x, process.confidence, process.moves)
        for x in _joints(process)
    )
    return Kernels(initial.reshape(1, -1), _flat(steps, 3), ends)
  # P(f, p | d, e): whether the draft leaves the trace wrong, and its level.
  drafts = np.einsum(
      'def,dfp->defp', _trace_probabilities(process)[0], process.confidence
  )
  initial = np.einsum('der,defp->pderf', initial, drafts)
  return Kernels(
      initial.reshape(process.num_levels, -1),
      _flat(_draft_steps(process, drafts), 4),
      _draft_ends(process, ends),
  )


def _flat(
    steps: tuple[np.ndarray, ...], num_axes: int
) -> tuple[np.ndarray, ...]:
  """Returns `[S, C, S]` kernels: flattens the axes of states and observations.

  Args:
    steps: per action, the axes of the state, those of the observation, and the
      axes of the next state.
    num_axes: number of axes of a state.
  """
  size = int(np.prod(steps[0].shape[:num_axes]))
  return tuple(x.reshape(size, -1, size) for x in steps)


def _trace_probabilities(process: process_lib.Process) -> np.ndarray:
  """Returns `[A, D, 2, 2]`, P(trace after a step | route, d, trace before).

  Both trace axes are right (0), wrong (1); the last one is after the step.
  """
  right = process.stays_right
  return np.stack([right, 1.0 - right], axis=-1)


def _joints(process: process_lib.Process) -> list[np.ndarray]:
  """Returns per route `[d, e, r, E, R]`, P(E, R | d, e, r) after its step."""
  right = process.stays_right
  reference = right[-1][:, None, :]  # [d, 1, r]
  joints = []
  for route in range(process.num_routes):
    trace = right[route][:, :, None]  # [d, e, 1]
    # The reference's step is written by the largest model. If that writes the
    # trace too, both use the same random draw u and are right where u < trace
    # and u < reference. So P(both right) = min(trace, reference); with another
    # writer the draws are independent.
    is_same = route == process.num_routes - 1
    both = np.minimum(trace, reference) if is_same else trace * reference
    # Given both marginals and P(both right), the other three cells follow.
    if_right = np.stack([both, trace - both], axis=-1)
    if_wrong = np.stack(
        [reference - both, 1.0 - trace - reference + both], axis=-1
    )
    joints.append(np.stack([if_right, if_wrong], axis=-2))
  return joints


def _draft_steps(
    process: process_lib.Process, drafts: np.ndarray
) -> tuple[np.ndarray, ...]:
  """Returns per action `[d, e, r, f, C, D, E, R, F]`; C is p, or o and p."""
  any_of_two, same = np.ones(2), np.eye(2)
  reference = _trace_probabilities(process)[-1]
  # Keeping the draft makes E = f, whatever e was. The reference's step is the
  # largest model's, independent of the draft.
  keep = np.einsum(
      'e,fE,drR,dD,DEFp->derfpDERF',
      any_of_two,
      same,
      reference,
      process.moves,
      drafts,
  )
  # A rewritten draft is discarded, so f has no influence.
  rewrite = [
      np.einsum(
          'f,derER,dEo,dD,DEFp->derfopDERF',
          any_of_two,
          x,
          process.confidence,
          process.moves,
          drafts,
      )
      for x in _joints(process)[1:]
  ]
  return (keep, *rewrite)


def _ends(
    process: process_lib.Process, protocol: protocols.Protocol
) -> np.ndarray:
  """Returns `ends` of `Kernels` for states without a draft, by recursion."""
  ends = []
  for route, joint in enumerate(_joints(process)):
    size = int(np.prod(joint.shape[:3]))
    # After the last step: P(E = 0), and P(E = 1, R = 0), the relative loss.
    right, lost = joint[..., 0, :].sum(axis=-1), joint[..., 1, 0]
    rows = [np.stack([right, lost], axis=-1).reshape(size, 2)]
    # One step earlier, for a route that writes to the end:
    # ends_t = P(next state | state) ends_{t+1}.
    step = np.einsum('derER,dD->derDER', joint, process.moves)
    step = step.reshape(size, size)
    for _ in range(process.num_steps - 1):
      is_last = protocol.is_absorbing(route)
      rows.append(step @ rows[-1] if is_last else np.full((size, 2), np.nan))
    ends.append(rows[::-1])  # They were computed from the last step on.
  return np.moveaxis(np.asarray(ends), 0, 1)


def _draft_ends(process: process_lib.Process, ends: np.ndarray) -> np.ndarray:
  """Returns `ends` of `Kernels` for states with a draft."""
  # The draft matters only if it is kept, so all else is repeated for f = 0, 1.
  ends = np.repeat(ends, 2, axis=2)
  lost = np.einsum(
      'e,f,dr->derf',
      np.ones(2),
      [0, 1],
      _trace_probabilities(process)[-1, ..., 0],
  )
  # Keeping the last draft: right if f = 0; lost if f = 1 and the reference's
  # last step leaves it right.
  right = np.broadcast_to([1.0, 0.0], lost.shape)
  ends[-1, 0] = np.stack([right, lost], axis=-1).reshape(-1, 2)
  return ends
