"""Tests of on-policy training: what is collected, by whom, and after a kill."""

import pathlib
import shutil
import tempfile
from unittest import mock

from absl.testing import absltest
import numpy as np
import pytest

from experiments import on_policy_rounds
from experiments import records_on_disk
from experiments import train
from experiments import training_data
from routing.features import batching
from routing.routers import learned
from routing.shards import reader
from routing.training import fit
from routing.training import metrics as metrics_lib
from routing.training import sources
from tests import scripted_pair
from tests import train_rollouts_test


def _config():
  config = train_rollouts_test.make_config(num_steps=5, checkpoint_every=3)
  config.objective.estimator = 'on_policy'
  config.on_policy.update(problems=8, trajectories=3, every=2)
  config.collect.update(shard_size=3, concurrency=1)
  return config


def _rounds(workdir):
  return sorted((train.run_directory(workdir, 0) / 'rollouts').iterdir())


class _Engines:
  """Makes scripted engines, which may fail at one of all their requests."""

  def __init__(self, fails_at=None):
    self.made = []
    self._fails_at, self._num = fails_at, 0

  def __call__(self, config, workdir, split):
    self.made += scripted_pair.make_engines(fails_at=self._fails)
    return self.made[-2:]

  def _fails(self, request):
    del request
    self._num += 1
    return self._num == self._fails_at

  @property
  def num_requests(self):
    return [len(engine.requests) for engine in self.made]


class OnPolicyTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.shards = cls.enterClassContext(tempfile.TemporaryDirectory())
    train_rollouts_test.collect(cls.shards)

  def _train(self, engines, workdir=None):
    """A run with those engines; returns its work directory and router."""
    if workdir is None:
      workdir = pathlib.Path(self.create_tempdir().full_path)
      shutil.copytree(self.shards, workdir, dirs_exist_ok=True)
    data = training_data.load(_config(), workdir)
    with (
        mock.patch.multiple(records_on_disk, engines=engines),
        mock.patch.object(on_policy_rounds, 'check_engines'),
    ):
      try:
        return workdir, train.train_seed(_config(), workdir, 0, data)
      except ConnectionError:
        return workdir, None

  def test_rounds_are_the_members_own(self):
    workdir, router = self._train(engines := _Engines())
    self.assertIsInstance(router, learned.LearnedRouter)
    # Five steps of two a round; the engines live through all of them.
    self.assertLen(_rounds(workdir), 3)
    self.assertLen(engines.made, 2)
    train_ids = [
        x.problem.id for x in training_data.references(_config(), workdir)
    ]
    seen = []
    view = training_data.load(_config(), workdir).view
    for number, directory in enumerate(_rounds(workdir)):
      rollouts = reader.read_rollouts(directory)
      self.assertLen(rollouts, 8)
      seen += [x.problem.id for x in rollouts]
      if number:
        continue
      # Untrained parameters are known: those that the seed draws.
      _, state, _ = fit.make_learner(_config(), 2, view.features.size, 0)
      first = learned.LearnedRouter(
          train.make_card(_config(), view), state.params, view.statistics
      )
      batch = batching.trajectory_batch(
          rollouts, view.features, view.accounting, view.protocol
      )
      for row in range(24):
        probabilities = first.probabilities(
            batch.features[row], policy_index=row % 2
        )
        for t in np.flatnonzero(batch.mask[row]):
          np.testing.assert_allclose(
              batch.behaviour[row, t],
              probabilities[t, batch.actions[row, t]],
              rtol=1e-5,
          )
    # Three rounds of eight are the 24 problems of train, each once.
    self.assertCountEqual(seen, train_ids)

  def test_later_rounds_are_of_later_parameters(self):
    workdir, _ = self._train(_Engines())
    probabilities = [
        y.decisions[0].probability
        for directory in _rounds(workdir)[::2]
        for x in reader.read_rollouts(directory)
        for y in x.trajectories
        if y.decisions[0].route == 0
    ]
    self.assertGreater(len(np.unique(np.round(probabilities, 3))), 2)

  def test_references_are_not_written_again(self):
    _, _ = self._train(engines := _Engines())
    self.assertFalse(any(x.to_end for y in engines.made for x in y.requests))

  @pytest.mark.slow
  def test_killed_run_equals_the_one_that_was_not(self):
    workdir, whole = self._train(engines := _Engines())
    expected = metrics_lib.read_rows(
        train.run_directory(workdir, 0) / 'metrics.jsonl'
    )
    total = sum(engines.num_requests)
    # In the first round, and in the last, after the checkpoint of step 3, which
    # lies within the second.
    for fails_at in (total // 6, total - 3):
      with self.subTest(fails_at):
        other, router = self._train(_Engines(fails_at))
        self.assertIsNone(router)
        self.assertFalse(train.is_finished(other, 0))
        _, router = self._train(again := _Engines(), other)
        self.assertEqual(router.checkpoint_hash, whole.checkpoint_hash)
        self.assertLess(sum(again.num_requests), total)
        got = metrics_lib.read_rows(
            train.run_directory(other, 0) / 'metrics.jsonl'
        )
        self.assertEqual(got, expected)

  def test_what_is_no_number_is_named(self):
    broken = scripted_pair.make_engines(
        log_probs=lambda text: np.full(len(text), np.nan, np.float32)
    )
    with self.assertRaisesRegex(ValueError, 'confidence/.* is not finite') as e:
      self._train(lambda config, workdir, split: broken)
    self.assertIn('while collecting problem', e.exception.__notes__[0])

  def test_other_models_are_refused(self):
    with self.assertRaisesRegex(
        ValueError, 'collected with small .1,000 parameters'
    ):
      on_policy_rounds.check_engines(_config(), scripted_pair.SPECS[:2])

  def test_a_round_is_a_step_at_least(self):
    with self.assertRaisesRegex(ValueError, 'on_policy.every is 0'):
      sources.renewed(lambda number, state: None, 0, 0, 1)


if __name__ == '__main__':
  absltest.main()
