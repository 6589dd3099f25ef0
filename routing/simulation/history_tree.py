"""Exact values of policies on the history tree of a simulated process.

Level t of the history tree has all histories before decision t: sequences of
observations and actions. If a policy depends on the history alone, its expected
outcomes are a finite sum over the tree. Dynamic programming from the last level
finds the best such policy, which no trained router can exceed: a network knows
no more than the history.
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

# Largest number of histories before one decision, a limit on memory.
MAX_HISTORIES = 2_000_000

# Action probabilities at each history, one array `[n, A]` per level.
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
  """The n histories before one decision, and their links to other levels.

  The successors of one history after one action are adjacent rows.

  features: `[n, F]` float32, input of a network at this decision.
  chance: `[n]`, P(observations so far | actions so far).
  gains: `[n, A, 3]`, `chance` times the immediate `Values` of an action: its
    cost and, if the action is final, the outcome of the answer.
  parent: `[n]` int32, index of the earlier history in the level before; -1 at
    the first level.
  action: `[n]` int32, the action taken at the parent; -1 at the first level.
  begins: `[n, A]` int32, index in the next level of the first successor after
    each action; other successors follow in the order of their observations. -1
    if the action is final.
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
  process, protocol: the process and protocol of the histories; static under
    jit.
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

  With L confidence levels and A routes, a history has L successors under
  `escalate`, A L under `switch`, and L + (A - 1) L^2 under `redraft`.

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
  # The size of the last level, the largest, is checked before any is built.
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
  """Returns the `gains` `[n, A, 3]` of a `Level`.

  Args:
    masses: `[n, S]`, P(observations so far, hidden state | actions).
    ends: `[A, S, 2]`, probabilities of a right answer and of a relative loss
      after each action; NaN for actions that are not final.
    costs: `[A]`, cost of each action.
  """
  # An action that is not final gives no answer yet, so NaN becomes 0.
  answers = np.einsum('ns,asv->nav', masses, np.nan_to_num(ends))
  paid = masses.sum(axis=-1)[:, None] * costs
  return np.stack([answers[..., 0], paid, answers[..., 1]], axis=-1)


def constant(
    tree: HistoryTree, probabilities: Sequence[float]
) -> list[np.ndarray]:
  """Returns the policy with the same `[A]` `probabilities` at every history."""
  return [
      np.tile(np.asarray(probabilities, np.float64), (len(level.chance), 1))
      for level in tree.levels
  ]


def thresholded(
    tree: HistoryTree, scores: Sequence[np.ndarray], kappa: float
) -> list[np.ndarray]:
  """Returns the policy that takes the largest route where score >= kappa.

  Where the score is lower, the policy takes route 0.

  Args:
    tree: the history tree, T levels.
    scores: score of each history, one array `[n]` per level.
    kappa: threshold; -inf always takes the largest route.
  """
  policy = []
  for level, score in zip(tree.levels, scores, strict=True):
    is_above = np.asarray(score) >= kappa
    probabilities = np.zeros(level.begins.shape)
    probabilities[:, -1], probabilities[:, 0] = is_above, ~is_above
    policy.append(probabilities)
  return policy


def evaluate(tree: HistoryTree, policy: Policy) -> Values:
  """Returns the exact expected outcomes of a policy.

  Args:
    tree: the history tree, T levels.
    policy: per level `[n, A]` action probabilities.

  Raises:
    ValueError: if an array of `policy` does not have the shape of its level.
  """
  # V_t(h) = sum_a pi(a | h) Q_t(h, a), from the last level to the first. V_t
  # and Q_t are multiplied by the history's `chance`, so the value of the policy
  # is a plain sum over the histories of level 0.
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
    tree: the history tree, T levels.
    weights: 3 weights, in the order of `Values`.

  Returns:
    A deterministic policy, which takes the smallest of equally good routes; and
    the policy's `Values`.
  """
  # Dynamic programming (Bellman). Values are vectors of 3 outcomes; actions are
  # compared by the weighted sum of their vector.
  policy, after = [], None
  for t in reversed(range(len(tree.levels))):
    values = action_values(tree, t, after)
    # `argmax` returns the first maximum: the smallest of equally good routes.
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
    tree: the history tree, T levels.
    t: number of the decision, in 0..T-1.
    after: `[n', 3]`, values V_{t+1} of the histories at the next level, each
      times its `chance`; None at the last level.
  """
  values = tree.levels[t].gains.copy()
  if after is not None:
    coming = tree.levels[t + 1]
    # A pair (parent, action) occurs once per observation. `np.add.at` adds all
    # of these; `values[index] += after` would add only one of them.
    np.add.at(values, (coming.parent, coming.action), after)
  return values


def reached(tree: HistoryTree, policy: Policy) -> list[np.ndarray]:
  """Returns P(the policy reaches each history), one array `[n]` per level."""
  # P(history) = `chance` * prod pi(a | h): the observations have probability
  # `chance` given the actions, and the actions have the product, `taken`.
  taken = [np.ones(len(tree.levels[0].chance))]
  for level, probabilities in zip(tree.levels[1:], policy, strict=False):
    taken.append(
        taken[-1][level.parent] * probabilities[level.parent, level.action]
    )
  return [level.chance * x for level, x in zip(tree.levels, taken, strict=True)]


def histories(tree: HistoryTree, t: int) -> np.ndarray:
  """Returns the features at decisions 0..t of each history, `[n, t + 1, F]`.

  Args:
    tree: the history tree, T levels.
    t: level of the n histories.
  """
  rows = np.arange(len(tree.levels[t].chance))
  sequence = []
  # The features are collected from decision t back to decision 0, along the
  # parents.
  for level in reversed(tree.levels[: t + 1]):
    sequence.append(level.features[rows])
    rows = level.parent[rows]
  return np.stack(sequence[::-1], axis=1)
