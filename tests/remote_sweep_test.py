"""Tests of commands whose directories are in S3, on moto's server."""

import contextlib
import io
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from unittest import mock

from absl.testing import absltest
import ml_collections
from pyarrow import parquet
import pytest

from configs import arithmetic
from configs import arithmetic_redraft
from experiments import sweep_elsewhere
from experiments import sweep_runs
from routing.shards import files
from routing.shards import reader
from tests import s3_stand_in
from tests import sweep_test

pytest.importorskip('s3fs', reason='Needs the extra `remote`.')
pytest.importorskip('upath', reason='Needs the extra `remote`.')
pytest.importorskip('moto', reason='Needs the extra `stand-ins`.')

_ROOT = pathlib.Path(__file__).parents[1]
# Fails for seed 7 until there is a file `fixed`; counts its attempts.
_STAGE = """
import pathlib, sys
from tests import fake_stage

given = dict(word.lstrip('-').split('=', 1) for word in sys.argv[1:])
seed, folder = int(given['config.seed']), pathlib.Path(given['workdir'])
if seed == 7 and not pathlib.Path('fixed').exists():
  (folder / 'first.txt').unlink(missing_ok=True)
  if not (folder / 'attempts.txt').exists():
    (folder / 'first.txt').touch()
  with (folder / 'attempts.txt').open('a') as file:
    file.write('failed')
  sys.exit('Seed 7 is no good.')
fake_stage.work(float(given['config.level']), seed, folder)
"""
_CONFIG = """
import ml_collections


def get_config():
  return ml_collections.ConfigDict(dict(
      seed=0, level=0.5, track='', launcher='local'
  ))


def sweep():
  return [dict(level=0.5, seed=x) for x in (0, 7)]
"""


# Takes a while to end once it is asked to.
_ENDLESS = """
import pathlib, signal, sys, time

given = dict(word.lstrip('-').split('=', 1) for word in sys.argv[1:])
folder = pathlib.Path(given['workdir'])

def end(*_):
  time.sleep(1)
  (folder / 'ended.txt').write_text('in order')
  sys.exit(1)

signal.signal(signal.SIGTERM, end)
(folder / 'begun.txt').touch()
while True:
  time.sleep(0.1)
"""
_VTRACE = """
import sys
sys.path.insert(0, '{configs}/..')
from configs import arithmetic_redraft


def get_config():
  config = arithmetic_redraft.get_config()
  config.track = ''
  return config


def sweep():
  return [{{'objective.estimator': x}} for x in ('exact', 'vtrace')]
"""


def _content(archive):
  """Name -> content of the files in an archive."""
  with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as opened:
    return {x: opened.extractfile(x).read() for x in opened.getnames()}


