"""The one flow: each protocol and estimator, from nothing to its points."""

import atexit
import functools
import json
import pathlib
import re
import sys
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import ml_collections
import numpy as np
import pytest

from configs import arithmetic
from configs import arithmetic_redraft
from configs import arithmetic_rollouts
from configs import arithmetic_switch
from experiments import builders
from experiments import calibrate
from experiments import command_line
from experiments import evaluate
from experiments import pipeline
from experiments import records_on_disk
from experiments import train
from experiments.studies import headroom
from experiments.studies.coverage import data as coverage_data
import routing
from routing.evaluation import results as results_lib
from routing.routers import families
from tests import terminal

# Log lines of absl (I1128 12:00:00.000000 ...), what `command_line` marks as
# another library's, and Python's warnings.
_FOREIGN = re.compile(
    r'^[IWEF]\d{4} \d\d:\d\d:\d\d'
    r'|^(Debug|Info|Warning|Error|Critical) \(\w+\): '
    r'|\w+Warning: |site-packages'
)
_CASES = {
    'escalate': (arithmetic, 'smoke'),
    'redraft, exact': (arithmetic_redraft, 'smoke'),
    'redraft, vtrace': (arithmetic_redraft, 'vtrace-smoke'),
    'redraft, on_policy': (arithmetic_redraft, 'on_policy-smoke'),
    'switch': (arithmetic_switch, 'smoke'),
    'rollouts': (arithmetic_rollouts, 'smoke'),
}


def small(name):
  """A configuration that runs in seconds on the embedded pair."""
  module, variant = _CASES[name]
  config = module.get_config(variant)
  config.problems.update(train=12, select=8, prove=8, test=9)
  if name == 'rollouts':  # Weights tell little of so few problems.
    config.problems.update(select=16, prove=16, test=8)
    config.behaviour.trajectories = 2
  # Ways through a problem double with each decision where control returns.
  config.protocol.max_decisions = 3
  for route in config.routes:  # One size of batch, so few programs to compile.
    route['settings'].update(max_batch=8, num_slots=8)
  config.collect.update(shard_size=4, concurrency=8)
  config.num_steps, config.batch_size = 4, 8
  config.log_every = config.eval_every = config.checkpoint_every = 2
  if 'on_policy' in config:
    config.on_policy = dict(problems=4, trajectories=2, every=2)
  config.calibration.update(budgets=(0.9,), alphas=(0.3,), num_thresholds=4)
  config.evaluation.update(
      learners=('fitted Q, linear',),
      num_trials=2,
      resamples=20,
      num_live=2,
      num_coverage_samples=3,
  )
  return config


def leaves(config, prefix=''):
  """Yields (dotted name, value) of each field that holds no further ones."""
  for key, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      yield from leaves(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}', value


def _files(directory):
  return {
      path: path.stat().st_mtime_ns
      for path in directory.rglob('*')
      if path.is_file()
  }


@functools.cache
def collected_replies():
  """Returns the work directory of 'redraft, exact', the whole flow done.

  The other estimators of this protocol read its replies, which are most of the
  time that their flow would take.
  """
  directory = tempfile.TemporaryDirectory()
  atexit.register(directory.cleanup)
  workdir = pathlib.Path(directory.name)
  pipeline.run(small('redraft, exact'), workdir, lambda line: None)
  return workdir


