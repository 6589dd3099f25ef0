"""Transition kernels of a process, as matrices over its hidden states.

The hidden state before a step is

  d  difficulty of the step,
  e  1 if the trace is wrong, 0 if it is right,
  r  1 if the reference, the largest model's own trace, is wrong, otherwise 0,
  f  1 if the trace would be wrong after keeping the draft, otherwise 0; only
     under a protocol that shows a draft of the step.

The S states are flattened in this order. In the einsums below, the state after
the step has capital letters D, E, R, F; o is the confidence level of the step
that was written, and p is the confidence level of the next draft.
"""

import dataclasses

import numpy as np

from routing import protocols
from routing.simulation import process as process_lib


@dataclasses.dataclass(frozen=True)
class Kernels:
  """The dynamics from one decision to the next under one protocol.

  C is the number of possible observations between two decisions, S the number
  of hidden states, L the number of confidence levels.

  initial: `[C, S]`, P(first observation, hidden state). The first observation
    is the confidence level of the first draft; C = 1 without drafts.
  steps: per action `[S, C, S]`, P(observation, next state | state, action).
    Without drafts C = L: the level of the step just written. After a draft was
    kept C = L: the level of the next draft. After a draft was rewritten C =
    L * L: level of the new step * L + level of the next draft.
  ends: `[T, A, S, 2]`, probabilities of a right answer and of a relative loss
    after a final action: any action at the last step, or a hand-over for good
    at any step. NaN for actions that are not final.
  """

  initial: np.ndarray
  steps: tuple[np.ndarray, ...]
  ends: np.ndarray


def make_kernels(
    process: process_lib.Process, protocol: protocols.Protocol
) -> Kernels:
  """Returns the transition kernels of a process under a protocol."""
  # Before the first step neither the trace nor the reference has an error, so
  # only states with e = 0 and r = 0 have a probability.
  initial = np.zeros((len(process.start), 2, 2))
  initial[:, 0, 0] = process.start
  ends = _ends(process, protocol)
  if not protocol.has_draft:
    # P(E, R | d, e, r) P(o | d, E) P(D | d): o is the confidence level of the
    # step just written, which depends on its difficulty d and on whether the
    # trace is wrong after it, E.
    steps = tuple(
        np.einsum('derER,dEo,dD->deroDER', x, process.confidence, process.moves)
        for x in _joints(process)
    )
    return Kernels(initial.reshape(1, -1), _flat(steps, 3), ends)
  # P(f, p | d, e): whether the trace would be wrong after the draft, and the
  # draft's confidence level.
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
  """Returns kernels as `[S, C, S]`, their state and observation axes flattened.

  Args:
    steps: one array per action. Its axes are the axes of the state, then of the
      observation, then of the next state.
    num_axes: number of axes of a state.
  """
  size = int(np.prod(steps[0].shape[:num_axes]))
  return tuple(x.reshape(size, -1, size) for x in steps)


def _trace_probabilities(process: process_lib.Process) -> np.ndarray:
  """Returns `[A, D, 2, 2]`, P(trace after a step | route, d, trace before).

  Axis 2 is the trace before the step, axis 3 the trace after the step: right
  (0) or wrong (1).
  """
  right = process.stays_right
  return np.stack([right, 1.0 - right], axis=-1)


def _joints(process: process_lib.Process) -> list[np.ndarray]:
  """Returns P(E, R | d, e, r) as `[d, e, r, E, R]`, one array per writer."""
  right = process.stays_right
  reference = right[-1][:, None, :]  # [d, 1, r]
  joints = []
  for route in range(process.num_routes):
    trace = right[route][:, :, None]  # [d, e, 1]
    # The largest model writes the reference's step. If it writes the trace's
    # step too, both steps use the same random draw u and are right where u <
    # trace and u < reference. So P(both right) = min(trace, reference). If
    # another route writes the trace's step, the draws are independent.
    is_same = route == process.num_routes - 1
    both = np.minimum(trace, reference) if is_same else trace * reference
    # The other three cells of the 2 x 2 table P(E, R) follow from P(both right)
    # and the marginals P(E = 0) = trace, P(R = 0) = reference.
    if_right = np.stack([both, trace - both], axis=-1)
    if_wrong = np.stack(
        [reference - both, 1.0 - trace - reference + both], axis=-1
    )
    joints.append(np.stack([if_right, if_wrong], axis=-2))
  return joints


def _draft_steps(
    process: process_lib.Process, drafts: np.ndarray
) -> tuple[np.ndarray, ...]:
  """Returns P(observation, next state | state) per action, with drafts.

  Args:
    process: the dynamics.
    drafts: `[d, e, f, p]`, P(f, p | d, e).

  Returns:
    For action 0 (keep the draft) `[d, e, r, f, p, D, E, R, F]`; for each other
    action (rewrite the step) `[d, e, r, f, o, p, D, E, R, F]`.
  """
  any_of_two, same = np.ones(2), np.eye(2)
  reference = _trace_probabilities(process)[-1]
  # Keeping the draft makes E = f, whatever e was. The reference's step is drawn
  # for the largest model, independently of the small model's draft.
  keep = np.einsum(
      'e,fE,drR,dD,DEFp->derfpDERF',
      any_of_two,
      same,
      reference,
      process.moves,
      drafts,
  )
  # A rewritten step replaces the draft, so f has no influence.
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
  """Returns `Kernels.ends` for states without a draft, from the last step."""
  ends = []
  for route, joint in enumerate(_joints(process)):
    size = int(np.prod(joint.shape[:3]))
    # At the last step: P(E = 0), a right answer, and P(E = 1, R = 0), a
    # relative loss.
    right, lost = joint[..., 0, :].sum(axis=-1), joint[..., 1, 0]
    rows = [np.stack([right, lost], axis=-1).reshape(size, 2)]
    # At earlier steps, for a route that writes all steps to the end:
    #   ends_t = sum over next states of P(next state | state) ends_{t+1}.
    step = np.einsum('derER,dD->derDER', joint, process.moves)
    step = step.reshape(size, size)
    for _ in range(process.num_steps - 1):
      is_last = protocol.is_absorbing(route)
      rows.append(step @ rows[-1] if is_last else np.full((size, 2), np.nan))
    ends.append(rows[::-1])  # `rows` begins with the last step.
  return np.moveaxis(np.asarray(ends), 0, 1)


def _draft_ends(process: process_lib.Process, ends: np.ndarray) -> np.ndarray:
  """Returns `Kernels.ends` for states with a draft, the axis f included.

  Args:
    process: the dynamics.
    ends: `[T, A, S, 2]` for the states (d, e, r) without a draft.
  """
  # f matters only if the draft is kept. So the other actions have the same
  # values for f = 0 and f = 1.
  ends = np.repeat(ends, 2, axis=2)
  lost = np.einsum(
      'e,f,dr->derf',
      np.ones(2),
      [0, 1],
      _trace_probabilities(process)[-1, ..., 0],
  )
  # If the last draft is kept, the answer is right if f = 0. It is a relative
  # loss if f = 1 and the reference is right after its last step.
  right = np.broadcast_to([1.0, 0.0], lost.shape)
  ends[-1, 0] = np.stack([right, lost], axis=-1).reshape(-1, 2)
  return ends