@pytest.mark.slow
class S3Test(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.enterClassContext(s3_stand_in.server())
    files.path('s3://runs').mkdir()

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def _run(self, module, *arguments):
    """A command as a user types it; returns its exit code and its words."""
    done = subprocess.run(
        [sys.executable, '-m', module, *arguments],
        cwd=self.folder,
        env={**os.environ, 'PYTHONPATH': f'{self.folder}:{_ROOT}'},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr

  def _sweep(self, config, workdir, *arguments):
    (self.folder / 'config.py').write_text(config)
    return self._run(
        'experiments.sweep',
        '--config=config.py',
        f'--workdir={workdir}',
        *arguments,
    )

  def test_a_failed_run_is_continued_from_what_it_has_left_there(self):
    (self.folder / 'stage.py').write_text(_STAGE)
    workdir = files.path('s3://runs/failing')
    code, said = self._sweep(_CONFIG, workdir, '--program=stage')
    self.assertEqual(code, 1, said)
    self.assertIn('1 of 2 runs failed', said)
    self.assertIn('Seed 7 is no good.', said)
    marks = {x.name for x in (workdir / 'finished').iterdir()}
    self.assertEqual(marks, {'level=0.5,seed=0.json'})
    (self.folder / 'fixed').touch()
    code, said = self._sweep(_CONFIG, workdir, '--program=stage')
    self.assertEqual(code, 0, said)
    self.assertIn('2 runs of stage, 1 at a time; 1 are done', said)
    attempts = (workdir / 'runs/level=0.5,seed=7/attempts.txt').read_text()
    self.assertStartsWith(attempts, 'failed')
    self.assertLen(attempts.removeprefix('failed').split(), 1)
    log = (workdir / 'logs/level=0.5,seed=7.txt').read_text()
    self.assertEqual(log.count('Seed 7 is no good.'), 1)
    with (workdir / 'runs.parquet').open('rb') as file:
      rows = parquet.read_table(file).to_pylist()
    self.assertEqual([row['area'] for row in rows], [0.5, None])
    self.assertEmpty(list(workdir.glob('unfinished/*')))
    # Nothing is left to do, and the same table is written again.
    table = (workdir / 'table.md').read_text()
    (workdir / 'table.md').unlink()
    code, said = self._sweep(_CONFIG, workdir, '--program=stage')
    self.assertEqual(code, 0, said)
    self.assertIn('2 are done', said)
    self.assertEqual((workdir / 'table.md').read_text(), table)

  def test_what_needs_locks_or_appends_is_refused(self):
    for argument, words in (
        ('--launcher=slurm', '--launcher=slurm; allowed there: lists of'),
        ('--config.track=tensorboard', "track is 'tensorboard' and"),
    ):
      code, said = self._sweep(_CONFIG, 's3://runs/refused', argument)
      self.assertEqual(code, 1, said)
      self.assertIn(words, said)
    self.assertFalse(files.path('s3://runs/refused').exists())
    with self.assertRaisesRegex(ValueError, 'this is a search; allowed'):
      sweep_elsewhere.check(arithmetic.get_config(), 'local', True)

  def test_data_of_which_runs_would_read_a_part_are_refused(self):
    vtrace = arithmetic_redraft.get_config('vtrace')
    for config, words in (
        (ml_collections.ConfigDict(), 'no field data.directory'),
        (vtrace, 'runs read replies only, and these need rollouts too'),
    ):
      with self.assertRaisesRegex(ValueError, words):
        sweep_elsewhere.check_data(config, 's3://runs/data')
    config = arithmetic_redraft.get_config()
    sweep_elsewhere.check_data(config, 's3://runs/data')
    config.data.directory = 'runs/else'
    with self.assertRaisesRegex(ValueError, "data.directory is 'runs/else'"):
      sweep_elsewhere.check_data(config, 's3://runs/data')

  def test_what_a_run_sets_itself_counts_too(self):
    config = _VTRACE.format(configs=_ROOT / 'configs')
    code, said = self._sweep(
        config, self.folder / 'sweep', '--data=s3://runs/data'
    )
    self.assertEqual(code, 1, said)
    self.assertIn('runs read replies only, and these need rollouts too', said)
    self.assertFalse((self.folder / 'sweep').exists())

  def _attempt(self, workdir, stage=_STAGE, is_hopeless=None):
    """Attempts the run of seed 7 in this process; returns what went wrong."""
    (self.folder / 'stage.py').write_text(stage)
    self.enterContext(contextlib.chdir(self.folder))
    self.enterContext(
        mock.patch.dict(os.environ, PYTHONPATH=f'{self.folder}:{_ROOT}')
    )
    run = sweep_runs.Run('seed=7', {'seed': 7, 'level': 0.5})
    sweep = sweep_runs.Sweep(
        files.path(workdir), 'stage', 'none.py', {}, (run,)
    )
    return sweep, run, sweep_elsewhere.attempt(sweep, run, is_hopeless)

  def test_what_the_store_does_not_take_stays_here(self):
    def refused(*_):
      raise OSError('the store is full')

    with mock.patch.object(sweep_elsewhere, '_put', refused):
      sweep, run, problem = self._attempt('s3://runs/full')
    self.assertIn('Seed 7 is no good.; could not be copied to', problem)
    self.assertIn('s3://runs/full: the store is full; its files are', problem)
    place = problem.rpartition(' in ')[2]
    self.assertEndsWith(place, f' on {platform.node()}')
    here = pathlib.Path(place.removesuffix(f' on {platform.node()}'))
    self.addCleanup(shutil.rmtree, here)
    attempts = here / 'runs' / run.name / 'attempts.txt'
    self.assertEqual(attempts.read_text(), 'failed')
    self.assertFalse(sweep.mark(run).exists())

  def test_an_archive_is_of_one_attempt(self):
    sweep, run, problem = self._attempt('s3://runs/again')
    self.assertIn('Seed 7 is no good.', problem)
    archive = sweep.workdir / 'unfinished' / 'seed=7.tar'
    self.assertEqual(
        _content(archive), {'attempts.txt': b'failed', 'first.txt': b''}
    )
    self._attempt('s3://runs/again')
    self.assertEqual(_content(archive), {'attempts.txt': b'failedfailed'})
    self.assertFalse(sweep.directory(run).exists())
    (self.folder / 'fixed').touch()
    self.assertEqual(self._attempt('s3://runs/again')[2], '')
    self.assertFalse(archive.exists())
    self.assertTrue((sweep.directory(run) / 'results.json').exists())

  def test_what_an_interrupted_run_has_made_is_kept(self):
    self.enterContext(mock.patch.object(tempfile, 'tempdir', str(self.folder)))

    def interrupt():
      if list(self.folder.glob('sweep-*/runs/*/begun.txt')):
        raise KeyboardInterrupt
      return False

    with self.assertRaises(KeyboardInterrupt):
      self._attempt('s3://runs/interrupted', _ENDLESS, interrupt)
    archive = files.path('s3://runs/interrupted/unfinished/seed=7.tar')
    self.assertEqual(
        _content(archive), {'begun.txt': b'', 'ended.txt': b'in order'}
    )
    self.assertEmpty(list(self.folder.glob('sweep-*')))

  def test_an_interrupted_copy_leaves_the_files_here(self):
    self.enterContext(mock.patch.object(tempfile, 'tempdir', str(self.folder)))
    with (
        mock.patch.object(
            sweep_elsewhere, '_put', side_effect=KeyboardInterrupt
        ),
        self.assertLogs(level='ERROR') as logs,
        self.assertRaises(KeyboardInterrupt),
    ):
      self._attempt('s3://runs/copying')
    (made,) = self.folder.glob('sweep-*/runs/*/attempts.txt')
    self.assertEqual(made.read_text(), 'failed')
    self.assertIn(str(made.parents[2]), ''.join(logs.output))

  def test_a_store_that_cannot_be_read_fails_the_run_alone(self):
    with mock.patch.object(sweep_runs.Sweep, 'mark', side_effect=OSError('no')):
      _, _, problem = self._attempt('s3://runs/unread')
    self.assertEqual(problem, 'could not be read from s3://runs/unread: no')

  def test_collection_sweep_and_tables_by_ray(self):
    pytest.importorskip('ray', reason='Needs the extra `ray`.')
    (self.folder / 'config.py').write_text(sweep_test.REAL)
    data, workdir = 's3://runs/data', 's3://runs/real'
    for split in ('train', 'select', 'prove', 'test'):
      code, said = self._run(
          'experiments.collect',
          '--config=config.py',
          f'--workdir={data}',
          f'--split={split}',
          f'--config.launcher={"ray" if split == "train" else "local"}',
      )
      self.assertEqual(code, 0, said)
    self.assertLen(reader.read_ladders(f'{data}/shards/train'), 12)
    code, said = self._sweep(
        sweep_test.REAL, workdir, f'--data={data}', '--launcher=ray'
    )
    self.assertEqual(code, 0, said)
    home = files.path(workdir)
    (run,) = (home / 'runs').iterdir()
    results = json.loads((run / 'results.json').read_text())
    self.assertEqual(results['num_problems']['test'], 8)
    self.assertEqual(results['config']['data']['directory'], data)
    self.assertIn('| 1 |', (home / 'table.md').read_text())
    found = {x.name for x in run.iterdir()}
    self.assertContainsSubset({'report.html', 'runs', 'results.json'}, found)
    self.assertNoCommonElements({'compiled', 'shards'}, found)


if __name__ == '__main__':
  absltest.main()
