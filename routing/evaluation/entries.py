"""The outcomes of methods, from records and from live answers, in one form."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from routing import costs
from routing import types
from routing.evaluation import methods as methods_lib
from routing.outcomes import live_answers
from routing.outcomes import points as points_lib
from routing.outcomes import token_records

# Cost metrics of an outcome table that count tokens instead.
TOKENS = tuple(f'tokens/{kind}' for kind in token_records.KINDS)
ALL = (*costs.COST_METRICS, *TOKENS)


@dataclasses.dataclass(frozen=True)
class Alone:
  """What the models do alone on N problems, which costs are relative to.

  problems: the N problems.
  large_correct: `[N]`, grades of the largest model.
  large_cost: cost metric -> `[N]`, its cost in the unit of the metric.
  large_tokens: `[N, 6]`, its tokens of each of `token_records.KINDS`.
  question_read: `[N, A]`, see `token_records.count`.
  """

  problems: Sequence[types.Problem]
  large_correct: np.ndarray
  large_cost: Mapping[str, np.ndarray]
  large_tokens: np.ndarray
  question_read: np.ndarray

  def first(self, num: int | None) -> Alone:
    """Returns the same of the first problems; None = of all."""
    return Alone(
        self.problems[:num],
        self.large_correct[:num],
        {name: x[:num] for name, x in self.large_cost.items()},
        self.large_tokens[:num],
        self.question_read[:num],
    )


@dataclasses.dataclass(frozen=True)
class Outcomes:
  """The outcomes of K knobs on the first N problems of a split.

  correct, loss, gain, cut: `[K, N]` float64; see `points.Points`.
  cost: name of a cost metric, or of `TOKENS`, -> `[K, N]`. Costs are fractions
    of what the largest model alone costs; tokens are numbers.
  """

  correct: np.ndarray
  loss: np.ndarray
  gain: np.ndarray
  cut: np.ndarray
  cost: Mapping[str, np.ndarray]

  def points(self, metric: str) -> points_lib.Points:
    """Returns the outcomes in one cost metric."""
    return points_lib.Points(
        self.correct, self.cost[metric], self.loss, self.gain, self.cut
    )

  def take(self, knobs: np.ndarray) -> Outcomes:
    """Returns the outcomes of some knobs, given as indices."""
    rows = {
        field.name: getattr(self, field.name)[knobs]
        for field in dataclasses.fields(self)
        if field.name != 'cost'
    }
    cost = {name: x[knobs] for name, x in self.cost.items()}
    return Outcomes(**rows, cost=cost)


def joined(parts: Sequence[Outcomes]) -> Outcomes:
  """Returns the outcomes of the knobs of all parts, one after the other."""
  join = lambda get: np.concatenate([get(x) for x in parts])
  names = ('correct', 'loss', 'gain', 'cut')
  return Outcomes(
      *(join(lambda x, name=name: getattr(x, name)) for name in names),
      cost={name: join(lambda x, name=name: x.cost[name]) for name in ALL},
  )


@dataclasses.dataclass(frozen=True)
class Entry:
  """One method fitted with one seed, and what its knobs earn.

  seed: of `fit`.
  setting: hyper-parameters, the best on `select`.
  areas: the area on `select` of each setting that was tried.
  knobs: (index of the family, value) of each of the K knobs kept.
  select, test: outcomes of these knobs.
  decisions_per_second: of one live router on one core; NaN if it makes none.
  """

  seed: int
  setting: Mapping[str, Any]
  areas: Sequence[float]
  knobs: Sequence[tuple[int, float]]
  select: Outcomes
  test: Outcomes
  decisions_per_second: float

  def candidates(self, metric: str, forms_hull: bool) -> methods_lib.Candidates:
    """Returns the outcomes as candidates for a curve."""
    return methods_lib.Candidates(
        self.select.points(metric), self.test.points(metric), forms_hull
    )

  def at_budget(self, metric: str, budget: float) -> int:
    """Returns the index of the knob that `Candidates.at_budget` chooses."""
    return methods_lib.best_within(self.select.points(metric), budget)


def of_answers(
    answers: Sequence[Sequence[live_answers.Outcome]], alone: Alone
) -> Outcomes:
  """Returns the outcomes of K routers' live answers to N problems.

  A problem that an engine refuses counts as answered wrongly, at the cost and
  with the tokens of the largest model alone.
  """
  shape = len(answers), len(alone.problems)
  correct, cut = np.zeros(shape), np.zeros(shape)
  cost = {name: np.zeros(shape) for name in ALL}
  for k, row in enumerate(answers):
    for n, answer in enumerate(row):
      if isinstance(answer, live_answers.Refused):
        for metric in costs.COST_METRICS:
          cost[metric][k, n] = 1.0
        for name, value in zip(TOKENS, alone.large_tokens[n], strict=True):
          cost[name][k, n] = value
        continue
      correct[k, n] = answer.is_correct
      cut[k, n] = np.nan if answer.is_cut is None else answer.is_cut
      for metric in costs.COST_METRICS:
        cost[metric][k, n] = answer.cost[metric] / alone.large_cost[metric][n]
      counted = token_records.count(
          [types.Call(**x) for x in answer.calls],
          answer.num_discarded,
          alone.question_read[n],
      )
      for name, value in zip(TOKENS, counted, strict=True):
        cost[name][k, n] = value
  large = alone.large_correct
  return Outcomes(
      correct, large * (1 - correct), correct * (1 - large), cut, cost
  )
