"""Tests of the train experiment: from shards to a router, and its refusals."""

import asyncio
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

from absl.testing import absltest
import numpy as np

from configs import arithmetic
from experiments import train
from experiments import training_data
from experiments import unattended_collection
import routing
from routing.features import observation
from routing.shards import reader
from routing.shards import writer as writer_lib
from routing.training import metrics as metrics_lib
from tests import commands_test
from tests import scripted_pair

_ROOT = pathlib.Path(__file__).parents[1]
_COUNTS = {'train': 24, 'select': 16}


def collect_ladders(workdir):
  """Shards of both splits, by the scripted pair."""
  problems = scripted_pair.make_problems(sum(_COUNTS.values()))
  for split, count in _COUNTS.items():
    chosen, problems = problems[:count], problems[count:]
    settings = {
        'models': [dataclasses.asdict(s) for s in scripted_pair.SPECS[:2]]
    }
    writer = writer_lib.LadderWriter(
        pathlib.Path(workdir) / 'shards' / split, chosen, settings, 8
    )
    asyncio.run(
        unattended_collection.collect_missing(
            scripted_pair.collect_ladders,
            chosen,
            scripted_pair.make_engines(),
            writer,
            specs=scripted_pair.SPECS,
            concurrency=8,
        )
    )


def _config():
  config = arithmetic.get_config('smoke')
  config.features.update(question_width=8, step_width=8)
  config.objective.levels = (0.5, 0.7)
  config.num_steps = 4
  config.eval_every = config.log_every = 2
  return config


def _files(directory):
  return {
      path: path.stat().st_mtime_ns
      for path in pathlib.Path(directory).rglob('*')
      if path.is_file()
  }


class TrainTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.shards = cls.enterClassContext(tempfile.TemporaryDirectory())
    collect_ladders(cls.shards)

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)
    shutil.copytree(self.shards, self.workdir, dirs_exist_ok=True)

  def test_leaves_a_router_for_each_seed(self):
    config = _config()
    config.train_seeds = (0, 4)
    first, second = train.train_all(config, self.workdir)
    self.assertEqual(second, self.workdir / 'runs' / 'seed4')
    routers = [routing.load(directory) for directory in (first, second)]
    self.assertNotEqual(*[router.checkpoint_hash for router in routers])
    card = routers[0].card
    self.assertEqual(card.specs, scripted_pair.SPECS[:2])
    self.assertEqual(card.levels, (0.5, 0.7))
    self.assertGreater(card.reference, 0)
    self.assertEqual(card.features.hidden_size, 4)
    rows = metrics_lib.read_rows(first / 'metrics.jsonl')
    self.assertEqual([row['step'] for row in rows], [2, 4])
    self.assertLen(rows[-1]['best_score'], 2)
    recorded = json.loads((first / 'features.json').read_text())
    self.assertEqual(
        recorded['features']['max_decisions'], card.features.max_decisions
    )

  def test_router_scores_what_training_saw(self):
    # Scores on raw features equal the network on the standardised set.
    config = _config()
    data = training_data.load(config, self.workdir)
    router = train.train_seed(config, self.workdir, 0, data)
    statistics = data.view.statistics
    raw = data.train.features * statistics.std + statistics.mean
    constant = statistics.std <= 1e-3
    self.assertLess(constant.mean(), 0.9)
    got = router.score(raw.astype(np.float32), 1)
    again = routing.load(self.workdir / 'runs' / 'seed0').score(
        raw.astype(np.float32), 1
    )
    np.testing.assert_array_equal(got, again)
    names = observation.names(data.view.features)
    self.assertLen(names, data.train.features.shape[-1])
    valid = data.train.features[data.train.mask]
    np.testing.assert_allclose(valid.mean(axis=0)[~constant], 0, atol=0.2)

  def test_finished_run_is_kept_and_another_config_refused(self):
    config = _config()
    train.train_all(config, self.workdir)
    before = _files(self.workdir)
    train.train_all(config, self.workdir)
    self.assertEqual(_files(self.workdir), before)
    config.optimizer.learning_rate = 0.5
    with self.assertRaisesRegex(ValueError, 'optimizer.learning_rate is'):
      train.train_all(config, self.workdir)
    self.assertEqual(_files(self.workdir), before)

  def test_other_shards_are_refused(self):
    config = _config()
    data = training_data.load(config, self.workdir)
    train.train_seed(config, self.workdir, 0, data)
    before = _files(self.workdir)
    other = dataclasses.replace(data, shards=data.shards | {'train': 'other'})
    with self.assertRaisesRegex(ValueError, r'another training set.*shards'):
      train.train_seed(config, self.workdir, 0, other)
    self.assertEqual(_files(self.workdir), before)

  def test_odd_ladders_are_named(self):
    directory = self.workdir / 'shards' / 'train'
    ladders = reader.read_ladders(directory)
    settings = reader.read_manifest(directory).settings
    settings = {'models': settings['models']}

    def no_number(x):
      numbers = np.full_like(x.steps[0].log_probs, np.nan)
      step = dataclasses.replace(x.steps[0], log_probs=numbers)
      return dataclasses.replace(x, steps=(step, *x.steps[1:]))

    def no_step(x):
      return dataclasses.replace(x, steps=(), completions=())

    for change, message in (
        (no_number, 'count/7: step 0: a log-probability is not finite'),
        (no_step, 'count/7 has 0 steps; allowed: 1 or more'),
    ):
      shutil.rmtree(directory)
      problems = [x.problem for x in ladders]
      writer = writer_lib.LadderWriter(directory, problems, settings, 8)
      for i, ladder in enumerate(ladders):
        writer.add(i, change(ladder) if i == 7 else ladder)
      with self.assertRaisesRegex(ValueError, message):
        training_data.load(_config(), self.workdir)

  def test_missing_hidden_states_are_named(self):
    directory = self.workdir / 'shards' / 'train'
    ladders = reader.read_ladders(directory)
    settings = reader.read_manifest(directory).settings
    shutil.rmtree(directory)
    writer = writer_lib.LadderWriter(
        directory,
        [x.problem for x in ladders],
        {'models': settings['models']},
        8,
    )
    for i, ladder in enumerate(ladders):
      steps = tuple(dataclasses.replace(x, hidden=None) for x in ladder.steps)
      writer.add(i, dataclasses.replace(ladder, steps=steps))
    with self.assertRaisesRegex(
        ValueError, 'Remove hidden from features.groups'
    ):
      training_data.load(_config(), self.workdir)

  def test_a_bad_call_prints_one_line_and_fails(self):
    words = [
        '--config=configs/arithmetic.py:smoke',
        f'--workdir={self.workdir}',
    ]
    # What is found before `main` is told in this process, which is quicker.
    for override, message in (
        ('--config.num_step=3', "Did you mean 'num_steps'"),
        ('--config.bugdet=3', "no field 'bugdet'. Fields: batch_size,"),
    ):
      said = commands_test.fault('experiments.train', [*words, override])
      self.assertIn(message, said)
      self.assertLen(said.splitlines(), 1)
    override = '--config.objective.levels=(0.01,)'
    done = subprocess.run(
        [sys.executable, '-m', 'experiments.train', *words, override],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    self.assertNotEqual(done.returncode, 0)
    self.assertIn('objective.levels has 0.01', done.stderr.splitlines()[-1])
    self.assertNotIn('Traceback', done.stderr)


if __name__ == '__main__':
  absltest.main()
