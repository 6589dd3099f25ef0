"""Counts of broken promises where the truth is made."""

from absl.testing import absltest
import numpy as np

from routing.evaluation import broken_promises
from routing.outcomes import points as points_lib

_ALPHA = broken_promises.ALPHA


def _outcomes(losses, costs, num=1_000):
  """K thresholds; each loses a share of N problems, and costs all the same."""
  lost = np.arange(num)[None] < np.array(losses)[:, None] * num
  lost = lost.astype(np.float64)
  return points_lib.Points(
      correct=1 - lost,
      cost=np.broadcast_to(np.array(costs)[:, None], lost.shape),
      loss=lost,
      gain=np.zeros_like(lost),
  )


class CountTest(absltest.TestCase):

  def test_just_beyond_the_level(self):
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
    # What is broken costs .5, what is kept .8.
    share = got['promised']['broken'] / (400 - got['promised']['refused'])
    self.assertAlmostEqual(
        got['promised']['cost'], 0.8 - 0.3 * share, delta=0.05
    )

  def test_nothing_that_holds_costs_nothing_known(self):
    got = broken_promises.count(
        _outcomes((0.3, 0.4), (1.0, 0.5)),
        np.arange(2.0),
        num_samples=20,
        seed=0,
    )
    self.assertEqual(got['best']['cost'], np.inf)
    self.assertEqual(got['promised']['refused'], 20)
    self.assertIsNone(got['promised']['cost'])


if __name__ == '__main__':
  absltest.main()
