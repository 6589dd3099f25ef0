"""Exact values of policies on the history tree of a simulated process.

Level t of the history tree has all histories before decision t. A policy that
depends on its history alone has a value that is a finite sum over the tree. The
best such policy follows by dynamic programming from the last level. It bounds
every learner, since no network can use more than its history.
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

# Per level `[n, A]`: action probabilities at each history.
Policy = Sequence[np.ndarray]


class Values(NamedTuple):
  """Expected outcomes of a policy.

  correct: in [0, 1], probability of a right answer.
  cost: >= 0, fraction of the all-large cost.
  loss: in [0, 1], relative loss: probability that the largest model alone is
    right and the routed answer is wrong.
  """

  correct: float
  cost: float
  loss: float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Level:
  """The n histories before one decision, successors of a parent side by side.

  features: `[n, F]` float32, the observation of a network.
  chance: `[n]`, P(observations so far | actions).
  gains: `[n, A, 3]`, `chance` times the immediate `Values` of an action: its
    cost and, if it is final, the outcome of the answer.
  parent: `[n]` int32, index in the level before; -1 at the first level.
  action: `[n]` int32, the action taken there; -1 at the first level.
  begins: `[n, A]` int32, index in the next level of an action's first
    successor; the others follow in the order of observations. -1 if final.
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
  """All histories of a process under a protocol; a pytree, for use under jit.

  levels: T levels, one per decision.
  process, protocol: those of the histories; static under jit.
  """

  levels: tuple[Level, ...]
  process: process_lib.Process = dataclasses.field(metadata={'static': True})
  protocol: protocols.Protocol = dataclasses.field(metadata={'static': True})


def build(
    process: process_lib.Process,
    protocol: protocols.Protocol,
    features: str = 'belief',
) -> HistoryTree:
  """Builds the history tree of a process under a protocol.

  A history has L successors under `escalate`, A L under `switch`, and
  L + (A - 1) L^2 under `redraft`.

  Args:
    process, protocol: the dynamics, and who may write which step.
    features: one of `histories.FEATURES`.

  Raises:
    ValueError: if `features` is unknown, or a level exceeds `MAX_HISTORIES`.
  """
  kernels = kernels_lib.make_kernels(process, protocol)
  num_steps = process.num_steps
  continuing = [
      a for a in range(process.num_routes) if not protocol.is_absorbing(a)
  ]
  # The last level is the largest; checked before memory is spent on it.
  growth = sum(kernels.steps[a].shape[1] for a in continuing)
  size = len(kernels.initial) * growth ** (num_steps - 1)
  if size > MAX_HISTORIES:
    raise ValueError(
        f'The process has {size} histories in {num_steps} steps; at most '
        f'{MAX_HISTORIES} are allowed. Use fewer steps or confidence levels.'
    )
  rows = [histories_lib.first(kernels)]
  begins = []
  for step in range(num_steps):
    if step == num_steps - 1:
      # Every action at the last decision is final.
      none = np.full((len(rows[-1].masses), process.num_routes), -1, np.int32)
      begins.append(none)
    else:
      successors, first = histories_lib.successors(
          kernels, rows[-1], continuing
      )
      rows.append(successors)
      begins.append(first)
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
  """Returns the `gains` of a `Level`.

  Args:
    masses: `[n, S]`.
    ends: `[A, S, 2]`, NaN for actions that are not final.
    costs: `[A]`.
  """
  # An action that is not final brings no answer yet, hence 0 for NaN.
  answers = np.einsum('ns,asv->nav', masses, np.nan_to_num(ends))
  paid = masses.sum(axis=-1)[:, None] * costs
  return np.stack([answers[..., 0], paid, answers[..., 1]], axis=-1)


def constant(
    tree: HistoryTree, probabilities: Sequence[float]
) -> list[np.ndarray]:
  """Returns the policy with the same `[A]` probabilities at every history."""
  return [
      np.tile(np.asarray(probabilities, np.float64), (len(level.chance), 1))
      for level in tree.levels
  ]


