"""TRIM's POMDP: a belief about correctness, and a plan over it.

Hidden at a draft is one of three states: the prefix can be completed and the
draft is right (0); the prefix can be completed and the draft is wrong (1); the
prefix is lost (2). Can be completed means that the large model, writing on from
here, answers right; it is estimated from ladders. With p the belief that the
prefix can be completed, w = P(draft right | such a prefix), q = P(the draft
saves a lost prefix), and P(o | s) the law of the score's bin o, the belief in
the states after seeing o is proportional to
  b_0 ~ p w P(o | 0),  b_1 ~ p (1 - w) P(o | 1),  b_2 ~ (1 - p) P(o | 2).
Keeping the draft leads to p' = b_0 + q b_2. Rewriting leads to p' = b_0 + b_1:
a greedy large model that completes the prefix also does so after its own step.
So one number p is a sufficient state, and the plan is exact up to the grid:
  V_t(p) = sum_o P(o | p) max over the actions of
           e_t p' + (1 - e_t) V_{t+1}(p') - price x (cost of a rewritten step),
where e_t is the probability that the answer ends with step t.
Source: Kapoor et al. 2026, arXiv 2601.10245, the policy TRIM-POMDP.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np

NUM_BINS = 10  # Of scores in [0, 1], unless told otherwise.
_GRID = np.linspace(0.0, 1.0, 201)  # Beliefs at which values are stored.


@dataclasses.dataclass(frozen=True)
class Model:
  """The parameters of the process.

  start: p before the first draft.
  right: w.
  saved: q.
  ends: `[T]`, e_t; the last is 1.
  law: `[3, O]`, P(o | s) of the O bins of scores.
  step_cost: cost of a rewritten step as a fraction of the all-large cost.
  """

  start: float
  right: float
  saved: float
  ends: tuple[float, ...]
  law: tuple[tuple[float, ...], ...]
  step_cost: float

  def beliefs(self, p: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """Returns the beliefs in the three states after a score.

    Args:
      p: `[...]`, beliefs that the prefix can be completed.
      bins: `[...]` int, the bin of the score.

    Returns:
      `[..., 3]`, which sum to P(o | p), not to 1.
    """
    law = np.asarray(self.law)
    prior = np.stack([p * self.right, p * (1 - self.right), 1 - p], axis=-1)
    return prior * np.moveaxis(law[:, bins], 0, -1)

  def after(self, beliefs: np.ndarray) -> np.ndarray:
    """Returns p' after keeping and after rewriting, `[..., 2]`.

    Args:
      beliefs: `[..., 3]`, which sum to 1.
    """
    kept = beliefs[..., 0] + self.saved * beliefs[..., 2]
    return np.stack([kept, beliefs[..., 0] + beliefs[..., 1]], axis=-1)

  @property
  def num_bins(self) -> int:
    """O, the number of bins of scores."""
    return len(self.law[0])


def bin_of(score: np.ndarray, num_bins: int = NUM_BINS) -> np.ndarray:
  """Returns the bins of scores in [0, 1], in 0..num_bins-1."""
  found = np.floor(np.asarray(score, np.float64) * num_bins).astype(int)
  return np.clip(found, 0, num_bins - 1)


def values(
    model: Model, depth: int, next_value: np.ndarray, beliefs, price: float
) -> np.ndarray:
  """Returns the values of keeping and of rewriting, `[..., 2]`.

  Args:
    model: the process.
    depth: t.
    next_value: V_{t+1} on the grid.
    beliefs: `[..., 3]`, which sum to 1.
    price: of the all-large cost, in right answers.
  """
  after = model.after(beliefs)
  end = model.ends[depth]
  found = end * after + (1 - end) * np.interp(after, _GRID, next_value)
  return found - price * model.step_cost * np.array([0.0, 1.0])


def plan(model: Model, price: float) -> np.ndarray:
  """Returns V on the grid of beliefs, `[T + 1, 201]`, by backward induction."""
  horizon = len(model.ends)
  found = np.zeros((horizon + 1, len(_GRID)))
  bins = np.arange(model.num_bins)
  joint = model.beliefs(_GRID[:, None], bins[None])  # [201, O, 3].
  seen = joint.sum(axis=-1)
  # A score of probability 0 has no belief, and no weight either.
  beliefs = joint / np.where(seen > 0, seen, 1.0)[..., None]
  for depth in reversed(range(horizon)):
    best = values(model, depth, found[depth + 1], beliefs, price).max(axis=-1)
    found[depth] = (seen * best).sum(axis=-1)
  return found


def advantage(
    model: Model,
    plan_of: np.ndarray,
    price: float,
    scores: Sequence[float],
    rewritten: Sequence[bool],
) -> float:
  """Returns the value of rewriting minus that of keeping the newest draft.

  Args:
    model: the process.
    plan_of: from `plan`, at the same price.
    price: see `values`.
    scores: of all drafts so far, the newest last.
    rewritten: for each earlier draft, whether the large model replaced it.
  """
  p = np.float64(model.start)
  for score, is_rewritten in zip(scores, (*rewritten, None), strict=True):
    joint = model.beliefs(p, bin_of(score, model.num_bins))
    beliefs = joint / joint.sum()
    if is_rewritten is not None:
      p = model.after(beliefs)[int(is_rewritten)]
  depth = min(len(scores), len(model.ends)) - 1
  keep, rewrite = values(model, depth, plan_of[depth + 1], beliefs, price)
  return float(rewrite - keep)


def fit(
    scores: Sequence[np.ndarray],
    can_complete: Sequence[np.ndarray],
    num_decisions: int,
    num_bins: int = NUM_BINS,
    prior: float = 1.0,
) -> Model:
  """Estimates the process from ladders.

  Args:
    scores: for each problem `[T_n]`, of the small model's steps.
    can_complete: for each problem `[T_n + 1]` bool: whether the answer is right
      if the large model takes over before step t; the last entry is whether the
      small model's own answer is right. T_n is at most `num_decisions`.
    num_decisions: T.
    num_bins: O, the bins of scores.
    prior: added to the count of each bin in each state, above 0: no score is
      impossible.

  Raises:
    ValueError: if there is no problem.
  """
  if not scores:
    raise ValueError('There are 0 problems to learn from; it takes 1 or more.')
  counts = np.full((3, num_bins), prior)
  moves = np.ones((2, 2))  # [prefix can be completed, and so can the draft].
  reached, ended = np.zeros(num_decisions), np.zeros(num_decisions)
  for row, ok in zip(scores, can_complete, strict=True):
    before, after = ok[:-1].astype(int), ok[1:].astype(int)
    state = np.where(before, 1 - after, 2)
    np.add.at(counts, (state, bin_of(row, num_bins)), 1)
    np.add.at(moves, (before, after), 1)
    reached[: len(row)] += 1
    ended[len(row) - 1] += 1
  share = moves[:, 1] / moves.sum(axis=1)
  ends = np.where(reached > 0, ended / np.maximum(reached, 1), 1.0)
  ends[-1] = 1.0  # After the last decision its writer goes on to the end.
  return Model(
      start=float(np.mean([x[0] for x in can_complete])),
      right=float(share[1]),
      saved=float(share[0]),
      ends=tuple(ends.tolist()),
      law=tuple(
          map(tuple, (counts / counts.sum(axis=1, keepdims=True)).tolist())
      ),
      step_cost=float(1.0 / np.mean([len(x) for x in scores])),
  )
