"""Tests of off-policy promises by hand, with given estimates."""

import types as python_types
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.calibration import off_policy_risks
from routing.calibration import risks as risks_lib
from routing.outcomes import frontier as frontier_lib
from routing.outcomes import importance

Risk = risks_lib.Risk
THRESHOLDS = np.array([-np.inf, 0.2, 0.4, 0.6, np.inf])
# By threshold: losses rise, costs fall; upper bounds are `WIDTH` above both.
LOSS = np.array([0.0, 0.04, 0.08, 0.2, 0.4])
COST = np.array([0.95, 0.7, 0.5, 0.3, 0.1])
WIDTH = 0.05


class ByHandTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.calls = []
    self.too_few = ()
    self.batch = python_types.SimpleNamespace(mask=np.ones((30, 2), bool))
    self.enter_context(mock.patch.object(importance, 'estimate', self.estimate))

  def estimate(self, scores, batch, thresholds, **kwargs):
    """Returns the estimate at one threshold from `LOSS`, `COST` and `WIDTH`."""
    self.assertIs(scores, self.scores)
    self.assertIs(batch, self.batch)
    (threshold,) = thresholds
    k = int(np.flatnonzero(THRESHOLDS == threshold)[0])
    self.calls.append((k, kwargs))
    if k in self.too_few and 'delta' in kwargs:
      raise risks_lib.Refusal('Too few.', 77)
    at = lambda shift: frontier_lib.Frontier(
        thresholds=thresholds,
        accuracy=np.array([0.9 - LOSS[k]]),
        cost=COST[k : k + 1] + shift,
        loss=LOSS[k : k + 1] + shift,
        gain=np.array([0.01]),
    )
    return python_types.SimpleNamespace(weighted=at(0.0), upper=at(WIDTH))

  def point(self, *risks, **kwargs):
    self.scores = np.zeros((30, 2))
    return off_policy_risks.for_risks(
        self.scores, self.batch, risks, thresholds=THRESHOLDS, **kwargs
    )

  def test_a_loss_is_tested_upwards_and_takes_the_cheapest(self):
    # Upper bounds .05, .09, .13, .25: a level of exactly .13 proves three.
    level = LOSS[2] + WIDTH
    got = self.point(Risk('loss', level, 0.1, num_joint=2, num_choices=3))
    self.assertEqual(got.threshold, 0.4)
    self.assertEqual((got.cost, got.loss, got.gain), (0.5, 0.08, 0.01))
    tested = [(k, x) for k, x in self.calls if 'delta' in x]
    self.assertEqual([k for k, _ in tested], [0, 1, 2, 3])
    for _, kwargs in tested:
      self.assertEqual(kwargs['delta'], 0.2)
      self.assertNotIn('cost_cap', kwargs)
    (promise,) = got.promises
    self.assertEqual(
        (promise.quantity, promise.level, promise.delta, promise.num_problems),
        ('loss', level, 0.1, 30),
    )
    self.assertEqual((promise.num_joint, promise.num_choices), (2, 3))
    self.assertEqual(promise.test, off_policy_risks.TEST)
    self.assertIsNone(promise.cost_cap)

  def test_a_cost_is_tested_downwards_and_takes_the_most_accurate(self):
    got = self.point(Risk('cost', 0.56, 0.1, cap=2.0))
    self.assertEqual(got.threshold, 0.4)
    tested = [(k, x) for k, x in self.calls if 'delta' in x]
    self.assertEqual([k for k, _ in tested], [4, 3, 2, 1])
    self.assertEqual({x['cost_cap'] for _, x in tested}, {2.0})
    self.assertEqual(got.promise.cost_cap, 2.0)

  def test_two_promises_take_the_most_accurate_proven_for_both(self):
    # The loss is proven at thresholds 0, 1 and 2, the cost at 4 down to 1.
    got = self.point(Risk('loss', 0.14, 0.1), Risk('cost', 0.76, 0.2, cap=2.0))
    self.assertEqual(got.threshold, 0.2)
    self.assertLen(got.promises, 2)
    deltas = {x['delta'] for _, x in self.calls if 'delta' in x}
    self.assertEqual(deltas, {0.2, 0.4})
    with self.assertRaisesRegex(
        risks_lib.Refusal,
        'from 30 problems, but no single threshold keeps them',
    ) as caught:
      self.point(Risk('loss', 0.06, 0.1), Risk('cost', 0.4, 0.1, cap=2.0))
    self.assertIsNone(caught.exception.needed)

  def test_arguments_of_the_estimate_are_passed_on(self):
    routes, problems = np.zeros((30, 2)), np.repeat(np.arange(10), 3)
    got = self.point(
        Risk('loss', 0.14, 0.1),
        routes=routes,
        problems=problems,
        min_effective_size=5.0,
    )
    self.assertEqual(got.promise.num_problems, 10)
    for _, kwargs in self.calls:
      self.assertIs(kwargs['routes'], routes)
      self.assertIs(kwargs['problems'], problems)
      self.assertEqual(kwargs['min_effective_size'], 5.0)
    self.calls.clear()
    self.point(Risk('loss', 0.14, 0.1))
    self.assertEqual({x['min_effective_size'] for _, x in self.calls}, {100.0})

  def test_a_small_effective_size_ends_the_sequence_or_is_refused(self):
    self.too_few = (2,)
    self.assertEqual(self.point(Risk('loss', 0.3, 0.1)).threshold, 0.2)
    self.too_few = (0,)
    with self.assertRaisesRegex(risks_lib.Refusal, 'Too few') as caught:
      self.point(Risk('loss', 0.3, 0.1))
    self.assertEqual(caught.exception.needed, 77)

  @parameterized.parameters((0.5, 1), (0.5 + 1e-6, 0), (0.71, 0))
  def test_thresholds_at_or_above_the_maximum_cost_are_refused(
      self, max_cost, is_refused
  ):
    args = (Risk('loss', 0.14, 0.1),)
    if is_refused:
      with self.assertRaisesRegex(risks_lib.Refusal, r'or more, .* below 0\.5'):
        self.point(*args, max_cost=max_cost)
    else:
      self.assertEqual(self.point(*args, max_cost=max_cost).cost, 0.5)
    # The default maximum is the cost of the large model.
    with mock.patch.dict(globals(), COST=COST + 0.5):
      with self.assertRaisesRegex(risks_lib.Refusal, r'cost must be below 1\.'):
        self.point(Risk('loss', 0.14, 0.1))

  @parameterized.parameters(
      # The width at 30 problems is .05; a third of it takes nine times as many.
      (0.04, 0.04 - 0.05 / 3, 270),
      (0.03, 0.03 - 0.05 / 2, 120),
      # 30 * 2.5^2 = 187.5.
      (0.04, 0.04 - 0.05 / 2.5, 188),
      # At a mean equal to the level or above it, no number is enough.
      (0.04, 0.04, None),
      (0.04, 0.05, None),
  )
  def test_the_error_says_how_many_problems_are_needed(
      self, level, mean, needed
  ):
    with mock.patch.dict(globals(), LOSS=np.full(5, mean)):
      with self.assertRaisesRegex(
          risks_lib.Refusal,
          f'loss {mean:.4f} and upper bound {mean + WIDTH:.4f};',
      ) as caught:
        self.point(Risk('loss', level, 0.1))
    if needed is None:
      self.assertIsNone(caught.exception.needed)
      self.assertIn('no number', str(caught.exception))
    else:
      # Rounded up, so that a rounding error may add one.
      self.assertBetween(caught.exception.needed, needed, needed + 1)
      self.assertIn(
          f'{caught.exception.needed:,} problems', str(caught.exception)
      )

  def test_delta_must_be_below_one_half_and_thresholds_must_rise(self):
    with self.assertRaisesRegex(ValueError, 'below 1/2, got 0.5'):
      self.point(Risk('loss', 0.14, 0.5))
    self.assertEqual(self.point(Risk('loss', 0.14, 0.49)).threshold, 0.4)
    with self.assertRaisesRegex(ValueError, 'rise'):
      off_policy_risks.for_risks(
          self.scores, self.batch, [], thresholds=THRESHOLDS[::-1]
      )


if __name__ == '__main__':
  absltest.main()
