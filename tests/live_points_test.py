"""Tests that an evaluation says why it answers no test problem live."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized

from configs import arithmetic
from experiments import live_points
from routing.routers import learned
from tests import ladders


class WhyNotTest(parameterized.TestCase):

  @parameterized.parameters(
      (True, False, "only evaluation.source 'known'"),
      (False, True, 'the router has no operating points'),
  )
  def test_the_log_says_why(self, has_points, is_known, reason):
    config = arithmetic.get_config('smoke')
    router = learned.load('shipped')
    if not has_points:
      router.points = ()
    test = ladders.make_known(3, seed=0) if is_known else mock.Mock()
    with self.assertLogs(level='INFO') as logged:
      found = live_points.answer(config, 'nowhere', router, test)
    self.assertEqual(found, [])
    self.assertIn(reason, logged.output[0])
    config.evaluation.num_live = 0  # Nothing was asked for.
    with self.assertNoLogs(level='INFO'):
      live_points.answer(config, 'nowhere', router, test)


if __name__ == '__main__':
  absltest.main()
