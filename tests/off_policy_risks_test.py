"""Off-policy promises: a step-by-step twin, validity, and refusals."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import stats

from routing.calibration import off_policy_risks
from routing.calibration import risks as risks_lib
from routing.outcomes import importance
from tests import importance_test

Risk = risks_lib.Risk
THRESHOLDS = importance_test.THRESHOLDS


def point(num, seed, risks, max_cost=np.inf, **kwargs):
  scores, batch = importance_test.sample(num, seed)
  return off_policy_risks.for_risks(
      scores, batch, risks, thresholds=THRESHOLDS, max_cost=max_cost, **kwargs
  )


class ForRisksTest(parameterized.TestCase):

  @parameterized.parameters(
      (Risk('loss', 0.4, 0.1), 'loss', 1),
      (Risk('cost', 1.4, 0.1, cap=2.0), 'cost', -1),
  )
  def test_equals_testing_one_threshold_at_a_time(self, risk, name, turn):
    got = point(20_000, 0, [risk])
    scores, batch = importance_test.sample(20_000, 0)
    found = importance.estimate(
        scores, batch, THRESHOLDS, delta=0.2, cost_cap=risk.cap
    )
    upper = getattr(found.upper, name)[::turn]
    # Otherwise nothing would end the sequence.
    self.assertGreater(upper[-1], risk.level)
    last = np.argmax(upper > risk.level) - 1
    proven = np.arange(len(THRESHOLDS))[::turn][: last + 1]
    self.assertNotEmpty(proven)
    value = -found.weighted.cost if name == 'loss' else found.weighted.accuracy
    best = proven[np.argmax(value[proven])]
    self.assertEqual(got.threshold, THRESHOLDS[best])
    self.assertAlmostEqual(got.accuracy, found.weighted.accuracy[best])
    self.assertAlmostEqual(got.cost, found.weighted.cost[best])
    self.assertEqual(got.promise.test, 'empirical_bernstein')
    self.assertEqual(got.promise.num_problems, 20_000)

  def test_two_risks_need_one_threshold_that_keeps_both(self):
    loss = Risk('loss', 0.4, 0.1)
    got = point(20_000, 0, [loss, Risk('cost', 1.9, 0.1, cap=2.0)])
    self.assertEqual(got.name, 'loss<=0.4@0.9&cost<=1.9@0.9')
    with self.assertRaisesRegex(risks_lib.Refusal, 'no single threshold keeps'):
      point(20_000, 0, [Risk('loss', 0.3, 0.1), Risk('cost', 1.0, 0.1, 2.0)])

  def test_an_unprovable_promise_says_how_many_are_needed(self):
    risk = Risk('loss', 0.25, 0.1)
    with self.assertRaisesRegex(risks_lib.Refusal, 'and upper bound') as e:
      point(3_000, 0, [risk])
    needed = e.exception.needed
    self.assertGreater(needed, 3_000)
    # The number is approximate: twice as many are enough.
    self.assertEqual(point(2 * needed, 1, [risk]).threshold, -np.inf)
    with self.assertRaisesRegex(risks_lib.Refusal, 'no number') as e:
      point(3_000, 0, [Risk('loss', 0.1, 0.1)])
    self.assertIsNone(e.exception.needed)

  def test_too_few_effective_problems_end_the_sequence(self):
    risk = Risk('loss', 0.4, 0.1)
    with self.assertRaisesRegex(risks_lib.Refusal, 'effective') as e:
      point(20_000, 0, [risk], min_effective_size=1e6)
    self.assertGreater(e.exception.needed, 20_000)

  def test_a_point_as_expensive_as_the_large_model_is_refused(self):
    risk = Risk('loss', 0.4, 0.1)
    cost = point(20_000, 0, [risk]).cost
    self.assertEqual(point(20_000, 0, [risk], cost + 0.01).cost, cost)
    with self.assertRaisesRegex(
        risks_lib.Refusal, 'which keeps this promise'
    ) as e:
      point(20_000, 0, [risk], cost)
    self.assertIsNone(e.exception.needed)

  def test_delta_of_a_half_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'below 1/2, got 0.5'):
      point(500, 0, [Risk('loss', 0.4, 0.5)])


class ValidityTest(parameterized.TestCase):

  def broken(self, num_splits=150):
    # Just below the true loss of the second threshold, so that what is proven
    # beyond the first breaks the promise.
    truth = importance_test.truth(200_000)['loss']
    risk = Risk('loss', float(truth[1]) - 1e-3, 0.1)
    broken = 0
    for seed in range(num_splits):
      try:
        got = point(1_000, 10 + seed, [risk])
      except risks_lib.Refusal:
        continue
      broken += got.threshold > THRESHOLDS[0]
    return broken, stats.binom.ppf(0.999, num_splits, risk.delta)

  def test_promises_are_kept(self):
    broken, most = self.broken()
    self.assertLessEqual(broken, most)

  def test_an_interval_without_width_breaks_promises(self):
    plain = lambda values, top, delta: float(np.mean(values))
    with mock.patch.object(importance, 'empirical_bernstein_lower', plain):
      broken, most = self.broken()
    self.assertGreater(broken, most)


if __name__ == '__main__':
  absltest.main()
