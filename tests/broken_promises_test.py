"""Tests of counting broken promises where the truth is constructed."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.evaluation import broken_promises
from routing.outcomes import points as points_lib

_ALPHA = broken_promises.ALPHA


def _outcomes(losses, costs, num=1_000):
  """Returns K thresholds with given shares of losses and constant costs."""
  lost = np.arange(num)[None] < np.array(losses)[:, None] * num
  lost = lost.astype(np.float64)
  return points_lib.Points(
      correct=1 - lost,
      cost=np.broadcast_to(np.array(costs)[:, None], lost.shape),
      loss=lost,
      gain=np.zeros_like(lost),
  )


class CountTest(absltest.TestCase):

  def test_a_risk_just_above_the_level(self):
    # Rising thresholds lose more and cost less. The last but one loses .052, a
    # little more than promised: samples of 500 hide that about half of the
    # time, and a plain pick then takes it.
    losses, costs = (0.0, 0.02, 0.052, 0.3), (1.0, 0.8, 0.5, 0.2)
    got = broken_promises.count(
        _outcomes(losses, costs), np.arange(4.0), num_samples=400, seed=0
    )
    self.assertAlmostEqual(got['best']['cost'], 0.8)
    self.assertEqual(got['num_problems'], 1_000)
    self.assertGreater(got['picked']['broken'], 0.3 * 400)
    most = 0.1 * 400 + 5 * np.sqrt(0.1 * 0.9 * 400)
    self.assertBetween(got['promised']['broken'], 1, most)
    # Thresholds that break the promise cost .5, those that keep it .8.
    share = got['promised']['broken'] / (400 - got['promised']['refused'])
    self.assertAlmostEqual(
        got['promised']['cost'], 0.8 - 0.3 * share, delta=0.05
    )

  def test_without_a_valid_threshold_the_best_cost_is_unknown(self):
    got = broken_promises.count(
        _outcomes((0.3, 0.4), (1.0, 0.5)),
        np.arange(2.0),
        num_samples=20,
        seed=0,
    )
    self.assertEqual(got['best']['cost'], np.inf)
    self.assertEqual(got['promised']['refused'], 20)
    self.assertIsNone(got['promised']['cost'])


class BruteForceTest(parameterized.TestCase):

  def _random(self, seed, num=60):
    """Makes thresholds without order of cost or loss."""
    rng = np.random.default_rng(seed)
    loss = (rng.random((6, num)) < rng.uniform(0, 0.2, (6, 1))).astype(float)
    return points_lib.Points(
        correct=1 - loss,
        cost=rng.uniform(0, 2, (6, num)),
        loss=loss,
        gain=np.zeros_like(loss),
    )

  @parameterized.parameters(*range(5))
  def test_best_is_the_cheapest_valid_threshold(self, seed):
    values = self._random(seed)
    got = broken_promises.count(
        values, np.arange(6.0), num_samples=1, seed=0, alpha=0.1
    )
    wanted = min(
        (
            cost.mean()
            for loss, cost in zip(values.loss, values.cost, strict=True)
            if loss.sum() <= 0.1 * 60
        ),
        default=np.inf,
    )
    self.assertAlmostEqual(got['best']['cost'], wanted)

  def test_picked_equals_a_plain_loop(self):
    values, alpha = self._random(1), 0.1
    got = broken_promises.count(
        values,
        np.arange(6.0),
        num_samples=50,
        seed=3,
        sample_size=40,
        alpha=alpha,
    )
    rng, chosen = np.random.default_rng(3), []
    for _ in range(50):
      rows = rng.integers(60, size=40)
      holds = [k for k in range(6) if values.loss[k][rows].mean() <= alpha]
      if holds:
        chosen.append(min(holds, key=lambda k: values.cost[k][rows].mean()))
    broken = [k for k in chosen if values.loss[k].mean() > alpha]
    cost = np.mean([values.cost[k].mean() for k in chosen])
    self.assertEqual(got['picked']['broken'], len(broken))
    self.assertEqual(got['picked']['refused'], 50 - len(chosen))
    self.assertAlmostEqual(got['picked']['cost'], cost)
    self.assertNotEmpty(broken)

  def test_other_problems_do_not_matter(self):
    # The first 60 of 120, whatever the others lose and cost.
    count = functools.partial(
        broken_promises.count,
        thresholds=np.arange(6.0),
        num_samples=20,
        seed=0,
        alpha=0.2,
    )
    wanted = count(self._random(2))
    for worse in (0.0, 1.0):
      both = points_lib.Points(
          **{
              name: np.concatenate(
                  [x := getattr(self._random(2), name), x * 0 + worse], axis=1
              )
              for name in points_lib.NAMES
          }
      )
      self.assertEqual(count(both.on(slice(0, 60))), wanted)
      self.assertNotEqual(count(both), wanted)


if __name__ == '__main__':
  absltest.main()
