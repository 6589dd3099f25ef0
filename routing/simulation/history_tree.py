"""Exact values of policies that look at nothing but their own history.

The histories form a tree: level t holds those before decision t. The value of
any such policy is a finite sum over it, linear in the chance of each action, so
the best one follows by going backwards; and no learner, whatever its network,
can know more than its history.
"""

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from routing import protocols
from routing.simulation import histories as histories_lib
from routing.simulation import kernels as kernels_lib
from routing.simulation import process as process_lib

MAX_HISTORIES = 2_000_000

# For each level `[n, A]`: chances of the actions at each history.
Policy = Sequence[np.ndarray]


class Values(NamedTuple):
  """What is expected of a policy.

  correct: in [0, 1], chance of a right answer.
  cost: >= 0, fraction of the all-large cost.
  loss: in [0, 1], chance that the largest model alone is right and this is not.
  """

  correct: float
  cost: float
  loss: float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Level:
  """The n histories before one decision; those of one parent side by side.

  features: `[n, F]` float32, what a network is shown.
  chance: `[n]`, chance of what was seen, given the actions.
  gains: `[n, A, 3]`, `chance` times what an action brings by itself, as
    `Values`: its cost and, where it is the last, the answer.
  parent: `[n]` int32, the history one decision earlier; -1 before the first.
  action: `[n]` int32, what was done then; -1 before the first.
  begins: `[n, A]` int32, where the successors of an action begin in the next
    level, ordered by what is seen; -1 where it is the last action.
  """

  features: np.ndarray
  chance: np.ndarray
  gains: np.ndarray
  parent: np.ndarray
  action: np.ndarray
  begins: np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HistoryTree:
  """All histories of a process under a protocol. A pytree: may enter jit.

  levels: T of them.
  process, protocol: what it was grown from.
  """

  levels: tuple[Level, ...]
  process: process_lib.Process = dataclasses.field(metadata={'static': True})
  protocol: protocols.Protocol = dataclasses.field(metadata={'static': True})


def build(
    process: process_lib.Process,
    protocol: protocols.Protocol,
    features: str = 'belief',
) -> HistoryTree:
  """Lists the histories of a process under a protocol.

  Each has L successors under `escalate`, A L under `switch`, and
  L + (A - 1) L^2 under `redraft`.

  Args:
    process: the dynamics.
    protocol: who may write which step.
    features: one of `histories.FEATURES`.

  Raises:
    ValueError: if there are no such features, or more than `MAX_HISTORIES`
      before one decision.
  """
  kernels = kernels_lib.make_kernels(process, protocol)
  num_steps = process.num_steps
  going = [a for a in range(process.num_routes) if not protocol.is_absorbing(a)]
  growth = sum(kernels.steps[a].shape[1] for a in going)
  size = len(kernels.initial) * growth ** (num_steps - 1)
  if size > MAX_HISTORIES:
    raise ValueError(
        f'{size} histories in {num_steps} steps; allowed: {MAX_HISTORIES}.'
    )
  rows = [histories_lib.first(kernels)]
  begins = []
  for step in range(num_steps):
    if step == num_steps - 1:
      none = np.full((len(rows[-1].masses), process.num_routes), -1, np.int32)
      begins.append(none)
    else:
      after, where = histories_lib.successors(kernels, rows[-1], going)
      rows.append(after)
      begins.append(where)
  observed = histories_lib.observe(rows, process, protocol, features)
  costs = process_lib.action_costs(process, protocol)
  return HistoryTree(
      levels=tuple(
          Level(
              features=observed[t],
              chance=rows[t].masses.sum(axis=-1),
              gains=_gains(rows[t].masses, kernels.ends[t], costs[t]),
              parent=rows[t].parent,
              action=rows[t].action,
              begins=begins[t],
          )
          for t in range(num_steps)
      ),
      process=process,
      protocol=protocol,
  )


