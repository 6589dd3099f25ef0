"""Tests of the calibrate stage: use of its settings, and looks at prove.

The router is the shipped one; outcomes come from made-up ladders.
"""

import dataclasses
import json
import pathlib
import shutil
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized

from configs import arithmetic
from experiments import calibrate
from experiments import evaluate
from experiments import pipeline
from experiments import records_on_disk
from experiments import train
from routing.calibration import calibrator
from routing.calibration import looks as looks_lib
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from routing.routers import card as card_lib
from routing.routers import families
from routing.routers import learned
from routing.shards import manifest as manifest_lib
from tests import ladders


class CalibrateTestCase(parameterized.TestCase):
  """A work directory with a router, as if it had been trained there."""

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)
    self.directory = train.run_directory(self.workdir, 0)
    shutil.copytree(learned.SHIPPED, self.directory)
    (self.directory / learned.POINTS_FILE).unlink()
    self.config = arithmetic.get_config('smoke')
    self.config.calibration.update(budgets=(0.5,), alphas=(0.1,))
    self.num_problems = 600
    for target, name, made in (
        (calibrate, 'open_sources', self._open),
        (records_on_disk, 'open_split', self._split),
        (families, 'policies', lambda router: [ladders.Family()]),
    ):
      self.enter_context(mock.patch.object(target, name, made))

  def _open(self, *args):
    del args
    found = {
        'select': ladders.make_known(500, seed=1),
        'prove': ladders.make_known(self.num_problems, seed=2),
    }
    return {
        split: dataclasses.replace(
            known,
            problems=[
                dataclasses.replace(x, question=f'{split} {x.question}')
                for x in known.problems
            ],
        )
        for split, known in found.items()
    }

  def _split(self, config, workdir, split):
    del config, workdir
    settings = {'split': split, 'problems_hash': str(self.num_problems)}
    found = mock.Mock()
    found.manifest = manifest_lib.Manifest(settings, self.num_problems, 10)
    return found

  def calibrate(self, **settings):
    """Returns the points by name, and the looks."""
    self.config.calibration.update(settings)
    (path,) = calibrate.calibrate_all(self.config, self.workdir)
    points = {x['name']: x for x in json.loads(path.read_text())}
    return points, looks_lib.read(self.directory / looks_lib.FILE_NAME)

  def files(self):
    """Returns the content of every file."""
    found = filter(pathlib.Path.is_file, self.workdir.rglob('*'))
    return {path: path.read_bytes() for path in found}


class LooksTest(CalibrateTestCase):

  def test_the_same_look_again_changes_nothing(self):
    points, looks = self.calibrate()
    self.assertLen(looks, 1)
    self.assertIn('loss<=0.1@0.9', points)
    self.assertEqual(looks[0].num_problems, 600)
    self.assertEqual(looks[0].settings['alphas'], [0.1])
    # A service compares it with how it asks itself.
    for point in card_lib.read_points(self.directory / learned.POINTS_FILE):
      self.assertEqual(point.asking['sampling']['temperature'], 0.0)
      self.assertLen(point.asking['routes'], 2)
    before = self.files()
    self.calibrate()
    self.assertEqual(self.files(), before)

  @parameterized.parameters(
      dict(alphas=(0.12,)),
      dict(budgets=(0.6,)),
      dict(delta=0.2),
      dict(loss_and_cost=((0.1, 0.9),)),
      dict(confident_budgets=(0.9,)),
      dict(group_by='subject'),
      dict(joint_starts=(0, 3)),
      dict(is_joint=True),
      dict(num_choices=2),
      dict(num_thresholds=100),
      dict(procedure='bonferroni'),
      dict(source='live'),
  )
  def test_another_setting_is_another_look(self, **settings):
    self.calibrate()
    before = self.files()
    with self.assertRaisesRegex(
        ValueError, f'since then: .*{next(iter(settings))}.*: the same test'
    ):
      self.calibrate(**settings)
    self.assertEqual(self.files(), before)

  def test_a_router_that_was_trained_again_is_another_look(self):
    self.calibrate()
    path = self.directory / looks_lib.FILE_NAME
    (look,) = looks_lib.read(path)
    other = look.settings | {'checkpoint': 'another'}
    looks_lib.write(
        path,
        [looks_lib.Look(look.data, look.problems, look.num_problems, other)],
    )
    with self.assertRaisesRegex(ValueError, 'since then: checkpoint'):
      self.calibrate()

  def test_only_growing_allows_a_larger_sample(self):
    self.calibrate()
    self.num_problems = 700
    with self.assertRaisesRegex(ValueError, 'since then: problems'):
      self.calibrate()
    (self.directory / looks_lib.FILE_NAME).unlink()
    self.calibrate(procedure='growing')
    self.num_problems = 800
    _, looks = self.calibrate()
    self.assertEqual([x.num_problems for x in looks], [700, 800])

  def test_num_choices_of_two_allows_two_looks(self):
    self.calibrate(num_choices=2)
    points, looks = self.calibrate(alphas=(0.12,))
    self.assertLen(looks, 2)
    self.assertIn('loss<=0.12@0.9', points)
    with self.assertRaisesRegex(ValueError, 'num_choices of 3 or more'):
      self.calibrate(alphas=(0.13,))

  def test_the_look_is_recorded_before_it_is_taken(self):
    with mock.patch.object(
        calibrator.Calibrator, 'points', side_effect=OSError
    ):
      with self.assertRaises(OSError):
        self.calibrate()
    self.assertFalse((self.directory / learned.POINTS_FILE).exists())
    with self.assertRaisesRegex(ValueError, 'since then: delta'):
      self.calibrate(delta=0.2)
    _, looks = self.calibrate(delta=0.1)
    self.assertLen(looks, 1)
    self.assertLen(learned.load(self.directory).seen.prove, 1_000 + 600)


