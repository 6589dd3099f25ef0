"""What is counted is what the library does; what was counted is kept."""

import json
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from experiments.studies.coverage import cells as cells_lib
from experiments.studies.coverage import counts as counts_lib
from experiments.studies.coverage import data as data_lib
from experiments.studies.coverage import joint as joint_lib
from experiments.studies.coverage import run as coverage
from experiments.studies.coverage import service as service_lib
from routing.calibration import conformal
from routing.calibration import groups
from routing.calibration import joint
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from tests import coverage_test

Risk = risks_lib.Risk
NUM, SIZE = 12, 150
LOSS = Risk('loss', 0.15, 0.1, p_value='binomial')
COST = Risk('cost', 0.8, 0.1, 2.0, 'betting')


class SameAsTheLibraryTest(parameterized.TestCase):
  """Sample by sample, the true cost of the point, or the refusal."""

  def setUp(self):
    super().setUp()
    self.case = coverage_test.finite_case()
    self.sample = counts_lib.Sample(self.case, NUM, SIZE, 3)

  def assert_counts(self, verdict, point_of):
    """`point_of(scores, outcomes, labels)` on each sample is as counted."""
    pool, made = self.case.pool, 0
    for s, rows in enumerate(self.sample.rows):
      try:
        cost = point_of(
            pool.scores[rows], pool.outcomes.take(rows), pool.labels[rows]
        )
      except risks_lib.Refusal:
        self.assertTrue(verdict.refused[s])
        continue
      made += 1
      self.assertFalse(verdict.refused[s])
      self.assertAlmostEqual(verdict.cost[s], cost)
    self.assertGreater(made, 0)

  def true_cost(self, threshold):
    values = thresholds_lib.values_at(
        self.case.pool.scores, self.case.pool.outcomes, np.array([threshold])
    )
    return values['cost'].mean()

  @parameterized.product(
      risk=(
          LOSS,
          Risk('loss', 0.15, 0.1, p_value='hoeffding_bentkus'),
          Risk('loss', 0.15, 0.1, p_value='betting'),
          COST,
          Risk('cost', 0.8, 0.1, 2.0, 'hoeffding_bentkus'),
      ),
      procedure=risks_lib.PROCEDURES,
  )
  def test_one_risk(self, risk, procedure):
    found = counts_lib.tested(self.sample, risk, procedure)
    self.assert_counts(
        found,
        lambda scores, outcomes, _: self.true_cost(
            thresholds_lib.for_risks(
                scores,
                outcomes,
                [risk],
                thresholds=self.case.grid,
                procedure=procedure,
            ).threshold
        ),
    )

  def test_both(self):
    cost = Risk('cost', 0.9, 0.1, 2.0, 'hoeffding_bentkus')
    loss = Risk('loss', 0.25, 0.1, p_value='binomial')
    self.assert_counts(
        counts_lib.both(self.sample, loss, cost),
        lambda scores, outcomes, _: self.true_cost(
            thresholds_lib.for_risks(
                scores, outcomes, [loss, cost], thresholds=self.case.grid
            ).threshold
        ),
    )

  def test_groups(self):
    pool = self.case.pool

    def cost_of(scores, outcomes, labels):
      found = groups.for_groups(
          scores,
          outcomes,
          [LOSS],
          labels=labels,
          names=[0, 1],
          thresholds=self.case.grid,
      )
      # A refused group is handed over whole.
      times = [
          -np.inf if isinstance(x, risks_lib.Refusal) else x.threshold
          for x in found.values()
      ]
      values = thresholds_lib.values_at(pool.scores, pool.outcomes, times)
      return np.where(pool.labels == 0, *values['cost']).mean()

    self.assert_counts(counts_lib.grouped(self.sample, LOSS), cost_of)

  @parameterized.parameters(False, True)
  def test_conformal_sets(self, is_marginal):
    pool = self.case.pool

    def cost_of(scores, outcomes, _):
      probabilities = np.stack([1 - scores, scores], axis=-1)
      point = conformal.split_conformal(
          probabilities,
          [outcomes],
          alpha=0.15,
          delta=None if is_marginal else 0.1,
      )
      every = np.stack([1 - pool.scores, pool.scores], axis=-1)
      times, _ = conformal.exits(
          every, pool.outcomes.mask, np.array([point.threshold])
      )
      return pool.outcomes.cost[np.arange(times.shape[1]), times[0]].mean()

    found = counts_lib.conformal_sets(
        self.sample, LOSS, is_marginal=is_marginal
    )
    self.assert_counts(found, cost_of)

  def test_early_and_late_steps(self):
    channels = joint_lib.by_steps(self.case.pool)
    is_searched = joint_lib.searched_half(SIZE)
    self.assertEqual(is_searched.sum(), SIZE // 2)

    def cost_of(scores, outcomes, _):
      point = joint.search_then_test(
          joint.by_step(scores, joint_lib.STEP_GROUPS),
          [outcomes],
          [LOSS],
          is_searched=is_searched,
          size=joint_lib._SIZE,
      )
      return channels.means_at(np.array([point.threshold]))['cost'][0]

    (found,) = joint_lib.searched(channels, channels, self.sample.rows, [LOSS])
    self.assert_counts(found, cost_of)

  def test_a_verdict_by_hand(self):
    # True losses 0, 0.1 and 0.3 at costs 1, 0.6 and 0.2; the level is 0.15.
    sample = mock.Mock()
    sample.truth = {
        'loss': np.array([0, 0.1, 0.3]),
        'cost': np.array([1, 0.6, 0.2]),
    }
    got = counts_lib.judge(sample, np.array([0, 1, 2, -1]), LOSS)
    np.testing.assert_array_equal(got.broken, [False, False, True, False])
    np.testing.assert_array_equal(got.refused, [False, False, False, True])
    np.testing.assert_array_equal(got.cost, [1, 0.6, 0.2, np.nan])
    self.assertEqual(got.best, 0.6)


class RowTest(absltest.TestCase):

  def test_by_hand(self):
    verdict = counts_lib.Verdict(
        broken=np.array([True, True, False, False]),
        refused=np.array([False, False, False, True]),
        cost=np.array([0.2, 0.4, 0.6, np.nan]),
        best=0.5,
    )
    about = cells_lib.About(coverage_test.finite_case(), 9)
    got = cells_lib.row(about, 'a', LOSS, verdict)
    self.assertEqual((got['broken'], got['refused'], got['splits']), (2, 1, 4))
    self.assertAlmostEqual(got['ratio'], 0.4 / 0.5)
    # Two or more of four at a chance of 0.1 each.
    self.assertAlmostEqual(got['p_value'], 1 - 0.9**4 - 4 * 0.1 * 0.9**3)


class RunTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.out = pathlib.Path(self.create_tempdir().full_path)
    self.plan = cells_lib.Plan(
        alphas=(0.1, 0.2),
        deltas=(0.1,),
        sizes=(60, 90),
        num_splits=8,
        num_joint=4,
        num_bets=4,
    )
    self.counted = []

    def count(case, plan, size):
      self.counted.append((case.name, size))
      return cells_lib.of_ladders(case, plan, size)

    def missing():
      raise FileNotFoundError(2, 'No such file', 'far/away')

    found = [
        coverage.Source('one', coverage_test.finite_case, count),
        coverage.Source('other', missing, count),
    ]
    drift = dict(alpha=0.1, streams=5, false=0, most=0.99)
    delay = dict(quiet=0, median=90.0, late=120.0, within=0.97)
    served = service_lib.long_run(300, 2, 0)
    service = {'online': served, 'drift': [drift | {'delays': [delay]}]}
    self.enter_context(mock.patch.object(coverage, 'sources', lambda *_: found))
    self.enter_context(mock.patch.object(coverage, 'serve', lambda _: service))

  def test_writes_the_page_and_resumes(self):
    docs = self.out / 'docs'
    docs.mkdir()
    figures = coverage.run(self.plan, None, self.out, docs)
    self.assertEqual(self.counted, [('finite', 60), ('finite', 90)])
    self.assertEqual(figures['procedures_broken'], [])
    self.assertEqual(figures['sets'], ['finite'])
    self.assertContainsSubset({'embedded', 'other'}, figures['skipped'])
    page = (docs / 'coverage.md').read_text()
    for part in ('fixed sequence', 'picked loss', 'alpha 0.1', 'budget 40%'):
      self.assertIn(part, page)
    self.assertGreater((docs / 'coverage.png').stat().st_size, 5_000)
    kept = json.loads((self.out / 'coverage.json').read_text())
    # One set is lost, as by an interruption: it alone is counted again.
    (self.out / 'cells' / 'one-90.json').unlink()
    again = coverage.run(self.plan, None, self.out)
    self.assertEqual(self.counted[2:], [('finite', 90)])
    self.assertEqual(
        json.loads((self.out / 'coverage.json').read_text())['cells'],
        kept['cells'],
    )
    self.assertEqual(again['cells'], figures['cells'])

  def test_another_plan_is_counted_anew(self):
    coverage.run(self.plan, None, self.out)
    other = cells_lib.Plan(**{**vars(self.plan), 'seed': 1})
    coverage.run(other, None, self.out)
    self.assertLen(self.counted, 4)


class DrawTest(absltest.TestCase):

  def test_distinct_rows_by_hand(self):
    kept, rows = data_lib.distinct(
        [np.array([[1.0, 2], [3, 4], [1, 2]]), np.array([[3.0, 4], [5, 6]])]
    )
    np.testing.assert_array_equal(kept, [[1, 2], [3, 4], [5, 6]])
    np.testing.assert_array_equal(rows, [0, 1, 0, 1, 2])

  def test_draws_follow_their_weights(self):
    rows = data_lib.draw(np.array([0.5, 0.0, 0.3, 0.2]), 200, 500, 0)
    shares = np.bincount(rows.ravel(), minlength=4) / rows.size
    np.testing.assert_allclose(shares, [0.5, 0, 0.3, 0.2], atol=0.01)
    self.assertEqual(shares[1], 0)


if __name__ == '__main__':
  absltest.main()