@pytest.mark.usefixtures('lightly_optimized')
class FlowTest(parameterized.TestCase):

  @pytest.mark.slow
  @parameterized.parameters(*_CASES)
  def test_one_command_from_nothing_to_points_and_table(self, name):
    config = small(name)
    workdir = pathlib.Path(self.create_tempdir().full_path)
    if name == 'escalate':
      self._run_on_a_terminal(config, workdir)
    elif name == 'redraft, exact':
      workdir = collected_replies()
    else:
      if name.startswith('redraft'):
        config.data.directory = str(collected_replies())
      pipeline.run(config, workdir, lambda line: None)
    results = results_lib.check(
        json.loads((workdir / evaluate.RESULTS_FILE).read_text())
    )
    methods = results['cost_metrics']['price']['methods']
    self.assertContainsSubset(
        {'policy', 'fitted Q, linear', 'confidence', 'random per step'}, methods
    )
    is_known = name != 'rollouts'
    self.assertEqual('oracle' in methods, is_known)
    # Live answers are what the records said.
    self.assertEqual(bool(results['live']), is_known)
    for entry in results['live']:
      self.assertEqual(entry['num_agreeing'], entry['num_problems'])
    self.assertIn('learned policy', (workdir / 'table.md').read_text())
    self.assertTrue((workdir / 'frontier.png').exists())
    (tuned,) = results['tuning'].values()
    self.assertLen(tuned['areas'], config.evaluation.num_trials)
    if is_known:  # Counted on test, not on what thresholds were chosen on.
      self.assertEqual(results['coverage']['num_problems'], 9)
    self._check_seen(config, workdir)
    if name == 'escalate':
      self._check_study(workdir, results)
    before = _files(workdir)
    pipeline.run(config, workdir, lambda line: None)
    self.assertEqual(_files(workdir), before)

  def _run_on_a_terminal(self, config, workdir):
    """The command of the README, and what somebody sees of it."""
    smoke = arithmetic.get_config('smoke')
    changed = [
        f'--config.{field}={value}'
        for field, value in leaves(config)
        if dict(leaves(smoke))[field] != value
    ]
    code, seconds, lines = terminal.run(
        [sys.executable, '-m', 'experiments.pipeline']
        + ['--config=configs/arithmetic.py:smoke', *changed]
        + [f'--workdir={workdir}']
    )
    seen = '\n'.join(lines)
    self.assertEqual(code, 0, seen)
    # Seconds on an idle machine; the suite's workers share the cores.
    self.assertLess(seconds, 60)
    self.assertStartsWith(lines[1], '8 stages: collect')
    foreign = [line for line in lines if _FOREIGN.search(line)]
    self.assertEmpty(foreign)
    for number in range(1, 9):
      self.assertIn(f'Stage {number} of 8: ', seen)
    for bar in ('collect ladders train', 'train seed 0', 'evaluate', 'live'):
      self.assertRegex(seen, f'{bar}: 100%')
    self.assertRegex(seen, r'Compiling took (0\.[1-9]|[1-9]\d*\.\d) s in all\.')
    last = lines[lines.index('Next:') - 1 :]
    plot = last[0].removeprefix('Plot: ')
    self.assertTrue(pathlib.Path(plot).samefile(workdir / 'frontier.png'))
    commands = [x for x in ' '.join(last).split(':     ') if '-m exp' in x]
    self.assertLen(commands, 3)

  def _check_study(self, workdir, results):
    """Promises are counted on what no stage has seen: the test problems."""
    outcomes = coverage_data.embedded(workdir).pool.outcomes
    self.assertEqual(outcomes.num_problems, results['num_problems']['test'])
    self.assertAlmostEqual(
        outcomes.correct[:, -1].mean(),
        results['cost_metrics']['price']['anchors']['small_accuracy'],
    )
    self._check_headroom(workdir, results)

  def _check_headroom(self, workdir, results):
    """What the table of the run says, and two bounds for each learner."""
    config = command_line.saved_config(workdir)
    with mock.patch.object(headroom, 'FOLDS', 2):
      found = headroom.measure(config, workdir)
    self.assertEqual(found['num_problems'], results['num_problems'])
    for metric, figures in found['cost_metrics'].items():
      methods = figures['methods']
      for name, of_run in results['cost_metrics'][metric]['methods'].items():
        if name in methods and of_run['area']:
          self.assertAlmostEqual(
              methods[name]['area']['mean'], of_run['area']['mean'], 5, name
          )
      for bound in (headroom.OTHERS, headroom.SEEN):
        self.assertIn('fitted Q, linear' + bound, methods)

  def _check_seen(self, config, workdir):
    """The router knows what it has seen, and whose problems it may not meet."""
    directory = train.run_directory(workdir, 0)
    router = routing.load(directory)
    self.assertEqual(router.points[0].name, 'cost<=0.9')
    self.assertTrue(router.seen.is_known)
    for split in ('train', 'select', 'prove'):
      self.assertNotEmpty(getattr(router.seen, split))
    refused = json.loads((directory / calibrate.REFUSED_FILE).read_text())
    names = [x['name'] for x in refused] + [x.name for x in router.points]
    if config.calibration.alphas:
      self.assertIn('loss<=0.3@0.9', names)
    # Calibrated on what it was trained on, it refuses, whatever it is.
    source = records_on_disk.source(
        config, workdir, 'select', router.card, config.calibration.source
    )
    train_problems = [
        x.problem
        for x in records_on_disk.open_split(config, workdir, 'train').records()
    ]
    with self.assertRaisesRegex(ValueError, "has seen it in split 'train'"):
      router.seen.check('prove', train_problems)
    with self.assertRaisesRegex(ValueError, "has seen it in split 'select'"):
      calibrate.prepare(
          config,
          router,
          {'select': source, 'prove': source},
          records_on_disk.open_split(config, workdir, 'prove').manifest,
          directory,
      )


@pytest.mark.usefixtures('lightly_optimized')
class LiveTest(absltest.TestCase):

  @pytest.mark.slow
  def test_thresholds_may_be_tried_live(self):
    config = small('rollouts')
    # Live answers need no weights, so few problems suffice.
    config.problems.update(train=8, select=4, prove=4, test=4)
    config.calibration.source = 'live'
    config.calibration.num_thresholds = 2
    config.evaluation.source = 'recorded'
    workdir = pathlib.Path(self.create_tempdir().full_path)
    for stage in pipeline.stages(config, workdir)[:-2]:
      stage.run()
    directory = train.run_directory(workdir, 0)
    router = routing.load(directory)
    self.assertEqual(router.points[0].promise['source'], 'live')
    before = _files(workdir / records_on_disk.ANSWERS_FOLDER)
    self.assertNotEmpty(before)
    # Neither stage asks anew what was answered, with no engine at hand.
    with mock.patch.object(builders, 'steady_engines', side_effect=OSError):
      calibrate.calibrate_all(config, workdir)
      config.evaluation.source = 'live'
      pair = evaluate.open_pair(config, workdir, [router])
      point = router.points[0]
      pair.select.evaluate(
          families.policies(router)[point.policy_index],
          np.array([point.threshold]),
          'price',
      )
    self.assertEqual(_files(workdir / records_on_disk.ANSWERS_FOLDER), before)
    again = routing.load(directory)
    np.testing.assert_equal(
        again.points[0].threshold, router.points[0].threshold
    )


if __name__ == '__main__':
  absltest.main()