def _gains(
    masses: np.ndarray, ends: np.ndarray, costs: np.ndarray
) -> np.ndarray:
  """`[n, A, 3]` from `[n, S]`, `[A, S, 2]` and `[A]`."""
  answers = np.einsum('ns,asv->nav', masses, np.nan_to_num(ends))
  paid = masses.sum(axis=-1)[:, None] * costs
  return np.stack([answers[..., 0], paid, answers[..., 1]], axis=-1)


def constant(
    tree: HistoryTree, probabilities: Sequence[float]
) -> list[np.ndarray]:
  """The policy that looks at nothing: `[A]` chances at every history."""
  return [
      np.tile(np.asarray(probabilities, np.float64), (len(level.chance), 1))
      for level in tree.levels
  ]


def thresholded(
    tree: HistoryTree, scores: Sequence[np.ndarray], kappa: float
) -> list[np.ndarray]:
  """The policy that takes the largest route where a score is >= kappa, else 0.

  Args:
    tree: T levels.
    scores: for each level `[n]`.
    kappa: -inf always takes the largest.
  """
  policy = []
  for level, score in zip(tree.levels, scores, strict=True):
    is_above = np.asarray(score) >= kappa
    probabilities = np.zeros(level.begins.shape)
    probabilities[:, -1], probabilities[:, 0] = is_above, ~is_above
    policy.append(probabilities)
  return policy


def evaluate(tree: HistoryTree, policy: Policy) -> Values:
  """The exact values of a policy, whatever it is: a table of chances."""
  after = None
  for t in reversed(range(len(tree.levels))):
    worth = action_values(tree, t, after)
    probabilities = np.asarray(policy[t], np.float64)
    if probabilities.shape != worth.shape[:2]:
      raise ValueError(
          f'The policy at step {t} is {probabilities.shape}; it must be '
          f'{worth.shape[:2]}.'
      )
    after = np.einsum('na,nav->nv', probabilities, worth)
  return Values(*map(float, after.sum(axis=0)))


def respond(
    tree: HistoryTree, weights: Sequence[float]
) -> tuple[list[np.ndarray], Values]:
  """The policy that maximises a weighted sum of its `Values`.

  Args:
    tree: T levels.
    weights: 3 of them, in the order of `Values`.

  Returns:
    The policy, deterministic, with the smallest of equally good routes; and its
    values.
  """
  policy, after = [], None
  for t in reversed(range(len(tree.levels))):
    worth = action_values(tree, t, after)
    best = np.argmax(worth @ np.asarray(weights), axis=-1)
    policy.append(np.eye(worth.shape[1])[best])
    after = np.take_along_axis(worth, best[:, None, None], axis=1)[:, 0]
  return policy[::-1], Values(*map(float, after.sum(axis=0)))


def action_values(
    tree: HistoryTree, t: int, after: np.ndarray | None
) -> np.ndarray:
  """`[n, A, 3]`, chance times what each action at t is worth, future included.

  Args:
    tree: T levels.
    t: the decision.
    after: `[n', 3]`, the same of the policy at the next level; None at the
      last.
  """
  worth = tree.levels[t].gains.copy()
  if after is not None:
    coming = tree.levels[t + 1]
    np.add.at(worth, (coming.parent, coming.action), after)
  return worth


def reached(tree: HistoryTree, policy: Policy) -> list[np.ndarray]:
  """For each level `[n]`, the chance that a policy gets to each history."""
  taken = [np.ones(len(tree.levels[0].chance))]
  for level, probabilities in zip(tree.levels[1:], policy, strict=False):
    taken.append(
        taken[-1][level.parent] * probabilities[level.parent, level.action]
    )
  return [level.chance * x for level, x in zip(tree.levels, taken, strict=True)]


def histories(tree: HistoryTree, t: int) -> np.ndarray:
  """`[n, t + 1, F]`: the observations up to each history of level t."""
  rows = np.arange(len(tree.levels[t].chance))
  sequence = []
  for level in reversed(tree.levels[: t + 1]):
    sequence.append(level.features[rows])
    rows = level.parent[rows]
  return np.stack(sequence[::-1], axis=1)
