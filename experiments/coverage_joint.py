"""Two procedures that are run sample by sample, as they stand in the library.

`search_then_test` reads its candidates off each sample, so there is no common
table of outcomes; and the off-policy interval is about trajectories, which are
new in every sample. What samples of one size share is computed once for all
levels: the searched path, and what its candidates lead to on the other part.
"""

from collections.abc import Sequence

import numpy as np

from experiments import coverage_counts as counts_lib
from routing.calibration import joint
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from routing.problems import splits

STEP_GROUPS = (0, 2)
_SIZE = 6


def early_and_late(
    sample: counts_lib.Sample, risks: Sequence[risks_lib.Risk]
) -> list[counts_lib.Verdict]:
  """`joint.search_then_test` of one loss each, for every risk.

  Two thresholds, one for the first steps and one for the others. Half of each
  sample is searched, the other half tested.
  """
  pool, law = sample.case.pool, sample.case.truth
  scores = joint.by_step(pool.scores, STEP_GROUPS)
  law_scores = joint.by_step(law.scores, STEP_GROUPS)
  shape = len(risks), len(sample.rows)
  broken, cost = np.zeros(shape, bool), np.full(shape, np.nan)
  for s, rows in enumerate(sample.rows):
    path, values = _searched(scores, pool.outcomes, rows)
    for r, risk in enumerate(risks):
      try:
        point = thresholds_lib.from_values(
            values, path, [risk], orders={'loss': np.arange(len(path))}
        )
      except risks_lib.Refusal:
        continue
      true = joint.values_at(
          law_scores, [law.outcomes], np.array([point.threshold])
      )
      cost[r, s] = true['cost'][0] @ law.weights
      broken[r, s] = true['loss'][0] @ law.weights > risk.level * (1 + 1e-9)
  best = _best(law_scores, law, sample, risks)
  return [
      counts_lib.Verdict(broken[r], np.isnan(cost[r]), cost[r], best[r])
      for r in range(len(risks))
  ]


def _searched(scores, outcomes, rows):
  """The candidates of one half, and what they lead to on the other."""
  seen, unseen = splits.halves(rows)
  table = outcomes.take(seen)
  grid = joint.grid(scores[seen], table.mask, _SIZE)
  found = joint.values_at(scores[seen], [table], grid)
  path = joint.pareto_path(
      found['loss'].mean(axis=1), found['cost'].mean(axis=1)
  )
  values = joint.values_at(scores[unseen], [outcomes.take(unseen)], grid[path])
  return grid[path], values


def _best(law_scores, law, sample, risks):
  """For each risk, the cost of the cheapest pair that truly keeps it."""
  pool = sample.case.pool
  grid = joint.grid(
      joint.by_step(pool.scores, STEP_GROUPS), pool.outcomes.mask, 20
  )
  true = joint.values_at(law_scores, [law.outcomes], grid)
  loss, cost = true['loss'] @ law.weights, true['cost'] @ law.weights
  return [float(cost[loss <= risk.level * (1 + 1e-9)].min()) for risk in risks]
