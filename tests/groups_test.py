"""Promises for each group: shares of delta, refusals, and validity."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import stats

from routing import types
from routing.calibration import groups
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from tests import ladders

Risk = risks_lib.Risk


def easy_and_hard(num_problems, seed):
  """Returns ladders; a third of the problems is hard, with random scores."""
  outcomes, scores = ladders.make_outcomes(num_problems, seed=seed)
  is_hard = np.arange(num_problems) % 3 == 0
  noise = np.random.default_rng(seed).permuted(scores, axis=0) - 0.5
  scores = np.where(is_hard[:, None], noise, scores)
  labels = np.where(is_hard, 'hard', 'easy')
  return outcomes, np.where(outcomes.mask, scores, 0.0), labels


class GroupsTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.outcomes, self.scores, self.labels = easy_and_hard(900, seed=1)
    other, scores, _ = easy_and_hard(2_000, seed=99)
    self.grid = thresholds_lib.grid(scores, other.mask, 60)

  def points(self, risk, **kwargs):
    return groups.for_groups(
        self.scores,
        self.outcomes,
        [risk],
        labels=self.labels,
        thresholds=self.grid,
        **kwargs,
    )

  @parameterized.parameters((True, 0.05), (False, 0.1))
  def test_each_group_is_tested_alone_with_its_share(self, is_shared, delta):
    got = self.points(Risk('loss', 0.1, 0.1), is_shared=is_shared)
    self.assertEqual(list(got), ['easy', 'hard'])
    for name, point in got.items():
      rows = self.labels == name
      want = thresholds_lib.for_risks(
          self.scores[rows],
          self.outcomes.take(rows),
          [Risk('loss', 0.1, delta)],
          thresholds=self.grid,
      )
      self.assertEqual(point, want)
    self.assertLess(got['hard'].threshold, got['easy'].threshold)

  def test_a_small_group_is_refused_and_the_others_are_not(self):
    self.labels = self.labels.astype('<U8')
    self.labels[:30] = 'rare'
    got = self.points(Risk('loss', 0.1, 0.1))
    self.assertIsInstance(got['rare'], risks_lib.Refusal)
    # (1 - .1)^n <= .1 / 3 needs n = 33.
    self.assertEqual(got['rare'].needed, 33)
    self.assertRegex(str(got['rare']), 'at least 33 .* got 30')
    for name in ('easy', 'hard'):
      self.assertIsInstance(got[name], thresholds_lib.OperatingPoint)

  def test_a_group_without_a_problem_is_refused_and_has_its_share(self):
    got = self.points(Risk('loss', 0.1, 0.1), names=['hard', 'none', 'easy'])
    self.assertEqual(list(got), ['hard', 'none', 'easy'])
    self.assertEqual(got['none'].needed, 33)
    self.assertAlmostEqual(got['easy'].promise.delta, 0.1 / 3)
    with self.assertRaisesRegex(ValueError, "'easy' is not in names.*'hard'"):
      self.points(Risk('loss', 0.1, 0.1), names=['hard'])

  def test_labels_must_match(self):
    self.labels = self.labels[:-1]
    with self.assertRaisesRegex(ValueError, r'\(900,\), got \(899,\)'):
      self.points(Risk('loss', 0.1, 0.1))

  def test_labels_are_subject_or_meta(self):
    problems = [
        types.Problem('a', '', '', subject='algebra', meta={'level': 3}),
        types.Problem('b', '', '', subject='sets', meta={'level': 5}),
    ]
    got = groups.labels_of(problems, 'subject')
    self.assertEqual(got.tolist(), ['algebra', 'sets'])
    self.assertEqual(groups.labels_of(problems, 'level').tolist(), ['3', '5'])
    with self.assertRaisesRegex(ValueError, "Problem 'a' has no author"):
      groups.labels_of(problems, 'author')

  def test_all_groups_keep_a_loss_that_the_average_hides(self):
    outcomes, scores, labels = easy_and_hard(6_000, seed=2)
    values = thresholds_lib.values_at(scores, outcomes, self.grid)['loss']
    truth = {x: values[:, labels == x].mean(axis=1) for x in ('easy', 'hard')}
    risk = Risk('loss', 0.1, 0.1)
    rng = np.random.default_rng(0)
    broken = averaged_broken = 0
    for _ in range(200):
      rows = rng.integers(6_000, size=600)
      sample = scores[rows], outcomes.take(rows), [risk]
      found = groups.for_groups(
          *sample, labels=labels[rows], thresholds=self.grid
      )
      broken += any(
          truth[name][np.searchsorted(self.grid, point.threshold)] > 0.1
          for name, point in found.items()
          if not isinstance(point, risks_lib.Refusal)
      )
      averaged = thresholds_lib.for_risks(*sample, thresholds=self.grid)
      index = np.searchsorted(self.grid, averaged.threshold)
      averaged_broken += truth['hard'][index] > 0.1
    self.assertLessEqual(broken, stats.binom.ppf(0.999, 200, 0.1))
    self.assertGreater(averaged_broken, 100)


if __name__ == '__main__':
  absltest.main()
