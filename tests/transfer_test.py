"""A router of one task, evaluated on the ladders of another."""

import json
import pathlib

from absl.testing import absltest
import numpy as np
import pytest

from experiments import collect
from experiments import pipeline
from experiments import records_on_disk
from experiments import served_router
from experiments import train
from experiments.studies import transfer
import routing
from routing.routers import families
from tests import flow_test


def _config(seed):
  """Returns a run on its own version of the task: other exercises."""
  config = flow_test.small('escalate')
  config.problems.seed = seed
  config.evaluation.update(learners=(), num_live=0, num_coverage_samples=0)
  config.calibration.update(budgets=(0.9,), alphas=(0.6,))
  return config


@pytest.mark.usefixtures('lightly_optimized')
class TransferTest(absltest.TestCase):

  @pytest.mark.slow
  def test_kept_and_recalibrated_thresholds(self):
    home = pathlib.Path(self.create_tempdir().full_path)
    away = pathlib.Path(self.create_tempdir().full_path)
    pipeline.run(_config(0), home, lambda _: None)
    config = _config(1)
    for split in ('select', 'prove', 'test'):
      collect.collect_split(config, away, split, 'ladders')
    directory = train.run_directory(home, 0)
    before = {x: x.read_bytes() for x in directory.rglob('*') if x.is_file()}
    path = transfer.transfer(config, away, directory)
    content = json.loads(path.read_text())

    router = routing.load(directory)
    self._check_kept(config, away, router, content)
    self._check_recalibrated(config, router, path.parent, content)
    # The first run is as it was, and the same command gives the same again.
    for file, text in before.items():
      self.assertEqual(file.read_bytes(), text)
    transfer.transfer(config, away, directory)
    self.assertEqual(json.loads(path.read_text()), content)
    self._check_refusals(config, away, home, directory)

  def _check_kept(self, config, away, router, content):
    """The thresholds of the first task, walked through the new ladders."""
    test = records_on_disk.source(config, away, 'test', router.card, 'known')
    self.assertEqual(
        [x['name'] for x in content['kept']], [x.name for x in router.points]
    )
    for point, found in zip(router.points, content['kept'], strict=True):
      family = families.policies(router)[point.policy_index]
      outcomes = test.evaluate(
          family, np.array([point.threshold]), router.card.metric
      )
      self.assertAlmostEqual(found['cost'], float(outcomes.cost.mean()))
      self.assertAlmostEqual(
          found['accuracy']['mean'], float(outcomes.correct.mean())
      )
      self.assertEqual(found['promise'], transfer.NO_PROMISE)
      self.assertNotEqual(found['promise_elsewhere'], transfer.NO_PROMISE)

  def _check_recalibrated(self, config, router, saved, content):
    """The saved copy decides as the router did, with points of its own."""
    again = routing.load(saved)
    self.assertEqual(again.checkpoint_hash, router.checkpoint_hash)
    self.assertEqual(
        [x['name'] for x in content['recalibrated']],
        [x.name for x in again.points],
    )
    hashes = {x.shards_hash for x in again.points}
    self.assertEqual(hashes, {content['shards']['prove']})
    self.assertNoCommonElements(hashes, {x.shards_hash for x in router.points})
    # Where models are asked otherwise, a service takes back the promises.
    self.assertEmpty(served_router.check(config, again))
    changed = config.copy_and_resolve_references()
    changed.collect.temperature = 0.5
    self.assertCountEqual(
        served_router.check(changed, again), [x.name for x in again.points]
    )
    # The problems of both `prove` splits are seen.
    self.assertLen(again.seen.prove, len(router.seen.prove) + 8)

  def _check_refusals(self, config, away, home, directory):
    for field, value, message in (
        ('features.step_width', 16, 'step_width 256, but this run has 16'),
        ('protocol.max_decisions', 2, 'max_decisions 3, but this run has 2'),
        ('protocol.view', 'commit', 'trained for escalate, peek'),
        ('cost_metric', 'flops', "trained for cost metric 'price'"),
        ('data.kind', 'rollouts', 'transferred to ladders only'),
        ('calibration.alphas', (0.5,), 'Promises were tested on the problems'),
    ):
      changed = config.copy_and_resolve_references()
      changed.update_from_flattened_dict({field: value})
      with self.assertRaisesRegex(ValueError, message):
        transfer.transfer(changed, away, directory)
    # Its own run is no other task: `prove` would be tested twice.
    with self.assertRaisesRegex(ValueError, 'Promises .* were tested on'):
      transfer.transfer(_config(0), home, directory)
    # And no problem that it was trained on may be evaluated.
    swapped = pathlib.Path(self.create_tempdir().full_path) / 'shards'
    swapped.mkdir()
    for split, source in (
        ('select', away / 'shards' / 'select'),
        ('prove', away / 'shards' / 'prove'),
        ('test', home / 'shards' / 'train'),
    ):
      (swapped / split).symlink_to(source)
    with self.assertRaisesRegex(ValueError, 'seen|train'):
      transfer.transfer(config, swapped.parent, directory)


if __name__ == '__main__':
  absltest.main()
