"""Tests of sweeps: resumed, killed, with failing runs; and one real one."""

import json
import pathlib
import signal
import subprocess
import sys
import threading
import time
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import ml_collections
import numpy as np
from pyarrow import parquet
import pytest

from experiments import sweep
from experiments import sweep_runs
from experiments import sweep_table
from routing.shards import manifest as manifest_lib

_ROOT = pathlib.Path(__file__).parents[1]
_CONFIG = """
import ml_collections
import numpy as np


def get_config(variant='full'):
  return ml_collections.ConfigDict(dict(seed=0, level=0.5, names=('a', 'b')))


def sweep():
  return {runs}
"""
# The main job, as small as it can be.
REAL = """
from configs import arithmetic


def get_config(variant='smoke'):
  config = arithmetic.get_config('smoke')
  config.problems.update(train=12, select=8, prove=8, test=8)
  config.protocol.max_decisions = 3
  for route in config.routes:
    route['settings'].update(max_batch=8, num_slots=8)
  config.collect.concurrency = 8
  config.calibration.alphas = (0.2,)
  config.evaluation.update(
      learners=(), num_live=0, resamples=20, num_coverage_samples=0
  )
  return config


def sweep():
  return [{'objective.levels': (0.55,), 'train_seeds': (3,)}]
"""


def _grid(levels, seeds):
  return [{'level': x, 'seed': s} for x in levels for s in seeds]


def _names(runs):
  return [f'level={run["level"]},seed={run["seed"]}' for run in runs]


class SweepTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.temporary = pathlib.Path(self.create_tempdir().full_path)
    self.config = self.temporary / 'fake.py'
    self.workdir = self.temporary / 'sweep'

  def _start(self, runs, *arguments):
    """The command as a user types it, on the fake stage."""
    self.config.write_text(_CONFIG.replace('{runs}', repr(runs)))
    return subprocess.Popen(
        [
            sys.executable,
            '-m',
            'experiments.sweep',
            f'--config={self.config}',
            f'--workdir={self.workdir}',
            '--program=tests.fake_stage',
            *arguments,
        ],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

  def _run(self, runs, *arguments):
    child = self._start(runs, *arguments)
    out, err = child.communicate()
    return child.returncode, out, err

  def _attempts(self, name):
    path = self.workdir / 'runs' / name / 'attempts.txt'
    return len(path.read_text().splitlines()) if path.exists() else 0

  def _finished(self):
    return {path.stem for path in self.workdir.glob('finished/*.json')}

  def test_the_plan_the_runs_and_the_table(self):
    runs = _grid((0.25, 0.5), (0, 2))
    code, out, _ = self._run(runs, '--jobs=2')
    self.assertEqual(code, 0)
    self.assertIn('4 runs of tests.fake_stage, 2 at a time; 0 are done', out)
    for name in _names(runs):
      self.assertIn(f'waiting  {name}', out)
      self.assertEqual(self._attempts(name), 1)
    # Areas of a level are level + 0 and level + 0.2: mean level + 0.1, and
    # deviation 0.2 / sqrt(2).
    rows = parquet.read_table(self.workdir / 'table.parquet').to_pylist()
    self.assertEqual([row['level'] for row in rows], [0.25, 0.5])
    for row in rows:
      self.assertEqual(row['runs'], 2)
      self.assertAlmostEqual(row['area, mean'], row['level'] + 0.1)
      self.assertAlmostEqual(row['area, spread'], 0.2 / 2**0.5)
      self.assertAlmostEqual(row['cost at 0.4, mean'], row['level'])
    self.assertIn('| 0.25 | 2 | 0.35 ± 0.14 |', out)
    each = parquet.read_table(self.workdir / 'runs.parquet').to_pylist()
    self.assertEqual(
        [(x['level'], x['seed']) for x in each[:2]], [(0.25, 0), (0.25, 2)]
    )

  def test_a_failing_run_is_listed_and_the_others_continue(self):
    runs = _grid((0.25,), (101, 0, 1, 2))
    code, out, err = self._run(runs, '--jobs=2')
    self.assertEqual(code, 1)
    self.assertIn('1 of 4 runs failed', err)
    self.assertIn('level=0.25,seed=101: exit code 1: Seed 101 is no good.', err)
    self.assertNotIn('Traceback', err)
    self.assertLen(self._finished(), 3)
    self.assertIn('FAILED   level=0.25,seed=101', out)
    self.assertEqual(
        parquet.read_table(self.workdir / 'table.parquet').to_pylist()[0][
            'runs'
        ],
        3,
    )
    # Once its cause is fixed, only the failed run is repeated.
    (self.workdir / 'runs' / 'fixed').touch()
    code, out, err = self._run(runs)
    self.assertEqual(code, 0, err)
    self.assertEqual([self._attempts(x) for x in _names(runs)], [2, 1, 1, 1])

  def test_a_killed_sweep_continues_and_repeats_no_finished_run(self):
    runs = _grid((0.25, 0.5), range(5))
    for _ in range(3):
      child, before = self._start(runs, '--jobs=2'), len(self._finished())
      while child.poll() is None and len(self._finished()) < before + 2:
        time.sleep(0.005)
      child.send_signal(signal.SIGKILL)
      child.communicate()
    finished = self._finished()
    self.assertBetween(len(finished), 6, 9)
    attempts = {name: self._attempts(name) for name in finished}
    # Children of the last sweep may still be running: the next must wait.
    code, _, err = self._run(runs, '--jobs=3')
    self.assertEqual(code, 0, err)
    self.assertEqual(self._finished(), set(_names(runs)))
    for name, count in attempts.items():
      self.assertEqual(self._attempts(name), count, name)

  def test_only_matching_runs_are_executed(self):
    runs = _grid((0.25, 0.5), (0, 1))
    code, out, _ = self._run(runs, '--match=level=0.5,')
    self.assertEqual(code, 0)
    self.assertEqual(self._finished(), set(_names(runs)[2:]))
    self.assertIn('2 runs of', out)

  def test_the_runs_share_the_collected_data(self):
    data = self.temporary / 'data'
    (data / 'shards' / 'train').mkdir(parents=True)
    path = data / 'shards' / 'train' / 'manifest.json'
    manifest_lib.save(
        path.parent, manifest_lib.Manifest({}, num_problems=1, shard_size=1)
    )
    code, _, err = self._run(_grid((0.25,), (0,)), f'--data={data}')
    self.assertEqual(code, 1)
    self.assertIn('train is not complete', err)
    manifest_lib.save(
        path.parent, manifest_lib.Manifest({}, num_problems=0, shard_size=1)
    )
    code, _, err = self._run(_grid((0.25,), (0,)), f'--data={data}')
    self.assertEqual(code, 0, err)
    link = self.workdir / 'runs' / 'level=0.25,seed=0' / 'shards'
    self.assertTrue((link / 'train' / 'manifest.json').samefile(path))

  def test_another_program_in_the_same_directory_is_rejected(self):
    self._run(_grid((0.25,), (0,)))
    code, _, err = self._run(_grid((0.25,), (0,)), '--program=tests.other')
    self.assertEqual(code, 1)
    self.assertIn('belongs to another configuration: program is', err)


class PlanTest(parameterized.TestCase):

  @parameterized.parameters(
      ([], 'at least 1 is needed'),
      ([{'sede': 1}], 'sede'),
      ([{'seed': 'one'}], 'seed'),
      ([{'seed': 1}, {'seed': 1}], "'seed=1' more than once"),
  )
  def test_invalid_runs_are_rejected_before_anything_runs(self, runs, message):
    config = ml_collections.ConfigDict(dict(seed=0))
    with self.assertRaisesRegex(ValueError, message):
      sweep_runs.plan(config, runs)

  def test_long_names_stay_apart(self):
    config = ml_collections.ConfigDict({'names': ('a',)})
    runs = [{'names': ('a' * 200, last)} for last in 'bc']
    first, second = [run.name for run in sweep_runs.plan(config, runs)]
    self.assertNotEqual(first, second)
    self.assertEqual({len(first), len(second)}, {150})
    self.assertEqual(sweep_runs.plan(config, runs[:1])[0].name, first)

  def test_names_are_short_where_that_is_unambiguous(self):
    config = ml_collections.ConfigDict(
        dict(a=dict(kind='x', words=('u',)), b=dict(kind='y'))
    )
    (run,) = sweep_runs.plan(config, [{'a.kind': 'z', 'a.words': ('v', 'w')}])
    self.assertEqual(run.name, 'kind=z,words=v+w')
    (run,) = sweep_runs.plan(config, [{'a.kind': 'z', 'b.kind': 'a/b'}])
    self.assertEqual(run.name, 'a.kind=z,b.kind=a_b')


class TableTest(absltest.TestCase):

  def test_what_only_some_runs_have(self):
    rows = [
        {'x': 'a', 'seed': 0, 'area': 1.0},
        {'x': 'a', 'seed': 1, 'area': 3.0, 'cost': 5.0},
        {'x': 'b', 'seed': 0},
    ]
    first, second = sweep_table.averaged(rows, ['x', 'seed'])
    self.assertEqual(first['area, mean'], 2.0)
    self.assertAlmostEqual(first['area, spread'], 2**0.5)
    self.assertEqual((first['cost, mean'], first['cost, spread']), (5.0, None))
    self.assertIsNone(second['area, mean'])
    self.assertEqual(
        sweep_table.markdown([first, second]).splitlines()[2:],
        ['| a | 2 | 2 ± 1.4 | 5 |', '| b | 1 | - | - |'],
    )

  def test_tables_are_written_by_one_task_at_a_time(self):
    workdir = pathlib.Path(self.create_tempdir().full_path)
    config = ml_collections.ConfigDict(dict(seed=0))
    runs = sweep_runs.plan(config, [{'seed': 0}, {'seed': 1}])
    of_sweep = sweep_runs.Sweep(workdir, 'fake', 'fake.py', {}, runs)
    (workdir / 'finished').mkdir()
    write, is_begun, may_end = (
        sweep_table.write,
        threading.Event(),
        threading.Event(),
    )

    def slow(*given):
      is_begun.set()
      may_end.wait(30)
      return write(*given)

    def ended(run):
      of_sweep.mark(run).write_text('{}')
      sweep.collect(config, of_sweep)

    first, second = (threading.Thread(target=ended, args=[x]) for x in runs)
    with mock.patch.object(sweep_table, 'write', slow):
      first.start()
      is_begun.wait(30)  # It has seen its own run only.
    second.start()
    second.join(0.3)
    self.assertTrue(second.is_alive())
    may_end.set()
    first.join()
    second.join()
    rows = parquet.read_table(workdir / sweep_table.RUNS_FILE).to_pylist()
    self.assertEqual(rows, [{'seed': 0}, {'seed': 1}])


@pytest.mark.usefixtures('lightly_optimized')
class RealTest(absltest.TestCase):

  @pytest.mark.slow
  def test_a_real_run_leaves_its_figures(self):
    temporary = pathlib.Path(self.create_tempdir().full_path)
    config = temporary / 'real.py'
    config.write_text(REAL)
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'experiments.sweep',
            f'--config={config}',
            '--config.num_steps=10',
            f'--workdir={temporary}/sweep',
        ],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    self.assertEqual(done.returncode, 0, done.stderr)
    (row,) = parquet.read_table(
        temporary / 'sweep' / 'runs.parquet'
    ).to_pylist()
    self.assertEqual((row['objective.levels'], row['train_seeds']), (0.55, 3))
    self.assertBetween(row['area'], 0.0, 1.0)
    self.assertBetween(row['cost at 0.4'], 0.0, 0.41)
    (run,) = (temporary / 'sweep' / 'runs').iterdir()
    self.assertEqual(run.name, 'levels=0.55,train_seeds=3')
    self.assertTrue((run / 'runs' / 'seed3' / 'router.json').exists())
    self.assertIn('"num_steps": 10', (run / 'config.json').read_text())


class FiguresTest(absltest.TestCase):

  def test_each_policy_counts_at_its_best_step(self):
    directory = pathlib.Path(self.create_tempdir().full_path)
    log = directory / 'runs' / 'seed0' / 'metrics.jsonl'
    log.parent.mkdir(parents=True)
    rows = [
        {'step': 10, 'loss': 1.0},
        {'step': 20, 'validation_score': [0.5, -np.inf, -np.inf]},
        {'step': 40, 'validation_score': [0.3, 0.9, -np.inf]},
    ]
    log.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    self.assertEqual(
        sweep_table.figures(directory),
        {'validation score': 0.7, 'best step': 30.0},
    )
    log.write_text(json.dumps(rows[0]))
    self.assertEqual(sweep_table.figures(directory), {})


if __name__ == '__main__':
  absltest.main()
