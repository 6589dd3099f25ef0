"""Named points and their refusals, on made-up members of a router."""

import json
import pathlib
import types as python_types
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from configs import arithmetic
from experiments import calibrate
from experiments import points as points_lib
from experiments import promises
from routing import types
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from routing.shards import manifest as manifest_lib
from tests import ladders

HASHES = {'checkpoint_hash': 'c', 'shards_hash': 's'}
Risk = risks_lib.Risk


def make_member(is_blind=False):
  """Scores in (0, 1), as a policy's chances are; a blind one's tell nothing."""
  outcomes, scores = ladders.make_outcomes(1_200)
  if is_blind:
    scores = np.random.default_rng(0).permuted(scores, axis=0)
  scores = 1 / (1 + np.exp(-scores.astype(np.float64)))
  return promises.Member(np.where(outcomes.mask, scores, 0.0), outcomes)


def make_ladder(question, num_samples=1, subject=''):
  completions = tuple(
      types.Completion(0, 1, sample, '', 1, 1, 0.0, True)
      for sample in range(num_samples)
  )
  problem = types.Problem(question, question, '', subject=subject)
  return types.Ladder(problem, (), True, completions)


def make_config(**changes):
  config = arithmetic.get_config('smoke')
  wanted = dict(budgets=(0.5,), alphas=(0.1,), delta=0.1)
  # What is off by default is of one type only once it is on.
  config.calibration = {
      **config.calibration.to_dict(),
      **wanted,
      **changes,
  }
  return config


def points_of(members, config, labels=None):
  """The points of a router of which only the members matter."""
  labels = labels or [''] * len(members[0].scores)
  validation = python_types.SimpleNamespace(
      ladders=[make_ladder(str(k), subject=x) for k, x in enumerate(labels)],
      content_hash='s',
  )
  router = python_types.SimpleNamespace(checkpoint_hash='c')
  with mock.patch.object(calibrate, 'members_of', lambda *_: members):
    return calibrate.points_of(config, router, validation)


class PromisedPointTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.members = [make_member(is_blind=True), make_member()]

  def test_chosen_on_one_half_and_tested_on_the_other(self):
    risks = [Risk('loss', 0.1, 0.1)]
    member, point = promises.promised_point(self.members, risks)
    self.assertEqual(member, 1)
    even, odd = np.arange(0, 1_200, 2), np.arange(1, 1_200, 2)
    seen, unseen = (self.members[1].take(rows) for rows in (even, odd))
    want = thresholds_lib.learn_then_test(
        unseen.scores,
        unseen.outcomes,
        alpha=0.1,
        delta=0.1,
        thresholds=thresholds_lib.grid(seen.scores, seen.outcomes.mask, 200),
    )
    self.assertEqual(point, want)
    self.assertEqual(point.promise.num_problems, 600)

  def test_member_is_the_cheapest_within_the_loss(self):
    costs = [
        thresholds_lib.for_loss(x.scores, x.outcomes, 0.1).cost
        for x in self.members
    ]
    got = promises.select_member(self.members, [Risk('loss', 0.1, 0.1)])
    self.assertEqual(got, int(np.argmin(costs)))

  def test_levels_that_no_member_keeps_are_refused(self):
    risks = [Risk('loss', 0.01, 0.1), Risk('cost', 0.3, 0.1, 2.0)]
    with self.assertRaisesRegex(risks_lib.Refusal, 'of any member keeps') as e:
      promises.promised_point(self.members, risks)
    self.assertIsNone(e.exception.needed)

  def test_budget_outside_says_what_is_allowed(self):
    with self.assertRaisesRegex(ValueError, r'Budget 1.2 is outside \[0.188'):
      promises.promised_point(self.members, [Risk('cost', 1.2, 0.1, 2.0)])

  def test_step_point_searches_the_half_that_chose(self):
    member, point = promises.step_point(
        self.members, [Risk('loss', 0.1, 0.1)], (0, 3)
    )
    self.assertEqual(member, 1)
    self.assertLen(point.threshold, 2)
    self.assertEqual(point.promise.num_problems, 600)


class PointsTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.members = [make_member()]

  def test_names_of_all_kinds(self):
    config = make_config(
        confident_budgets=(0.7,),
        both=((0.2, 0.8),),
        group_by='subject',
        joint_starts=(0, 3),
    )
    labels = ['sets', 'algebra'] * 20 + ['sets', 'sets', 'algebra'] * 387
    labels = [*labels[:1_198], 'rare', 'sets']  # In no tested problem.
    with self.assertLogs(level='WARNING') as logs:
      points = points_of(self.members, config, labels)
    self.assertEqual(
        [point['name'] for point in points],
        [
            'cost<=0.5',
            'loss<=0.1@0.9',
            'cost<=0.7@0.9',
            'loss<=0.2@0.9&cost<=0.8@0.9',
            'loss<=0.1@0.9[algebra]',
            'loss<=0.1@0.9[sets]',
            'loss<=0.1@0.9/steps0,3',
        ],
    )
    self.assertRegex(logs.output[0], r'\[rare\] is refused: .*takes 33 .*got 0')
    for point in points:
      self.assertEqual(point['checkpoint_hash'], 'c')
      self.assertEqual(point['shards_hash'], 's')
      self.assertGreaterEqual(np.min(point['threshold']), 0)
    json.dumps(points, allow_nan=False)
    both, algebra, steps = points[3], points[4], points[6]
    self.assertEqual(both['promise']['what'], 'loss')
    self.assertEqual(both['promise']['also'][0]['what'], 'cost')
    self.assertEqual(both['promise']['also'][0]['cost_cap'], 2.0)
    self.assertEqual(algebra['promise']['group'], 'algebra')
    self.assertAlmostEqual(algebra['promise']['delta'], 0.1 / 3)
    self.assertLen(steps['threshold'], 6)  # One per decision.
    self.assertLen(set(steps['threshold'][:3]), 1)

  def test_without_the_extras_nothing_is_added(self):
    points = points_of(self.members, make_config())
    self.assertLen(points, 2)
    self.assertIsNone(points[0]['promise']['delta'])
    self.assertEqual(points[1]['promise']['test'], 'binomial')
    self.assertEqual(points[1]['promise']['n'], 600)

  def test_ends_of_the_grid_are_numbers_that_json_knows(self):
    promise = thresholds_lib.Promise('loss', 0.1, 0.1, 9)
    point = thresholds_lib.OperatingPoint(
        (-np.inf, np.inf), (promise,), *[0.5] * 4
    )
    got = points_lib.to_json('a', 0, point, HASHES)
    self.assertEqual(got['threshold'], [0.0, 2.0])

  def test_test_follows_collection(self):
    self.assertEqual(calibrate.loss_test([make_ladder('a')]), 'binomial')
    rows = [make_ladder('a'), make_ladder('b', num_samples=2)]
    self.assertEqual(calibrate.loss_test(rows), 'betting')


class HashTest(parameterized.TestCase):

  @parameterized.parameters(
      (['a'], ['b', 'c', 'd'], None),
      (['a', ' C'], ['b', 'c'], "'train' and 'calibration' share 1"),
      (['a'], ['b', 'B '], "'selection' and 'calibration' share 1"),
      (['b'], ['b', 'c'], "'train' and 'selection' share 1"),
  )
  def test_seen_questions_are_refused(self, train, validation, says):
    train, validation = (
        [make_ladder(question) for question in part]
        for part in (train, validation)
    )
    if says is None:
      calibrate.check_unseen(train, validation)
    else:
      with self.assertRaisesRegex(ValueError, says):
        calibrate.check_unseen(train, validation)

  def test_a_run_of_other_shards_is_refused(self):
    root = pathlib.Path(self.create_tempdir().full_path)
    manifest = manifest_lib.Manifest({'seed': 1}, 5, 5)
    (root / 'shards' / 'train').mkdir(parents=True)
    manifest_lib.save(root / 'shards' / 'train', manifest)
    record = root / 'features.json'
    record.write_text(json.dumps({'shards': {'train': manifest.content_hash}}))
    calibrate.check_trained_on(root, root / 'shards')
    record.write_text(json.dumps({'shards': {'train': 'feedbeef'}}))
    with self.assertRaisesRegex(ValueError, 'trained on train shards feedbeef'):
      calibrate.check_trained_on(root, root / 'shards')


if __name__ == '__main__':
  absltest.main()
