"""No procedure breaks its promise too often, and one that did would be found.

The fast version of `experiments.studies.coverage`: fewer samples and cells, the
same counts, the same verdict.
"""

import dataclasses
import functools
from unittest import mock

from absl.testing import absltest
import numpy as np
import pytest

from experiments.studies.coverage import cells as cells_lib
from experiments.studies.coverage import counts as counts_lib
from experiments.studies.coverage import data as data_lib
from experiments.studies.coverage import joint as joint_lib
from experiments.studies.coverage import rollouts as rollouts_lib
from routing.calibration import bounds
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from routing.simulation import history_tree as tree_lib
from tests import ladders

PLAN = cells_lib.Plan(
    alphas=(0.05, 0.2),
    deltas=(0.1,),
    num_splits=300,
    num_joint=40,
    num_bets=40,
)
SIZE = 200
OF_LADDERS = {
    'fixed sequence',
    'Bonferroni',
    'Hoeffding-Bentkus',
    'betting',
    'groups',
    'conformal',
    'conformal, marginal',
    'loss and cost: loss',
    'loss and cost: cost',
    'cost, Hoeffding-Bentkus',
    'cost, betting',
    'early and late steps',
}


@functools.cache
def finite_case():
  """Ladders that are their own truth; hard problems are told by a label."""
  outcomes, scores = ladders.make_outcomes(1_500, seed=1)
  probabilities = 1 / (1 + np.exp(-scores.astype(np.float64)))
  labels = np.arange(1_500) % 2
  other, fitted = ladders.make_outcomes(1_000, seed=2)
  grid = thresholds_lib.grid(1 / (1 + np.exp(-fitted)), other.mask, 25)
  return data_lib.finite(
      'finite', 'embedded', probabilities, outcomes, labels, grid
  )


@functools.cache
def rows_of_finite():
  return list(cells_lib.of_ladders(finite_case(), PLAN, SIZE))


def names(rows):
  return {row['procedure'] for row in rows}


class ValidityTest(absltest.TestCase):

  def assert_kept(self, rows):
    broken = [
        (x['procedure'], x['level'], x['broken'], x['splits'])
        for x in cells_lib.judge(rows)
    ]
    self.assertEmpty(broken)
    # A count in which nothing was promised would be empty, too.
    made = {x['procedure'] for x in rows if x['refused'] < x['splits']}
    self.assertEqual(made, names(rows))

  def test_ladders_of_a_finite_set(self):
    rows = rows_of_finite()
    self.assertEqual(names(rows) - set(cells_lib.PLAIN), OF_LADDERS)
    self.assert_kept(rows)

  def test_new_ladders_of_the_made_up_process(self):
    case = data_lib.simulated(PLAN.num_splits, SIZE)
    rows = list(cells_lib.of_ladders(case, PLAN, SIZE))
    self.assert_kept(rows)
    # What is called true is: so many ladders have these means.
    sample = counts_lib.Sample(case, PLAN.num_splits, SIZE, 0)
    for name in ('loss', 'cost', 'correct'):
      drawn = sample.means[name]
      error = drawn.std(axis=0) / np.sqrt(len(drawn))
      off = np.abs(drawn.mean(axis=0) - sample.truth[name])
      self.assertLess(np.max(off - 5 * error), 1e-6, name)

  @pytest.mark.slow
  def test_rollouts_where_control_returns(self):
    case = rollouts_lib.roll_out('switch', 25_000)
    rows = list(cells_lib.of_rollouts(case, PLAN, 1_000))
    self.assert_kept(rows)
    law = rollouts_lib.routed('switch')
    values = [tree_lib.evaluate(law.tree, law.at(k)) for k in case.grid]
    for k, name in enumerate(('correct', 'cost', 'loss')):
      np.testing.assert_allclose(
          case.values[name] @ case.weights,
          [x[k] for x in values],
          atol=5 * 0.5 / np.sqrt(25_000),
      )

  def test_a_threshold_per_route(self):
    case = joint_lib.by_routes(3_000)
    self.assert_kept(list(cells_lib.of_routes(case, PLAN, SIZE)))

  def test_plain_picks_break_what_they_do_not_promise(self):
    rows = [x for x in rows_of_finite() if x['procedure'] in cells_lib.PLAIN]
    self.assertGreater(max(x['broken'] / x['splits'] for x in rows), 0.3)


class LooseTest(absltest.TestCase):
  """Each guard is removed in turn, and the count must detect it.

  Promises hold with a wide margin here, so that only large errors are detected.
  `coverage_edge_test` tests p-values, without such a margin.
  """

  def found(self, rows):
    return names(cells_lib.judge(rows))

  def test_a_plain_pick_that_calls_itself_a_promise(self):
    rows = [
        x | {'procedure': 'fixed sequence'}
        for x in rows_of_finite()
        if x['procedure'] == 'picked loss'
    ]
    self.assertEqual(self.found(rows), {'fixed sequence'})

  def test_searched_candidates_of_which_a_part_is_hidden(self):
    case, right = finite_case(), bounds.binomial_p_value
    pool = joint_lib.by_steps(case.pool)
    rows = case.draw(100, SIZE, 0)
    risks = cells_lib.losses(PLAN, 'binomial')
    with mock.patch.object(
        bounds, 'binomial_p_value', lambda *x: right(*x) / 9
    ):
      found = joint_lib.searched(pool, pool, rows, risks)
    about = cells_lib.About(case, SIZE)
    got = [
        cells_lib.row(about, 'early and late steps', *x)
        for x in zip(risks, found, strict=True)
    ]
    self.assertEqual(self.found(got), {'early and late steps'})

  def test_groups_that_are_given_more_than_is_promised(self):
    sample = counts_lib.Sample(finite_case(), 400, SIZE, 0)
    risk = risks_lib.Risk('loss', 0.1, 0.1, p_value='binomial')
    loose = dataclasses.replace(risk, delta=0.6)
    found = counts_lib.grouped(sample, loose)
    row = cells_lib.row(sample, 'groups', risk, found)
    self.assertEqual(self.found([row]), {'groups'})


if __name__ == '__main__':
  absltest.main()
