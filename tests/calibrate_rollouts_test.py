"""Points where control returns: tried live, kept, or weighed off-policy."""

import json
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import stats

from experiments import builders
from experiments import calibrate
from experiments import calibrate_rollouts
from experiments import calibrate_trees
from experiments import grown as grown_lib
from experiments import live
from experiments import train
from routing.calibration import risks as risks_lib
from routing.evaluation import walks
from routing.problems import splits
from routing.routers import learned
from routing.shards import manifest as manifest_lib
from routing.shards import reader
from tests import scripted_pair
from tests import train_rollouts_test
from tests import trees_test


def make_config(**changes):
  config = train_rollouts_test.make_config()
  config.num_steps = config.eval_every = 2
  config.objective.levels = (0.5, 0.7)
  config.calibration.update(
      dict(
          budgets=(0.9,),
          alphas=(0.45,),
          confident_budgets=(1.3,),
          both=((0.5, 1.4),),
          grid=3,
          selection=10,
      )
  )
  config.calibration.confident_budgets = ()
  config.calibration.update(changes)
  return config


class CalibrateTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.workdir = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    counts = {'train': 24, 'validation': 60}
    with mock.patch.dict(train_rollouts_test._COUNTS, counts):
      train_rollouts_test.collect(cls.workdir)
    train.train_all(make_config(both=()), cls.workdir)
    cls.directory = train.run_directory(cls.workdir, 0)
    records = reader.read_rollouts(cls.workdir / 'rollouts' / 'validation')
    cls.chosen_on, cls.tested = splits.halves(records)

  def calibrate(self, engines=scripted_pair.make_engines, **changes):
    config = make_config(**changes)
    with mock.patch.object(builders, 'engines', lambda _: engines()):
      (path,) = calibrate.calibrate_all(config, self.workdir)
    return json.loads(path.read_text())

  def at(self, entry, records):
    """What the driver gets at a point."""
    router = learned.load(self.directory)
    return live.measure(
        make_config(),
        [router.with_threshold(entry['member'], entry['threshold'])],
        records,
        router.card.accounting,
        lambda _: scripted_pair.make_engines(),
    )

  def test_points_are_what_the_driver_gets(self):
    budget, promised = self.calibrate(both=())
    self.assertEqual(budget['name'], 'cost<=0.9')
    self.assertEqual(promised['name'], 'loss<=0.45@0.9')
    self.assertIsNone(budget['promise']['delta'])
    # Picked on the first ten of one half, tested on all of the other.
    for entry, records in (
        (budget, self.chosen_on[:10]),
        (promised, self.tested),
    ):
      points = self.at(entry, records)
      measured = entry['promise']['measured']
      self.assertAlmostEqual(measured['cost'], points.mean_cost[0], 4)
      self.assertAlmostEqual(measured['accuracy'], points.accuracy[0], 4)
      self.assertAlmostEqual(measured['loss'], points.loss.mean(), 4)
      self.assertEqual(entry['promise']['n'], len(records))
      self.assertEqual(entry['promise']['source'], 'rollouts')
    lost = self.at(promised, self.tested).loss.sum()
    p_value = stats.binom.cdf(lost, 30, 0.45)
    self.assertAlmostEqual(promised['promise']['p_value'], p_value)
    self.assertLessEqual(p_value, 0.1)
    router = learned.load(self.directory)
    self.assertEqual(router.at('loss<=0.45@0.9').point.name, promised['name'])

  def test_what_was_answered_is_kept(self):
    before = self.calibrate(both=())

    def broken():
      raise AssertionError('No engine is needed any more.')

    self.assertEqual(self.calibrate(broken, both=()), before)
    # One more level needs no more answers, another grid does.
    more = self.calibrate(broken, both=(), alphas=(0.45, 0.5))
    self.assertEqual(more[:2], before)
    with self.assertRaisesRegex(AssertionError, 'any more'):
      self.calibrate(broken, both=(), grid=4)

  def test_a_grid_is_of_the_first_half_and_reads_no_outcome(self):
    router = learned.load(self.directory)
    seen, unseen = calibrate_rollouts.halves_of(
        router, [*_interleaved(self.chosen_on, self.tested)]
    )
    self.assertLen(seen.batch.mask, 3 * 30)
    self.assertLen(unseen.records, 30)
    met = seen.choices[0][0][np.asarray(seen.batch.mask)]
    grid = seen.grid(0, 3)
    self.assertContainsSubset(grid[1:-1], met)
    np.testing.assert_array_equal(grid[[0, -1]], [-np.inf, np.inf])

  def test_too_few_trajectories_are_refused_off_policy(self):
    before = self.calibrate(both=())
    with self.assertRaisesRegex(risks_lib.Refusal, 'effective sample') as e:
      self.calibrate(both=(), source='off_policy')
    self.assertGreater(e.exception.needed, 30)
    path = self.directory / learned.POINTS_FILE
    self.assertEqual(json.loads(path.read_text()), before)

  @parameterized.parameters(
      (dict(source='guess'), "'guess'; allowed: rollouts, trees, off_policy"),
      (dict(source='trees'), 'trees, which takes --replies'),
      (dict(group_by='subject'), 'group_by .* in redraft it must be empty'),
      (dict(joint_starts=(0, 2)), 'joint_starts .* it must be empty'),
      (dict(budgets=(1.5,)), 'Budget 1.5 is outside'),
      (dict(alphas=(0.01,)), 'takes 230 trajectories or more'),
      (dict(both=((0.45, 0.2),)), 'of any member keeps'),
  )
  def test_refusals(self, changes, says):
    with self.assertRaisesRegex(ValueError, says):
      self.calibrate(**{'both': (), **changes})

  def test_rollouts_of_another_protocol_are_refused(self):
    router = learned.load(self.directory)
    plan = {'protocol': {'name': 'switch', 'view': 'commit'}}
    settings = train_rollouts_test._SETTINGS | {'plan': plan}
    with self.assertRaisesRegex(ValueError, 'another protocol'):
      calibrate._check_same(router.card, settings, self.workdir)


