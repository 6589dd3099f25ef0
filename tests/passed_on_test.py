"""Tests that settings are passed on to the statistical tests, and defaults."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.calibration import joint
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from tests import ladders

Risk = risks_lib.Risk


class PassedOnTest(parameterized.TestCase):
  """Each function passes its arguments on to `for_risks` or `from_values`."""

  def setUp(self):
    super().setUp()
    self.outcomes, self.scores = ladders.make_outcomes(500, seed=11)
    other, scores = ladders.make_outcomes(500, seed=12)
    self.grid = thresholds_lib.grid(scores, other.mask, 20)

  def expected(self, risk, **kwargs):
    """Returns the point of `for_risks` with one risk."""
    return thresholds_lib.for_risks(
        self.scores, self.outcomes, [risk], thresholds=self.grid, **kwargs
    )

  @parameterized.product(
      p_value=('auto', 'hoeffding_bentkus', 'betting'),
      procedure=risks_lib.PROCEDURES,
  )
  def test_learn_then_test(self, p_value, procedure):
    kwargs = dict(procedure=procedure, max_cost=0.99)
    got = thresholds_lib.learn_then_test(
        self.scores,
        self.outcomes,
        alpha=0.2,
        delta=0.15,
        thresholds=self.grid,
        p_value=p_value,
        **kwargs,
    )
    risk = Risk('loss', 0.2, 0.15, p_value=p_value)
    self.assertEqual(got, self.expected(risk, **kwargs))
    test = 'binomial' if p_value == 'auto' else p_value
    test = 'growing' if procedure == 'growing' else test
    self.assertEqual(got.promise.test, test)

  @parameterized.product(
      p_value=('hoeffding_bentkus', 'betting'), procedure=risks_lib.PROCEDURES
  )
  def test_for_budget_with_confidence(self, p_value, procedure):
    got = thresholds_lib.for_budget_with_confidence(
        self.scores,
        self.outcomes,
        budget=0.7,
        delta=0.15,
        thresholds=self.grid,
        cost_cap=1.5,
        p_value=p_value,
        procedure=procedure,
    )
    risk = Risk('cost', 0.7, 0.15, 1.5, p_value)
    self.assertEqual(got, self.expected(risk, procedure=procedure))

  def test_defaults(self):
    args = self.scores, self.outcomes
    rest = dict(delta=0.1, thresholds=self.grid)
    got = thresholds_lib.learn_then_test(*args, alpha=0.2, **rest)
    self.assertEqual(got, self.expected(Risk('loss', 0.2, 0.1)))
    got = thresholds_lib.for_budget_with_confidence(*args, budget=0.7, **rest)
    want = self.expected(Risk('cost', 0.7, 0.1, 2.0, 'hoeffding_bentkus'))
    self.assertEqual(got, want)

  def test_costs_from_the_large_model_on_are_refused_by_default(self):
    risk = Risk('loss', 0.2, 0.1)
    point = self.expected(risk)
    for name, call in (
        ('for_risks', lambda **x: self.expected(risk, **x)),
        (
            'learn_then_test',
            lambda **x: thresholds_lib.learn_then_test(
                self.scores,
                self.outcomes,
                alpha=0.2,
                delta=0.1,
                thresholds=self.grid,
                **x,
            ),
        ),
    ):
      with self.assertRaisesRegex(
          risks_lib.Refusal, 'the cost must be below', msg=name
      ):
        call(max_cost=point.cost)
      self.outcomes.cost[:] += 1
      with self.assertRaisesRegex(risks_lib.Refusal, r'cost must be below 1\.'):
        call()
      self.assertGreater(call(max_cost=np.inf).cost, 1)
      self.outcomes.cost[:] -= 1

  def test_a_budget_out_of_range_is_refused(self):
    for budget in (0.1, 1.1):
      with self.assertRaisesRegex(ValueError, 'outside'):
        thresholds_lib.for_budget_with_confidence(
            self.scores,
            self.outcomes,
            budget=budget,
            delta=0.1,
            thresholds=self.grid,
        )

  def test_the_whole_table_decides_the_test(self):
    # No threshold of the grid hands over at the step with a loss of 1/2.
    self.outcomes.loss[0, 2] = 0.5
    grid = np.array([-np.inf, np.inf])
    got = thresholds_lib.learn_then_test(
        self.scores,
        self.outcomes,
        alpha=0.3,
        delta=0.1,
        thresholds=grid,
        max_cost=np.inf,
    )
    self.assertEqual(got.promise.test, 'hoeffding_bentkus')

  @parameterized.parameters('fixed_sequence', 'bonferroni', 'growing')
  def test_search_then_test(self, procedure):
    channels = joint.by_step(self.scores, (0, 3))
    is_searched = np.arange(500) < 200
    risk = Risk('loss', 0.25, 0.2)
    kwargs = dict(procedure=procedure, max_cost=0.97)
    got = joint.search_then_test(
        channels,
        [self.outcomes],
        [risk],
        is_searched=is_searched,
        size=5,
        **kwargs,
    )
    searched = self.outcomes.take(is_searched)
    kappas = joint.grid(channels[:200], searched.mask, 5)
    found = joint.values_at(channels[:200], [searched], kappas)
    path = joint.pareto_path(found['loss'].mean(1), found['cost'].mean(1))
    tested = [self.outcomes.take(~is_searched)]
    want = thresholds_lib.from_values(
        joint.values_at(channels[200:], tested, kappas[path]),
        kappas[path],
        [risk],
        orders={'loss': np.arange(len(path))},
        **kwargs,
    )
    self.assertEqual(got, want)
    with self.assertRaisesRegex(risks_lib.Refusal, 'the cost must be below'):
      joint.search_then_test(
          channels,
          [self.outcomes],
          [risk],
          is_searched=is_searched,
          size=5,
          procedure=procedure,
          max_cost=0.3,
      )

  def test_a_split_with_an_empty_part_is_refused(self):
    channels = joint.by_step(self.scores, (0, 3))
    for is_searched in (np.zeros(500, bool), np.ones(500, bool)):
      with self.assertRaisesRegex(
          ValueError, f'at least one problem: {is_searched.sum()} of 500 are'
      ):
        joint.search_then_test(
            channels,
            [self.outcomes],
            [Risk('loss', 0.25, 0.2)],
            is_searched=is_searched,
        )


if __name__ == '__main__':
  absltest.main()
