"""Tests of the collect experiment: an untrained pair, from flags to shards."""

import pathlib
import subprocess
import sys
import tempfile

from absl.testing import absltest
import jax

from configs import arithmetic
from experiments import builders
from experiments import collect
from routing import costs
from routing.lm import decoder
from routing.lm import export
from routing.lm import tokenizer as tokenizer_lib
from routing.shards import reader

_ROOT = pathlib.Path(__file__).parents[1]
_init_params = jax.jit(decoder.init_params, static_argnums=0)
_SHAPES = {'small': (8, 1), 'large': (16, 2)}  # Hidden size, layers.


def _save_pair(directory: pathlib.Path) -> None:
  """An untrained pair, which writes nonsense."""
  for seed, (name, (hidden_size, num_layers)) in enumerate(_SHAPES.items()):
    shape = decoder.DecoderConfig(
        vocab_size=len(tokenizer_lib.Tokenizer()),
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=2,
        num_kv_heads=1,
        head_dim=32,
        mlp_size=8,
    )
    params = _init_params(shape, jax.random.key(seed))
    export.save_pretrained(directory / name, shape, params)


def _make_config(pair: pathlib.Path):
  config = arithmetic.get_config('smoke')
  for route in config.routes:
    route['model'] = str(pair / route['name'])
    route['settings'].update(max_batch=8, num_slots=16)
  config.problems.update(train=6, select=3, prove=3, test=3)
  config.collect.update(shard_size=4, max_tokens=40, concurrency=8)
  config.protocol.max_decisions = 2
  return config


class CollectSplitTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.pair = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    _save_pair(cls.pair)

  def setUp(self):
    super().setUp()
    self.config = _make_config(self.pair)
    self.workdir = pathlib.Path(self.create_tempdir().full_path)

  def test_writes_shards_and_continues_with_them(self):
    directory = collect.collect_split(self.config, self.workdir, 'train')
    self.assertEqual(directory, self.workdir / 'shards' / 'train')
    ladders = reader.read_ladders(directory)
    problems = builders.problems(self.config, 'train')
    self.assertEqual([ladder.problem for ladder in ladders], problems)
    times = {p.name: p.stat().st_mtime_ns for p in directory.iterdir()}
    (directory / 'ladders-00001.parquet').unlink()
    collect.collect_split(self.config, self.workdir, 'train')
    again = {p.name: p.stat().st_mtime_ns for p in directory.iterdir()}
    kept = 'ladders-00000.parquet'
    self.assertEqual(again[kept], times[kept])
    self.assertLen(reader.read_ladders(directory), 6)

  def test_the_manifest_records_the_models(self):
    directory = collect.collect_split(self.config, self.workdir, 'test')
    settings = reader.read_manifest(directory).settings
    specs = builders.specs_of(settings)
    self.assertEqual(specs, builders.specs(self.config))
    self.assertEqual([spec.name for spec in specs], ['small', 'large'])
    self.assertEqual([spec.num_layers for spec in specs], [1, 2])
    self.assertEqual([spec.attention_width for spec in specs], [64, 64])

  def test_live_reads_are_charged_as_collected(self):
    directory = collect.collect_split(self.config, self.workdir, 'test')
    ladders = reader.read_ladders(directory)
    self.assertGreater(max(len(x.steps) for x in ladders), 1)
    for ladder in ladders:
      self.assertEqual({s.usage.read for s in ladder.steps[1:]} - {0}, set())
      tokens = len(tokenizer_lib.Tokenizer().encode(ladder.problem.question))
      self.assertEqual(ladder.steps[0].usage.read, tokens)
      self.assertEqual(ladder.completions[0].read, tokens)
      charged = costs.ladder_costs(
          ladder, builders.specs(self.config), 'price', draft_is_paid=True
      )
      self.assertGreater(charged.all_large, 0)

  def test_another_seed_is_refused(self):
    directory = collect.collect_split(self.config, self.workdir, 'test')
    before = {p.name: p.read_bytes() for p in directory.iterdir()}
    self.config.seed = 1
    with self.assertRaisesRegex(ValueError, 'plan.seed: 0 on disk, 1 req'):
      collect.collect_split(self.config, self.workdir, 'test')
    after = {p.name: p.read_bytes() for p in directory.iterdir()}
    self.assertEqual(after, before)

  def test_other_weights_are_refused(self):
    collect.collect_split(self.config, self.workdir, 'test')
    other = pathlib.Path(self.create_tempdir().full_path)
    _save_pair(other)
    shape, params = export.load_pretrained(other / 'large')
    export.save_pretrained(
        other / 'large', shape, jax.tree.map(lambda x: x + 1, params)
    )
    self.config.routes[1]['model'] = str(other / 'large')
    with self.assertRaisesRegex(ValueError, 'weights_sha256'):
      collect.collect_split(self.config, self.workdir, 'test')

  def test_a_missing_pair_is_rejected(self):
    self.config.routes[0]['model'] = str(self.workdir / 'small')
    with self.assertRaisesRegex(ValueError, 'allowed: a directory, a name on'):
      collect.collect_split(self.config, self.workdir, 'test')

  def test_more_traces_than_slots_are_refused(self):
    self.config.collect.concurrency = 17
    with self.assertRaisesRegex(ValueError, 'concurrency is 17; .* 16'):
      collect.collect_split(self.config, self.workdir, 'test')

  def test_unknown_split_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'train, select, prove, test'):
      builders.problems(self.config, 'dev')

  def test_unknown_source_is_refused(self):
    self.config.task.name = 'gsm'
    with self.assertRaisesRegex(
        ValueError, "'gsm'; allowed: arithmetic, gsm8k"
    ):
      builders.problems(self.config, 'test')


class CommandTest(absltest.TestCase):

  def test_an_error_is_one_line_and_a_code(self):
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'experiments.collect',
            '--config=configs/arithmetic.py:smoke',
            '--config.routes[0].model=/nowhere',
            f'--workdir={self.create_tempdir().full_path}',
        ],
        cwd=_ROOT,
        capture_output=True,
        text=True,
    )
    self.assertEqual(done.returncode, 1)
    (line,) = done.stderr.strip().splitlines()
    self.assertStartsWith(line, "collect: The model '/nowhere' does not exist")


if __name__ == '__main__':
  absltest.main()