class SettingsTest(CalibrateTestCase):
  """The settings of the configuration reach the tests of promises."""

  @parameterized.parameters('fixed_sequence', 'bonferroni', 'growing')
  def test_the_procedure(self, procedure):
    opened = self._open()
    points, _ = self.calibrate(alphas=(0.15,), procedure=procedure)
    grid = opened['select'].grid(ladders.Family(), 200)
    earned = opened['prove'].evaluate(ladders.Family(), grid, 'price')
    want = thresholds_lib.from_values(
        earned.values(),
        grid,
        [risks_lib.Risk('loss', 0.15, 0.1, p_value='binomial')],
        procedure=procedure,
    )
    promise = points['loss<=0.15@0.9']['promise']
    self.assertEqual(promise['p_value'], want.promise.p_value)
    self.assertEqual(promise['test'], want.promise.test)

  def test_num_choices(self):
    points, _ = self.calibrate(num_choices=4)
    promise = points['loss<=0.1@0.9']['promise']
    self.assertEqual((promise['delta'], promise['num_choices']), (0.025, 4))

  def test_is_joint(self):
    points, _ = self.calibrate(
        alphas=(), loss_and_cost=((0.2, 0.8),), is_joint=True
    )
    promise = points['loss<=0.2&cost<=0.8@0.9']['promise']
    self.assertEqual(promise['delta'], 0.05)
    self.assertAlmostEqual(promise['joint_delta'], 0.1)

  def test_every_setting(self):
    given = dict(
        budgets=(0.4,),
        alphas=(0.2,),
        confident_budgets=(0.7,),
        loss_and_cost=((0.1, 0.8),),
        delta=0.2,
        is_joint=True,
        num_choices=3,
        group_by='subject',
        joint_starts=(0, 2),
        num_thresholds=7,
        procedure='bonferroni',
    )
    # None is left at its default, since a default would not show that it is
    # used.
    for field in dataclasses.fields(calibrator.CalibrationSettings):
      self.assertNotEqual(given[field.name], field.default, field.name)
    self.config.calibration.update(given)
    self.assertEqual(
        calibrate.settings(self.config), calibrator.CalibrationSettings(**given)
    )

  def test_a_point_that_costs_more_than_the_large_model_is_refused(self):
    blind = ladders.Family(spread=5.0)
    with mock.patch.object(families, 'policies', lambda router: [blind]):
      points, _ = self.calibrate(alphas=(0.02,))
    self.assertEqual(list(points), ['cost<=0.5'])
    path = self.directory / calibrate.REFUSED_FILE
    (refused,) = json.loads(path.read_text())
    self.assertEqual(refused['name'], 'loss<=0.02@0.9')
    self.assertIn('the large model alone, which keeps', refused['reason'])

  def test_a_threshold_for_each_decision_of_the_protocol(self):
    points, _ = self.calibrate(alphas=(0.15,), joint_starts=(0, 3))
    card = learned.load(self.directory).card
    self.assertLen(
        points['loss<=0.15@0.9/steps0,3']['threshold'],
        card.features.max_decisions,
    )

  @parameterized.parameters(
      (dict(procedure='nonsense'), "procedure is 'nonsense'; allowed"),
      (dict(confident_budgets=(1.2,)), 'confident_budgets contains 1.2'),
      (
          dict(procedure='growing', source='recorded'),
          "procedure is 'growing', but the outcomes are recorded; allowed",
      ),
  )
  def test_bad_settings_end_before_any_work(self, settings, message):
    nowhere = self.workdir / 'nowhere'
    self.config.calibration.update(settings)
    for stage in (calibrate.calibrate_all, pipeline.run):
      with self.assertRaisesRegex(ValueError, message):
        stage(self.config, nowhere)
    self.assertFalse(nowhere.exists())


class CurrentTest(CalibrateTestCase):
  """`is_current`: whether points and results fit the present files."""

  def _check(self, stage):
    """Checks that other points, shards, router or settings are not current."""
    is_current = lambda: stage.is_current(self.config, self.workdir)
    self.assertTrue(is_current())
    for name, old, new in (
        (learned.POINTS_FILE, 'cost', 'COST'),
        (learned.CARD_FILE, '"hash": "', '"hash": "0'),
    ):
      path = self.directory / name
      before = path.read_text()
      path.write_text(before.replace(old, new))
      self.assertFalse(is_current(), name)
      path.write_text(before)
    self.num_problems += 1
    self.assertFalse(is_current())
    self.num_problems -= 1
    with self.config.unlocked():
      self.config.calibration.delta = 0.2
    self.assertFalse(is_current())
    self.config.calibration.delta = 0.1
    self.assertTrue(is_current())

  def test_points(self):
    self.assertFalse(calibrate.is_current(self.config, self.workdir))
    self.calibrate()
    self._check(calibrate)

  def test_results(self):
    self.assertFalse(evaluate.is_current(self.config, self.workdir))
    self.calibrate()
    inputs = evaluate.inputs(self.config, self.workdir)
    path = self.workdir / evaluate.RESULTS_FILE
    path.write_text(json.dumps(inputs | {'schema': 2}))
    self._check(evaluate)
    # A file from before inputs were recorded.
    path.write_text('{"schema": 2}')
    self.assertFalse(evaluate.is_current(self.config, self.workdir))


if __name__ == '__main__':
  absltest.main()