def thresholded(
    tree: HistoryTree, scores: Sequence[np.ndarray], kappa: float
) -> list[np.ndarray]:
  """Returns the policy of the largest route where score >= kappa, else route 0.

  Args:
    tree: T levels.
    scores: per level `[n]`.
    kappa: -inf always takes the largest route.
  """
  policy = []
  for level, score in zip(tree.levels, scores, strict=True):
    is_above = np.asarray(score) >= kappa
    probabilities = np.zeros(level.begins.shape)
    probabilities[:, -1], probabilities[:, 0] = is_above, ~is_above
    policy.append(probabilities)
  return policy


def evaluate(tree: HistoryTree, policy: Policy) -> Values:
  """Returns the exact values of a policy.

  Args:
    tree: T levels.
    policy: per level `[n, A]` action probabilities.

  Raises:
    ValueError: if a table has another shape.
  """
  # V_t(h) = sum_a pi(a | h) Q_t(h, a), from the last level back. All carry the
  # factor `chance`, so the value at the root is a plain sum over level 0.
  after = None
  for t in reversed(range(len(tree.levels))):
    values = action_values(tree, t, after)
    probabilities = np.asarray(policy[t], np.float64)
    if probabilities.shape != values.shape[:2]:
      raise ValueError(
          f'The policy at step {t} has shape {probabilities.shape}; it must '
          f'be {values.shape[:2]}.'
      )
    after = np.einsum('na,nav->nv', probabilities, values)
  return Values(*map(float, after.sum(axis=0)))


def best_response(
    tree: HistoryTree, weights: Sequence[float]
) -> tuple[list[np.ndarray], Values]:
  """Returns the policy that maximises a weighted sum of its `Values`.

  Args:
    tree: T levels.
    weights: 3 weights, in the order of `Values`.

  Returns:
    The policy, deterministic, with the smallest of equally good routes; and its
    values.
  """
  # Dynamic programming (Bellman). A vector value is carried, but actions are
  # compared by its weighted sum.
  policy, after = [], None
  for t in reversed(range(len(tree.levels))):
    values = action_values(tree, t, after)
    # The first maximum: among equally good routes the smallest.
    best = np.argmax(values @ np.asarray(weights), axis=-1)
    policy.append(np.eye(values.shape[1])[best])
    after = np.take_along_axis(values, best[:, None, None], axis=1)[:, 0]
  return policy[::-1], Values(*map(float, after.sum(axis=0)))


def action_values(
    tree: HistoryTree, t: int, after: np.ndarray | None
) -> np.ndarray:
  """Returns `[n, A, 3]` action values Q_t, each times the history's `chance`.

    Q_t(h, a) = gains_t(h, a) + sum over successors h' of (h, a): V_{t+1}(h')

  Args:
    tree: T levels.
    t: the decision.
    after: `[n', 3]`, V_{t+1} of the policy at the next level, times `chance`;
      None at the last level.
  """
  values = tree.levels[t].gains.copy()
  if after is not None:
    coming = tree.levels[t + 1]
    # Unbuffered: a (parent, action) pair occurs once per observation, and
    # `values[index] += after` would keep only one of them.
    np.add.at(values, (coming.parent, coming.action), after)
  return values


def reached(tree: HistoryTree, policy: Policy) -> list[np.ndarray]:
  """Returns per level `[n]`, P(a policy reaches the history)."""
  # Probability of the actions, prod pi(a | h); that of the observations is in
  # `chance`.
  taken = [np.ones(len(tree.levels[0].chance))]
  for level, probabilities in zip(tree.levels[1:], policy, strict=False):
    taken.append(
        taken[-1][level.parent] * probabilities[level.parent, level.action]
    )
  return [level.chance * x for level, x in zip(tree.levels, taken, strict=True)]


def histories(tree: HistoryTree, t: int) -> np.ndarray:
  """Returns `[n, t + 1, F]`, the observations up to each history of level t."""
  rows = np.arange(len(tree.levels[t].chance))
  sequence = []
  # From the last observation to the first, along the parents.
  for level in reversed(tree.levels[: t + 1]):
    sequence.append(level.features[rows])
    rows = level.parent[rows]
  return np.stack(sequence[::-1], axis=1)
