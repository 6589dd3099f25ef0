"""Tests of sweeps as array jobs, as searches and on Ray, on a fast stand-in."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized
import ml_collections
from pyarrow import parquet
import pytest

from experiments import sweep_runs
from experiments import sweep_search
from experiments import sweep_slurm
from routing.shards import lock
from tests import checkout

_CONFIG = """
import ml_collections


def get_config(variant='full'):
  return ml_collections.ConfigDict(dict(seed=0, level=0.5))


def sweep():
  return {asked}
"""


def _sweep(workdir, runs=(), program='tests.fake_stage', config='fake.py'):
  return sweep_runs.Sweep(workdir, program, str(config), {}, tuple(runs))


class CommandsTest(absltest.TestCase):
  """The command as a user types it."""

  def setUp(self):
    super().setUp()
    self.temporary = pathlib.Path(self.create_tempdir().full_path)
    self.workdir = self.temporary / 'a sweep'  # Paths may have spaces.

  def _run(self, asked, *words, code=0):
    config = self.temporary / 'fake.py'
    config.write_text(_CONFIG.replace('{asked}', repr(asked)))
    done = subprocess.run(
        [sys.executable, '-m', 'experiments.sweep', f'--config={config}']
        + [f'--workdir={self.workdir}', '--program=tests.fake_stage', *words],
        cwd=checkout.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    self.assertEqual(done.returncode, code, done.stderr)
    return done.stderr if code else done.stdout

  def test_an_array_job(self):
    asked = [{'level': 0.25, 'seed': x} for x in (0, 1)]
    said = self._run(
        asked,
        *('--launcher', 'slurm', '--jobs', '2'),
        '--slurm=--time=1:00 --mem=4G',
    )
    (script,) = self.workdir.glob('slurm/array-*.sh')
    words = shlex.join(['sbatch', str(script)])
    self.assertIn(f'2 tasks, 2 at a time. Submit: {words}', said)
    text = script.read_text()
    self.assertIn('#SBATCH --array=0-1%2\n', text)
    self.assertIn('#SBATCH --time=1:00\n#SBATCH --mem=4G\nset -euo', text)
    self.assertFalse((self.workdir / 'finished').exists())
    # As Slurm runs it: by bash, in some directory, with the number of a task.
    for task, code in ((1, 0), (2, 1)):
      done = subprocess.run(
          ['bash', script],
          cwd=self.temporary,
          env=os.environ | {'SLURM_ARRAY_TASK_ID': str(task)},
          capture_output=True,
          text=True,
          check=False,
      )
      self.assertEqual(done.returncode, code, done.stderr)
    self.assertIn('no task 2; allowed: 0 to 1', done.stderr)
    finished = [path.stem for path in self.workdir.glob('finished/*')]
    self.assertEqual(finished, ['level=0.25,seed=1'])
    # What is left is task 0 of a new job. The first one may still be in the
    # queue, so its files stay.
    before = {x: x.read_text() for x in self.workdir.glob('slurm/*-*')}
    self._run(asked, '--launcher=slurm')
    self.assertEqual(before, {x: x.read_text() for x in before})
    (added,) = {*self.workdir.glob('slurm/commands-*')} - before.keys()
    commands = added.read_text()
    self.assertLen(commands.splitlines(), 1)
    self.assertIn('seed=0', commands)

  def test_tasks_of_ray(self):
    pytest.importorskip('ray', reason='Needs the extra `ray`.')
    asked = [{'level': 0.25, 'seed': x} for x in (0, 1)]
    said = self._run(asked, '--launcher=ray', '--jobs=2')
    self.assertIn('2 runs of tests.fake_stage, 2 at a time', said)
    finished = sorted(path.stem for path in self.workdir.glob('finished/*'))
    self.assertEqual(finished, ['level=0.25,seed=0', 'level=0.25,seed=1'])
    rows = parquet.read_table(self.workdir / 'runs.parquet').to_pylist()
    self.assertLen(rows, 2)
    for parent in self.workdir.glob('runs/*/parent.txt'):
      self.assertStartsWith(parent.read_text(), 'ray::_attempt')

  def test_a_plan_runs_nothing(self):
    said = self._run([{'seed': 3}], '--dry_run')
    self.assertIn('seed=3', said)
    self.assertIn('unknown', said)
    self.assertFalse(self.workdir.exists())

  def test_a_search_and_its_continuation(self):
    pytest.importorskip('optuna', reason='Needs the extra `sweep`.')
    asked = {
        'space': {
            'level': {'low': 0.0, 'high': 1.0},
            'seed': {'choices': (0, 2)},
        },
        'trials': 2,
        'maximize': 'area on select',
        'sampler': 'random',
    }
    said = self._run(asked)
    self.assertIn('2 trials of tests.fake_stage; 0 are done.', said)
    said = self._run(asked | {'trials': 3})
    self.assertIn('3 trials of tests.fake_stage; 2 are done.', said)
    rows = parquet.read_table(self.workdir / 'runs.parquet').to_pylist()
    self.assertLen(rows, 3)
    for row in rows:
      self.assertBetween(row['level'], 0, 1)
      self.assertIn(row['seed'], (0, 2))
      # The stand-in's area is level + seed / 10.
      self.assertAlmostEqual(
          row['area on select'], row['level'] + row['seed'] / 10
      )
    top = max(rows, key=lambda row: row['area on select'])
    self.assertIn(f'Best by area on select: level={top["level"]}', said)
    # Optuna keeps the index of a choice, so other choices would get the
    # results of these.
    space = asked['space'] | {'seed': {'choices': (1, 3)}}
    said = self._run(asked | {'space': space}, code=1)
    self.assertIn('search.space.seed.choices is [0, 2] there, [1, 3]', said)


class SlurmTest(absltest.TestCase):

  def test_a_task_is_the_sweep_of_one_run(self):
    run = sweep_runs.Run('a=0.5,b=x+y', {})
    words = ['--config=c.py', '--jobs=4', '--launcher=slurm', '--match=a']
    command = sweep_slurm.command(run, words)
    self.assertEqual(command[1:4], ['-m', 'experiments.sweep', '--config=c.py'])
    self.assertLen(command, 5)
    pattern = command[4].removeprefix('--match=')
    self.assertTrue(re.search(pattern, run.name))
    self.assertIsNone(re.search(pattern, 'a=0.5,b=x+yz'))

  def test_flags_with_their_values_apart(self):
    run = sweep_runs.Run('a=0', {})
    words = ['--config', 'c.py', '--launcher', 'slurm', '-jobs', '4']
    words += ['--slurm', '--time=1', '--data=jobs', '--match', 'a', '--dry_run']
    command = sweep_slurm.command(run, words)[3:]
    self.assertEqual(
        command, ['--config', 'c.py', '--data=jobs', '--match=^a=0$']
    )

  def test_a_path_with_spaces(self):
    folder = pathlib.Path(self.create_tempdir().full_path) / '10 % done'
    runs = [sweep_runs.Run('a=0', {})]
    options = '--comment="two words"'
    sweep = _sweep(folder)
    script = sweep_slurm.write(sweep, runs, [], jobs=1, options=options)
    # sbatch splits these lines into words as a shell does.
    asked = [
        shlex.split(line.removeprefix('#SBATCH '))
        for line in script.read_text().splitlines()
        if line.startswith('#SBATCH')
    ]
    output = f'{folder.parent}/10 %% done/slurm/%A_%a.txt'
    self.assertIn([f'--output={output}'], asked)
    self.assertIn(['--comment=two words'], asked)

  def test_an_option_without_a_dash_is_refused(self):
    sweep = _sweep(pathlib.Path(self.create_tempdir().full_path))
    with self.assertRaisesRegex(ValueError, "--slurm has 'gpu'; allowed"):
      sweep_slurm.write(sweep, [], [], jobs=1, options='--partition gpu')


_WRITER = """
import json, pathlib, sys, time
(word,) = [x for x in sys.argv if x.startswith('--workdir=')]
folder = pathlib.Path(word.removeprefix('--workdir='))
log = folder / 'runs/seed0/metrics.jsonl'
log.parent.mkdir(parents=True)
log.write_text(json.dumps({'step': 10, 'validation_score': [0.1, 0.3]}) + '\\n')
time.sleep(60)
"""


class SearchTest(parameterized.TestCase):

  @parameterized.parameters(
      (
          {'sampler': 'tpee'},
          "sampler of sweep.. is 'tpee'; allowed: tpe, random",
      ),
      ({'pruner': 'medan'}, "pruner of sweep.. is 'medan'; allowed: none,"),
      ({'trials': 0}, 'trials of sweep.. is 0; allowed: >= 1'),
      ({'minimize': 'x'}, "a space with 'minimize'; allowed: space, trials"),
      ({'space': {'a': {'low': 1}}}, 'The space of a is .*allowed: choices'),
      ({'space': {'a': {'low': 1, 'high': 1}}}, 'low < high'),
  )
  def test_a_wrong_search(self, changed, message):
    given = {'space': {}, 'trials': 1, 'maximize': 'area'}
    with self.assertRaisesRegex(ValueError, message):
      sweep_search.make(given | changed)

  @parameterized.parameters(
      ('area on selekt', '', "maximize of sweep.. is 'area on selekt'; allow"),
      ('area, boostin', '', "'area, boostin'; allowed: .*area, boosting, acc"),
      ('area', 'a=1', '--match=a=1 chooses among the runs of a list'),
  )
  def test_a_search_that_does_not_fit(self, maximize, match, message):
    config = ml_collections.ConfigDict(
        {'evaluation': {'learners': ('boosting',)}}
    )
    make = lambda name: sweep_search.make(
        {'space': {}, 'trials': 1, 'maximize': name}
    )
    for name in ('area', 'area, boosting', 'accuracy at 0.4', 'cost at .62'):
      sweep_search.check(make(name), config, '')
    with self.assertRaisesRegex(ValueError, message):
      sweep_search.check(make(maximize), config, match)

  def test_one_search_at_a_time(self):
    workdir = pathlib.Path(self.create_tempdir().full_path)
    search = sweep_search.make({'space': {}, 'trials': 1, 'maximize': 'area'})
    held = lock.Lock(workdir)
    config = ml_collections.ConfigDict({})
    with self.assertRaisesRegex(ValueError, 'is being written by process'):
      sweep_search.run_all(_sweep(workdir), config, search, 1)
    held.release()

  def test_what_lasts_by_hand(self):
    space = {'a.b': {'low': 1, 'high': 2}, 'c': {'choices': (1,)}}
    search = sweep_search.make(
        {'space': space, 'trials': 1, 'maximize': 'area'}
    )
    self.assertEqual(
        sweep_search.lasting(search),
        {
            'space': {
                'a': {'b': {'low': 1, 'high': 2}},
                'c': {'choices': (1,)},
            },
            'maximize': 'area',
        },
    )

  def test_kinds_of_values(self):
    optuna = pytest.importorskip('optuna', reason='Needs the extra `sweep`.')
    trial = optuna.trial.FixedTrial({'a': 2, 'b': 0.1, 'c': 1})
    for field, options, expected in (
        ('a', {'low': 1, 'high': 3}, 2),
        ('b', {'low': 1e-3, 'high': 1.0, 'log': True}, 0.1),
        ('c', {'choices': ((8,), (16, 16))}, (16, 16)),
    ):
      found = sweep_search._suggest(trial, field, options)
      self.assertEqual((found, type(found)), (expected, type(expected)))

  def test_a_run_without_prospects_is_ended(self):
    workdir = pathlib.Path(self.create_tempdir().full_path)
    (workdir / 'writer.py').write_text(_WRITER)
    reported = {}

    class Trial:
      """Keeps what is reported, and wants every trial ended."""

      def report(self, value, step):
        reported[step] = value

      def should_prune(self):
        return True

    run = sweep_runs.Run('seed=0', {'seed': 0})
    sweep = _sweep(workdir, [run], program='writer')
    is_hopeless = sweep_search._watch(Trial(), sweep.directory(run))
    self.assertFalse(is_hopeless())  # Nothing was validated so far.
    with pytest.MonkeyPatch.context() as patch:
      patch.setenv('PYTHONPATH', str(workdir))
      self.assertEqual(
          sweep_runs.attempt(sweep, run, is_hopeless), sweep_runs.PRUNED
      )
    self.assertEqual(reported, {10: 0.2})  # The mean over the policies.
    self.assertFalse(sweep.mark(run).exists())


class TimeTest(absltest.TestCase):

  def test_the_time_left_is_that_of_finished_runs(self):
    workdir = pathlib.Path(self.create_tempdir().full_path)
    config = ml_collections.ConfigDict(dict(seed=0))
    runs = sweep_runs.plan(config, [{'seed': x} for x in range(6)])
    sweep = _sweep(workdir, runs)
    self.assertIsNone(sweep_runs.seconds_left(sweep, runs, 1))
    (workdir / 'finished').mkdir()
    for run, seconds in zip(runs, (10, 20), strict=False):
      sweep.mark(run).write_text(json.dumps({'seconds': seconds}))
    # Four are left, at 15 seconds: four turns alone, two turns of three jobs.
    self.assertEqual(sweep_runs.seconds_left(sweep, runs, 1), 60)
    self.assertEqual(sweep_runs.seconds_left(sweep, runs, 3), 30)
    self.assertEqual(sweep_runs.seconds_left(sweep, runs[:2], 1), 0)


if __name__ == '__main__':
  absltest.main()
