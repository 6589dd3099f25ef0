"""Tests that counting broken promises detects p-values that are half as large.

In other cells promises hold with a wide margin, which hides errors of a test.
Here one of two candidates loses slightly more than the level. A valid test
proves it in nearly a share delta of all samples, and a p-value that is half as
large proves it in nearly twice as many.
"""

import functools
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import stats

from experiments.studies.coverage import cells as cells_lib
from experiments.studies.coverage import counts as counts_lib
from experiments.studies.coverage import data as data_lib
from routing.calibration import bounds
from routing.calibration import risks as risks_lib

ALPHA, DELTA, NUM, SIZE, SPLITS = 0.1, 0.1, 2_000, 200, 2_000
TESTS = ('binomial', 'hoeffding_bentkus', 'betting')


@functools.cache
def edge_sample():
  """Returns samples of one-step ladders with two candidates.

  Always handing over loses nothing; never handing over loses 201 of 2,000. The
  probabilities of handing over are distinct and below 1/2, so that the
  conformities are distinct, too.
  """
  lost = (np.arange(NUM) <= ALPHA * NUM).astype(float)
  loss = np.stack([np.zeros(NUM), lost], axis=1)
  cost = np.tile([1.0, 0.2], (NUM, 1))
  outcomes = data_lib.tables(correct=1 - loss, cost=cost, loss=loss)
  scores = np.random.default_rng(0).permutation(NUM)[:, None] / (2 * NUM)
  case = data_lib.finite(
      'edge',
      'embedded',
      scores,
      outcomes,
      np.zeros(NUM, int),
      np.array([-np.inf, np.inf]),
  )
  return counts_lib.Sample(case, SPLITS, SIZE, 0)


def count(test):
  """Returns the row of one test."""
  risk = risks_lib.Risk('loss', ALPHA, DELTA, p_value=test)
  found = counts_lib.tested(edge_sample(), risk)
  return cells_lib.row(edge_sample(), test, risk, found)


def count_conformal():
  """Returns the row of conformal sets with a delta; the test is binomial."""
  risk = risks_lib.Risk('loss', ALPHA, DELTA)
  found = counts_lib.conformal_sets(edge_sample(), risk)
  return cells_lib.row(edge_sample(), 'conformal', risk, found)


def divided(test, factor):
  """Returns a patch that divides the p-value of one test by `factor`."""
  right = getattr(bounds, f'{test}_p_value')
  wrong = lambda *args: right(*args) / factor
  return mock.patch.object(bounds, f'{test}_p_value', wrong)


class EdgeTest(parameterized.TestCase):

  def test_valid_p_values_break_nearly_a_share_delta_and_no_more(self):
    rows = [*map(count, TESTS), count_conformal()]
    self.assertEmpty(cells_lib.judge(rows))
    shares = {x['procedure']: x['broken'] / SPLITS for x in rows}
    self.assertGreater(shares['binomial'], 0.6 * DELTA)
    self.assertGreater(shares['betting'], 0.6 * DELTA)
    self.assertGreater(shares['conformal'], 0.6 * DELTA)
    # Bentkus' bound is e times the binomial p-value, so it breaks fewer.
    self.assertBetween(shares['hoeffding_bentkus'], 0.1 * DELTA, 0.6 * DELTA)

  @parameterized.parameters(
      ('binomial', 2), ('betting', 2), ('hoeffding_bentkus', 5)
  )
  def test_a_p_value_that_is_too_small_is_detected(self, test, factor):
    with divided(test, factor):
      rows = [*map(count, TESTS), count_conformal()]
    found = {x['procedure'] for x in cells_lib.judge(rows)}
    want = {test, 'conformal'} if test == 'binomial' else {test}
    self.assertEqual(found, want)

  def test_the_share_of_the_binomial_test_is_exact(self):
    # The test proves 'never' if at most k of 200 are lost, where k is the
    # largest with P(Bin(200, .1) <= k) <= .1. The true share is 201 of 2,000.
    most = stats.binom.ppf(DELTA, SIZE, ALPHA) - 1
    want = stats.binom.cdf(most, SIZE, 201 / NUM)
    noise = 4 * np.sqrt(want * (1 - want) / SPLITS)
    self.assertAlmostEqual(
        count('binomial')['broken'] / SPLITS, want, delta=noise
    )


if __name__ == '__main__':
  absltest.main()
