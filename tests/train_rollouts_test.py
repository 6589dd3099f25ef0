"""Tests of training from rollouts: in memory, from disk, from the command."""

import asyncio
import dataclasses
import functools
import pathlib
import shutil
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import numpy as np

from configs import arithmetic_redraft
from experiments import train
from experiments import training_data
from experiments import unattended_collection
import routing
from routing import costs
from routing import protocols
from routing.grading import equivalence
from routing.rollout import behaviour_rollouts
from routing.rollout import step_requests
from routing.routers import behaviour
from routing.shards import reader
from routing.shards import writer as writer_lib
from routing.training import metrics as metrics_lib
from tests import scripted_pair

_COUNTS = {'train': 24, 'select': 16}
_SPECS = scripted_pair.SPECS[:2]
_SETTINGS = {'models': [dataclasses.asdict(spec) for spec in _SPECS]}


def collect(workdir, protocol='redraft', **others):
  """Rollouts of both splits, by the scripted pair at random rates."""
  problems = scripted_pair.make_problems(sum(_COUNTS.values()))
  plan = behaviour_rollouts.Plan(
      protocols.Protocol(protocol), step_requests.Sampling(), 3
  )
  for split, count in _COUNTS.items():
    chosen, problems = problems[:count], problems[count:]
    settings = _SETTINGS | {'plan': dataclasses.asdict(plan), **others}
    directory = pathlib.Path(workdir) / 'rollouts' / split
    asyncio.run(
        unattended_collection.collect_missing(
            functools.partial(
                behaviour_rollouts.collect_rollouts,
                behaviour=behaviour.random_rate(2, seed=0),
                plan=plan,
                accounting=costs.Accounting(_SPECS, reference=1.0),
                grade=equivalence.exact,
            ),
            chosen,
            scripted_pair.make_engines(),
            writer_lib.RolloutWriter(directory, chosen, settings, 5),
            specs=_SPECS,
            concurrency=8,
        )
    )


def make_config(**changes):
  config = arithmetic_redraft.get_config('vtrace-smoke')
  config.features.update(question_width=8, step_width=8)
  config.network.hidden = (8,)
  config.objective.levels = (0.5, 0.7)
  config.objective.form = 'reliability'
  config.num_steps = 4
  config.eval_every = config.log_every = config.checkpoint_every = 2
  config.update(changes)
  return config


class RolloutsTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.shards = cls.enterClassContext(tempfile.TemporaryDirectory())
    collect(cls.shards)

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)
    shutil.copytree(self.shards, self.workdir, dirs_exist_ok=True)

  def test_a_router_inherits_what_the_behaviour_policy_has_seen(self):
    writer = routing.load('shipped')
    behaviour_of = lambda x: {'kind': 'mixture', 'router': x}
    workdir = self.create_tempdir().full_path
    collect(workdir, behaviour=behaviour_of(writer.checkpoint_hash))
    seen = training_data.load(make_config(), workdir).seen
    self.assertTrue(seen.is_known)
    self.assertEqual(len(seen.train), 24 + len(writer.seen.train))
    self.assertEqual(len(seen.select), 16 + len(writer.seen.select))
    self.assertEqual(seen.prove, writer.seen.prove)
    # Not of the router of the configuration: then nobody knows.
    workdir = self.create_tempdir().full_path
    collect(workdir, behaviour=behaviour_of('0' * 64))
    with self.assertRaisesRegex(ValueError, 'written by router 0000'):
      training_data.load(make_config(), workdir)

  @parameterized.parameters('lagrangian', 'trust_region')
  def test_leaves_a_router(self, update):
    config = make_config()
    config.objective.policy_update = update
    (directory,) = train.train_all(config, self.workdir)
    card = routing.load(directory).card
    self.assertEqual(card.protocol, protocols.Protocol('redraft'))
    self.assertEqual(card.specs, _SPECS)
    self.assertEqual(card.features.hidden_size, 4)
    rows = metrics_lib.read_rows(directory / 'metrics.jsonl')
    self.assertEqual([row['step'] for row in rows], [2, 4])
    self.assertLen(rows[-1]['validation_effective'], 2)

  def test_only_select_may_choose_and_counts_as_seen(self):
    data = training_data.load(make_config(), self.workdir)
    self.assertLen(data.select.mask, 16 * 3)
    rollouts = reader.read_rollouts(self.workdir / 'rollouts' / 'select')
    chex.assert_trees_all_equal(data.select, data.view.trajectories(rollouts))
    problems = [x.problem for x in rollouts]
    data.seen.check('select', problems)
    with self.assertRaisesRegex(ValueError, "has seen it in split 'select'"):
      data.seen.check('prove', problems)

  def test_streamed_shards_equal_data_in_memory(self):
    whole = training_data.load(make_config(), self.workdir)
    config = make_config()
    config.stream.num_shards_in_memory = 2
    parts = training_data.load(config, self.workdir)
    self.assertEqual(parts.train.sizes, [15, 15, 15, 15, 12])
    for name in ('mean', 'std'):
      np.testing.assert_allclose(
          getattr(parts.view.statistics, name),
          getattr(whole.view.statistics, name),
          rtol=1e-5,
          atol=1e-6,
      )
    self.assertEqual(parts.view.accounting, whole.view.accounting)
    chex.assert_trees_all_equal(parts.select.mask, whole.select.mask)
    rows = [parts.train.load(i) for i in range(5)]
    rows = jax.tree.map(lambda *x: np.concatenate(x), *rows)
    chex.assert_trees_all_close(rows, whole.train, atol=1e-4)

  @parameterized.parameters(13, 15)
  def test_a_stream_of_a_larger_shared_directory_has_the_first(self, count):
    shared = pathlib.Path(self.create_tempdir().full_path)
    (shared / 'shards').symlink_to(self.workdir / 'rollouts')
    config = make_config()
    config.data.update(kind='rollouts', directory=str(shared))
    config.calibration.source = config.evaluation.source = 'recorded'
    config.problems.update(train=count, select=6)
    whole = training_data.load(config, self.workdir)
    self.assertLen(whole.train.mask, 3 * count)
    config.stream.num_shards_in_memory = 2
    parts = training_data.load(config, self.workdir)
    self.assertEqual(parts.train.sizes, [15, 15, 3 * count - 30])
    rows = [parts.train.load(i) for i in range(3)]
    rows = jax.tree.map(lambda *x: np.concatenate(x), *rows)
    chex.assert_trees_all_close(rows, whole.train, atol=1e-4)

  def test_streamed_run_resumes_exactly(self):
    config = make_config(batch_size=17)
    config.stream.num_shards_in_memory = 2
    data = training_data.load(config, self.workdir)
    whole = train.train_seed(config, self.workdir, 0, data)
    # Killed after two of four steps: a run directory without a router, whose
    # configuration is the one of the whole run.
    other = pathlib.Path(self.create_tempdir().full_path)
    short = make_config(batch_size=17, num_steps=2)
    short.stream.num_shards_in_memory = 2
    train.train_seed(short, other, 0, data)
    directory = train.run_directory(other, 0)
    for name in ('config.json', 'router.json', 'router.safetensors'):
      (directory / name).unlink()
    resumed = train.train_seed(config, other, 0, data)
    self.assertEqual(resumed.checkpoint_hash, whole.checkpoint_hash)
    self.assertEqual(
        metrics_lib.read_rows(directory / 'metrics.jsonl'),
        metrics_lib.read_rows(
            train.run_directory(self.workdir, 0) / 'metrics.jsonl'
        ),
    )

  @parameterized.parameters(0, 2)
  def test_odd_records_are_named(self, num_shards_in_memory):
    config = make_config()
    config.stream.num_shards_in_memory = num_shards_in_memory
    directory = self.workdir / 'rollouts' / 'train'
    rollouts = reader.read_rollouts(directory)
    settings = dict(reader.read_manifest(directory).settings)
    settings.pop('problems_hash')

    def no_number(x):
      numbers = np.full_like(x.steps[0].log_probs, -np.inf)
      step = dataclasses.replace(x.steps[0], log_probs=numbers)
      return dataclasses.replace(x, steps=(step, *x.steps[1:]))

    def no_step(x):
      return dataclasses.replace(
          x, steps=(), decisions=(), discarded=(), calls=()
      )

    def no_chance(x):
      first = dataclasses.replace(x.decisions[0], probability=0.0)
      return dataclasses.replace(x, decisions=(first, *x.decisions[1:]))

    for change, message in (
        (no_number, 'count/7: step 0: a log-probability is not finite'),
        (no_step, 'count/7 has no decision'),
        (no_chance, 'count/7, decision 0: the action probability is 0.0'),
    ):
      shutil.rmtree(directory)
      problems = [x.problem for x in rollouts]
      writer = writer_lib.RolloutWriter(directory, problems, settings, 5)
      for i, x in enumerate(rollouts):
        if i == 7:
          first, *others = x.trajectories
          x = dataclasses.replace(x, trajectories=(change(first), *others))
        writer.add(i, x)
      with self.assertRaisesRegex(ValueError, message):
        training_data.load(config, self.workdir)

  def test_another_protocol_is_refused(self):
    config = make_config()
    config.protocol.name = 'switch'
    with self.assertRaisesRegex(ValueError, 'collected in redraft, peek'):
      training_data.load(config, self.workdir)

  @parameterized.parameters(
      (dict(kind='rollouts'), 'exact', "'exact', which needs every trace"),
      (dict(kind='ladders'), 'vtrace', 'allowed: ladders or rollouts in esc'),
      (dict(kind='trees'), 'vtrace', "data.kind is 'trees'; allowed: ladders"),
  )
  def test_settings_that_do_not_fit_are_named(self, data, estimator, message):
    config = make_config()
    config.data.update(data)
    config.objective.estimator = estimator
    with self.assertRaisesRegex(ValueError, message):
      training_data.load(config, self.workdir)

  def test_ladders_are_not_taken_for_rollouts(self):
    shutil.rmtree(self.workdir / 'rollouts')
    with self.assertRaisesRegex(ValueError, 'rollouts/train holds no manifest'):
      training_data.load(make_config(), self.workdir)

  def test_too_many_devices_are_refused(self):
    config = make_config()
    config.stream.num_devices = 1 + jax.device_count()
    with self.assertRaisesRegex(ValueError, 'must be from 1 to'):
      train.train_all(config, self.workdir)


if __name__ == '__main__':
  absltest.main()