class TreesTest(absltest.TestCase):

  def test_halves_share_the_forest_evenly_and_answers_are_walks(self):
    forest = trees_test.make_forest('redraft', 9)
    rng = np.random.default_rng(0)
    scores = rng.random(len(forest.depth))
    choices = [(scores, np.ones(len(scores), int))]
    grown = grown_lib.Grown([], forest)
    router = mock.Mock()
    router.card.ruler = 'price'
    with mock.patch.object(grown_lib, 'scores_of', lambda *_: choices):
      (seen, unseen), answer = calibrate_trees.halves_of(router, grown)
    self.assertEqual(seen.records, [0, 2, 4, 6, 8])
    self.assertEqual(unseen.records, [1, 3, 5, 7])
    # Every decision is met in one half, and in that of its own problem.
    both = np.concatenate([seen.met[0], unseen.met[0]])
    np.testing.assert_array_equal(np.sort(both), np.sort(scores))
    self.assertContainsSubset(scores[forest.roots[1::2]], unseen.met[0])
    last = scores[forest.roots[8] :]
    self.assertContainsSubset(last, seen.met[0])
    thresholds = np.array([0.2, 0.6])
    want = walks.at_thresholds(forest, scores, thresholds, 'price')
    got = answer(0, thresholds, unseen.records)
    np.testing.assert_array_equal(got.cost, want.cost[:, 1::2])
    np.testing.assert_array_equal(got.loss, want.loss[:, 1::2])
    self.assertContainsSubset(seen.grid(0, 4)[1:-1], seen.met[0])

  def test_other_validation_problems_than_in_training_are_refused(self):
    run = pathlib.Path(self.create_tempdir().full_path)
    problems = scripted_pair.make_problems(6)
    content = manifest_lib.hash_problems(problems[0::2])
    (run / 'features.json').write_text(
        json.dumps({'shards': {'validation': content}})
    )
    calibrate_trees.check_chosen_on(run, problems)
    with self.assertRaisesRegex(ValueError, 'other validation problems'):
      calibrate_trees.check_chosen_on(run, problems[:5][::-1])


def _interleaved(first, second):
  for pair in zip(first, second, strict=True):
    yield from pair


if __name__ == '__main__':
  absltest.main()
