"""Step scores in outcome tables: which step is seen, and what it costs."""

import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import costs
from routing import protocols
from routing import types
from routing.engines import step_scorer
from routing.outcomes import records
from routing.outcomes import scored
from routing.outcomes import sources
from routing.routers import families
from routing.shards import step_scores
from tests import scripted_pair
from tests import sources_test

_SPEC = costs.spec_by_parameters('scorer', 1_000, 2, 16)
_NUM_PROBLEMS = 6


def _scores_of(ladder, seed):
  """Made-up scores of the decided steps of a ladder."""
  rng = np.random.default_rng(seed)
  size = ladder.num_decisions
  return step_scorer.StepScores(
      rng.random(size), rng.integers(1, 9, size), rng.random(size)
  )


class ScoredTableTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.ladders = scripted_pair.make_ladders(_NUM_PROBLEMS)
    self.scores = {
        x.problem.id: _scores_of(x, seed) for seed, x in enumerate(self.ladders)
    }

  def _source(self, view, spec, scores=None):
    table = records.ladder_table(
        self.ladders,
        sources_test.FEATURES,
        sources_test.ACCOUNTING,
        protocols.Protocol('escalate', view),
    )
    problems = [x.problem for x in self.ladders]
    table = scored.scored_table(
        table,
        problems,
        self.scores if scores is None else scores,
        spec,
        has_draft=view == 'peek',
    )
    return sources.Known(table, problems)

  @parameterized.product(
      view=('peek', 'commit'),
      metric=costs.COST_METRICS,
      threshold=(-np.inf, 0.3, 0.6, np.inf),
  )
  def test_against_walking_down_each_ladder(self, view, metric, threshold):
    family = families.StepScore(2)
    kappa = np.array([threshold])
    found = self._source(view, _SPEC).evaluate(family, kappa, metric)
    free = self._source(view, None).evaluate(family, kappa, metric)
    for n, ladder in enumerate(self.ladders):
      scores, paid, end = self.scores[ladder.problem.id], 0.0, None
      charged = costs.ladder_costs(
          ladder,
          sources_test.ACCOUNTING.specs,
          metric,
          draft_is_paid=view == 'peek',
      )
      before = 0
      for t in range(ladder.num_decisions):
        newest = t if view == 'peek' else t - 1
        score = 1.0
        if newest >= 0:
          score = scores.scores[newest]
          read = int(scores.read[newest])
          call = types.Usage(0, read, before, 0, float(scores.seconds[newest]))
          paid += float(costs.call_cost(call, _SPEC, metric))
          before += read
        if 1 - score >= threshold:
          end = t
          break
      own = charged.stay if end is None else charged.handover[end, 1]
      np.testing.assert_allclose(
          free.cost[0, n], own / charged.all_large, rtol=1e-6
      )
      np.testing.assert_allclose(
          found.cost[0, n], (own + paid) / charged.all_large, rtol=1e-6
      )
    np.testing.assert_array_equal(found.correct, free.correct)

  def test_a_problem_without_all_its_scores(self):
    first, *_ = self.ladders
    with self.assertRaisesRegex(
        ValueError, f'{first.problem.id} has 0 step scores'
    ):
      self._source('peek', _SPEC, scores={})

  def test_no_live_router(self):
    with self.assertRaisesRegex(ValueError, '0.5 on step scores'):
      families.StepScore().at(0.5)

  def test_files_keep_every_score(self):
    path = pathlib.Path(self.create_tempdir().full_path) / 'scores.parquet'
    step_scores.write(path, self.scores)
    found = step_scores.read(path)
    self.assertEqual(list(found), list(self.scores))
    for name, expected in self.scores.items():
      for field in ('scores', 'read', 'seconds'):
        np.testing.assert_array_equal(
            getattr(found[name], field), getattr(expected, field)
        )


if __name__ == '__main__':
  absltest.main()
