"""The chain in redraft; and what the trees say is what the driver does."""

import json
import pathlib
import shutil
import tempfile
from unittest import mock

from absl.testing import absltest

from configs import arithmetic_trees
from experiments import behave
from experiments import builders
from experiments import evaluate_rollouts
from experiments import replies
from experiments import train
from experiments import train_trees
from experiments import training_sets
from routing.shards import manifest as manifest_lib
from routing.shards import reader
from tests import scripted_pair


def _config():
  config = arithmetic_trees.get_config('smoke')
  config.problems.update(train=6, validation=6, test=6)
  config.protocol.max_decisions = 5  # Longer problems end early, wrong.
  config.collect.update(concurrency=8, shard_size=6)
  config.engine.update(max_batch=8, num_slots=8)
  config.num_steps = 4
  config.eval_every = 2
  config.evaluation.update(resamples=20, live=6)
  return config


class ChainTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.config = _config()
    root = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.replies, cls.workdir = root / 'replies', root / 'run'
    for split in ('train', 'validation', 'test'):
      replies.collect_split(cls.config, cls.replies, split)
    behave.collect_split(cls.config, cls.workdir, 'train', cls.replies)
    train_trees.train_all(cls.config, cls.workdir, cls.replies)
    path = evaluate_rollouts.run(cls.config, str(cls.workdir), str(cls.replies))
    cls.results = json.loads(path.read_text())

  def test_live_answers_are_those_of_the_trees(self):
    self.assertLen(self.results['live'], 2)
    for entry in self.results['live']:
      self.assertEqual(entry['num_agreeing'], entry['num_problems'])

  def test_every_method_has_figures_in_every_ruler(self):
    self.assertCountEqual(
        self.results['rulers'], ('price', 'flops', 'decoded', 'seconds')
    )
    for figures in self.results['rulers'].values():
      self.assertContainsSubset(
          ('policy', 'supervised', 'supervised, rollouts', 'confidence',
           'coin', 'random', 'oracle'),
          figures['methods'],
      )  # fmt: skip

  def test_replies_of_other_settings_are_refused(self):
    config = self.config.copy_and_resolve_references()
    config.collect.max_tokens = 100
    with self.assertRaisesRegex(ValueError, 'other settings'):
      replies.read(config, self.replies, 'train')

  def test_the_count_of_problems(self):
    self.assertEqual(
        self.results['num_problems'], dict(train=6, validation=6, test=6)
    )

  def test_fewer_trees_are_learnt_from(self):
    config = self.config.copy_and_resolve_references()
    config.trees.train = 4
    data = train_trees.load(config, self.replies)
    self.assertLen(data.train.mask, 4)
    config.trees.train = 7
    with self.assertRaisesRegex(ValueError, '6 problems of train; 7 are'):
      train_trees.load(config, self.replies)

  def test_unfinished_replies_are_refused(self):
    directory = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    shutil.copytree(self.replies, directory, dirs_exist_ok=True)
    path = directory / 'train' / manifest_lib.FILE_NAME
    path.write_text(
        path.read_text().replace('"num_problems": 6', '"num_problems": 7')
    )
    with self.assertRaisesRegex(ValueError, 'holds 6 of 7 problems'):
      train_trees.load(self.config, directory)

  def test_behaviour_is_collected_without_the_models(self):
    self.assert_remembered(self.workdir / 'rollouts' / 'train', 6)

  def test_on_policy_rounds_are_collected_without_the_models(self):
    config = self.config.copy_and_resolve_references()
    config.objective.estimator = 'on_policy'
    config.on_policy.update(problems=4, every=2)
    config.batch_size = 4
    workdir = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    for split in ('train', 'validation'):
      behave.collect_split(config, workdir, split, self.replies)
    data = training_sets.load(config, workdir)
    others = lambda config: scripted_pair.make_engines(2)
    with mock.patch.object(builders, 'engines', others):
      train.train_seed(config, workdir, 0, data, self.replies)
    rounds = train.run_directory(workdir, 0) / 'rollouts'
    for number in range(2):
      self.assert_remembered(rounds / f'round{number:05d}', 4)

  def assert_remembered(self, directory, num_problems):
    rollouts = reader.read_rollouts(directory)
    self.assertLen(rollouts, num_problems)
    known = replies.memories(self.config, self.replies, ['train'])
    for rollout in rollouts:
      for trajectory in rollout.trajectories:
        trace = ''
        for step in trajectory.steps:
          found = known[step.route].get(rollout.problem.question, trace)
          self.assertEqual(found.text, step.text)
          trace += step.text


if __name__ == '__main__':
  absltest.main()
