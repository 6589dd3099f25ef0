"""Tests of the live baseline routers, by hand and against replay."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import types
from routing.routers import fixed


def make_step(*log_probs):
  return types.Step(
      text='x\n\n',
      token_ids=tuple(range(len(log_probs))),
      log_probs=np.array(log_probs, np.float32),
      top_log_probs=np.zeros((len(log_probs), 0), np.float32),
      is_final=False,
      usage=types.Usage(0, 1, 0, len(log_probs)),
  )


def make_trace(num_steps=0, draft=None, question='q'):
  return types.Trace(
      question=question,
      steps=tuple(make_step(-0.1 * k) for k in range(num_steps)),
      draft=draft,
  )


class FixedTest(parameterized.TestCase):

  def test_small_stays_and_large_hands_over(self):
    self.assertEqual(fixed.SmallRouter().decide(make_trace()).route, 0)
    self.assertEqual(fixed.LargeRouter(2).decide(make_trace()).route, 2)

  def test_step_router_hands_over_at_its_step(self):
    router = fixed.StepRouter(2)
    routes = [router.decide(make_trace(k)).route for k in range(4)]
    self.assertEqual(routes, [0, 0, 1, 1])

  def test_confidence_looks_at_the_draft_and_ties_hand_over(self):
    draft = make_step(-0.2, -1.5, 0.0)  # Uncertainty score 1.5.
    for threshold, route in ((1.4, 1), (1.5, 1), (1.6, 0)):
      got = fixed.ConfidenceRouter(threshold).decide(make_trace(3, draft))
      self.assertEqual(got.route, route)
      self.assertEqual(got.score, 1.5)

  def test_confidence_without_a_draft_looks_at_the_last_step(self):
    got = fixed.ConfidenceRouter(0.15).decide(make_trace(3))
    self.assertAlmostEqual(got.score, 0.2)
    self.assertEqual(fixed.ConfidenceRouter(0.1).decide(make_trace()).route, 0)

  @parameterized.parameters(('minimum', 1.5), ('mean', 1.0), ('first', 0.5))
  def test_confidence_has_other_statistics(self, statistic, score):
    draft = make_step(-0.5, -1.5)
    for threshold, route in ((score, 1), (score + 1e-6, 0)):
      router = fixed.ConfidenceRouter(threshold, statistic=statistic)
      got = router.decide(make_trace(3, draft))
      self.assertEqual((got.route, got.score), (route, score))

  def test_an_unknown_statistic_is_named(self):
    with self.assertRaisesRegex(ValueError, "'max'; allowed: minimum, mean"):
      fixed.ConfidenceRouter(1.0, statistic='max')

  def test_confidence_without_log_probabilities_raises(self):
    with self.assertRaisesRegex(ValueError, 'needs log-probabilities'):
      fixed.ConfidenceRouter(1.0).decide(make_trace(0, make_step()))

  def test_random_is_pure_in_seed_question_and_step(self):
    router = fixed.RandomRouter(0.5, seed=3)
    traces = [make_trace(k, question=f'{q}') for q in range(50) for k in (0, 1)]
    first = [router.decide(trace) for trace in traces]
    self.assertEqual(first, [router.decide(trace) for trace in traces])
    other = fixed.RandomRouter(0.5, seed=4)
    self.assertNotEqual(first, [other.decide(trace) for trace in traces])
    steps = np.array([d.route for d in first]).reshape(50, 2)
    self.assertFalse((steps[:, 0] == steps[:, 1]).all())

  @parameterized.parameters(0.0, 0.2, 1.0)
  def test_random_hands_over_at_its_rate(self, rate):
    router = fixed.RandomRouter(rate)
    decisions = [
        router.decide(make_trace(question=f'{q}')) for q in range(3_000)
    ]
    mean = np.mean([d.route for d in decisions])
    error = np.sqrt(rate * (1 - rate) / 3_000)
    self.assertBetween(mean, rate - 4 * error, rate + 4 * error)
    for decision in decisions:
      want = rate if decision.route else 1 - rate
      self.assertEqual(decision.probability, want)

  def test_bad_settings_raise(self):
    with self.assertRaisesRegex(
        ValueError, r'rate is 2; it must be in \[0, 1\]'
    ):
      fixed.RandomRouter(2)
    with self.assertRaisesRegex(
        ValueError, 'route is 0; it must be 1 or larger'
    ):
      fixed.LargeRouter(0)
    with self.assertRaisesRegex(ValueError, 'step is -1; it must be >= 0'):
      fixed.StepRouter(-1)


if __name__ == '__main__':
  absltest.main()
