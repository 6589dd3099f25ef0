"""Adds the scores of a step scorer, and its cost, to an outcome table."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

import numpy as np

from routing import costs
from routing import types
from routing.engines import step_scorer
from routing.outcomes import table as table_lib


def scored_table(
    table: table_lib.OutcomeTable,
    problems: Sequence[types.Problem],
    scores: Mapping[str, step_scorer.StepScores],
    spec: costs.RouteSpec | None,
    *,
    has_draft: bool,
) -> table_lib.OutcomeTable:
  """Returns the outcome table of ladders with the score of each newest step.

  A router that uses the scorer calls it once at each decision that it makes. So
  an answer that ends at decision t pays for the scores of the steps that
  decisions 0..t show.

  Args:
    table: of N ladders.
    problems: the N problems, in the order of the table.
    scores: id of the problem -> scores of the small model's steps, one or more
      for each decision.
    spec: size and prices of the scorer; None = its compute costs nothing.
    has_draft: True if decision t shows the draft of step t (`peek`), False if
      the newest step is step t - 1 (`commit`). In `commit` the first decision
      shows no step; its score is 1, and the scorer is not called.

  Raises:
    ValueError: if a problem has no scores, or fewer than decisions.
  """
  newest = np.ones(len(table.decisions.depth))
  paid = {metric: np.zeros(len(newest)) for metric in costs.COST_METRICS}
  ends = [*table.roots[1:], len(newest)]
  for index, (problem, start, end) in enumerate(
      zip(problems, table.roots, ends, strict=True)
  ):
    found = scores.get(problem.id)
    count = 0 if found is None else len(found.scores)
    if count < end - start:
      raise ValueError(
          f'Problem {problem.id} has {count} step scores for '
          f'{end - start} decisions; score the steps again.'
      )
    first = start if has_draft else start + 1
    visible = end - first  # Steps that some decision shows.
    newest[first:end] = found.scores[:visible]
    if spec is None:
      continue
    for metric, values in paid.items():
      each = costs.call_cost(found.usage(), spec, metric)[:visible]
      values[first:end] = np.cumsum(each) / table.large_cost[metric][index]
  # `[M, A]`: entry -1 - i is ending i. Every ending is in one place.
  decision, route = np.nonzero(table.children < 0)
  ending = -1 - table.children[decision, route]
  added = {}
  for metric, values in paid.items():
    added[metric] = table.ending_cost[metric].copy()
    added[metric][ending] += values[decision]
  return dataclasses.replace(
      table,
      decisions=dataclasses.replace(table.decisions, step_scores=newest),
      ending_cost=added,
  )
