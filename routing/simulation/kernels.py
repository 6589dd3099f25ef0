"""The dynamics of a process as matrices over its hidden states.

The hidden state before a step is (difficulty, trace is wrong, reference is
wrong), the reference being the largest model's own trace; where a draft is
shown, also (the draft leaves the trace wrong). S of them, flat, in this order.
In the sums below these are d, e, r and f; after a step they are D, E, R and F.
A level of confidence is o, that of a draft p.
"""

import dataclasses

import numpy as np

from routing import protocols
from routing.simulation import process as process_lib


@dataclasses.dataclass(frozen=True)
class Kernels:
  """What happens from one decision to the next, for one protocol.

  initial: `[C, S]`, joint chance of what is seen before the first decision and
    of the hidden state: the level of the first draft, or nothing, C = 1.
  steps: for each action `[S, C, S]`, joint chance of what is seen up to the
    next decision and of the next state. Seen is one of C = L: the level of the
    step just written or, if a draft was kept, of the next draft. If a draft was
    rewritten, one of C = L * L: level of the new step * L + of the next draft.
  ends: `[T, A, S, 2]`, chance of a right answer, and of a relative loss, after
    an action that is the last: of the last step, or a hand-over for good. NaN
    where it is neither.
  """

  initial: np.ndarray
  steps: tuple[np.ndarray, ...]
  ends: np.ndarray


def make_kernels(
    process: process_lib.Process, protocol: protocols.Protocol
) -> Kernels:
  """The matrices of a process under a protocol."""
  initial = np.zeros((len(process.start), 2, 2))
  initial[:, 0, 0] = process.start
  ends = _ends(process, protocol)
  if not protocol.has_draft:
    steps = tuple(
        np.einsum('derER,dEo,dD->deroDER', x, process.confidence, process.moves)
        for x in _joints(process)
    )
    return Kernels(initial.reshape(1, -1), _flat(steps, 3), ends)
  # How the draft is, and looks, before its step.
  drafts = np.einsum(
      'def,dfp->defp', _probabilities_of_actions(process)[0], process.confidence
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
  """Joins the axes of the state, before and after what is seen."""
  size = int(np.prod(steps[0].shape[:num_axes]))
  return tuple(x.reshape(size, -1, size) for x in steps)


def _probabilities_of_actions(process: process_lib.Process) -> np.ndarray:
  """`[A, D, 2, 2]`: trace right (0) or wrong (1) after a step, given before."""
  right = process.stays_right
  return np.stack([right, 1.0 - right], axis=-1)


def _joints(process: process_lib.Process) -> list[np.ndarray]:
  """For each route `[d, e, r, E, R]`: trace and reference after its step.

  Both are right together as often as they can be if the same model writes both,
  because it is then the same luck; otherwise they are independent.
  """
  right = process.stays_right
  reference = right[-1][:, None, :]
  joints = []
  for route in range(process.num_routes):
    trace = right[route][:, :, None]
    is_same = route == process.num_routes - 1
    both = np.minimum(trace, reference) if is_same else trace * reference
    if_right = np.stack([both, trace - both], axis=-1)
    if_wrong = np.stack(
        [reference - both, 1.0 - trace - reference + both], axis=-1
    )
    joints.append(np.stack([if_right, if_wrong], axis=-2))
  return joints


def _draft_steps(
    process: process_lib.Process, drafts: np.ndarray
) -> tuple[np.ndarray, ...]:
  """For each action `[d, e, r, f, C, D, E, R, F]`, C one or two axes."""
  any_of_two, same = np.ones(2), np.eye(2)
  reference = _probabilities_of_actions(process)[-1]
  keep = np.einsum(
      'e,fE,drR,dD,DEFp->derfpDERF',
      any_of_two,
      same,
      reference,
      process.moves,
      drafts,
  )
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
  """`[T, A, S, 2]` where no draft is in the state."""
  ends = []
  for route, joint in enumerate(_joints(process)):
    size = int(np.prod(joint.shape[:3]))
    right, lost = joint[..., 0, :].sum(axis=-1), joint[..., 1, 0]
    rows = [np.stack([right, lost], axis=-1).reshape(size, 2)]
    step = np.einsum('derER,dD->derDER', joint, process.moves)
    step = step.reshape(size, size)
    for _ in range(process.num_steps - 1):
      is_last = protocol.is_absorbing(route)
      rows.append(step @ rows[-1] if is_last else np.full((size, 2), np.nan))
    ends.append(rows[::-1])
  return np.moveaxis(np.asarray(ends), 0, 1)


def _draft_ends(process: process_lib.Process, ends: np.ndarray) -> np.ndarray:
  """The same with a draft in the state: its end if it is kept."""
  ends = np.repeat(ends, 2, axis=2)
  lost = np.einsum(
      'e,f,dr->derf',
      np.ones(2),
      [0, 1],
      _probabilities_of_actions(process)[-1, ..., 0],
  )
  right = np.broadcast_to([1.0, 0.0], lost.shape)
  ends[-1, 0] = np.stack([right, lost], axis=-1).reshape(-1, 2)
  return ends
