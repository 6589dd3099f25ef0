"""Shards in the folder of another split are refused by every stage."""

import pathlib
import shutil

from absl.testing import absltest
import pytest

from experiments import calibrate
from experiments import collect
from experiments import evaluate
from experiments import pipeline
from experiments import train
import routing
from tests import flow_test


def _files(directory):
  return {x: x.read_bytes() for x in directory.rglob('*') if x.is_file()}


@pytest.mark.usefixtures('lightly_optimized')
class SeenFlowTest(absltest.TestCase):

  def _lay(self, split, other):
    """Makes the shared shards of `split` a copy of those of `other`."""
    target = self.shared / 'shards' / split
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(self.right / 'shards' / other, target)

  def _refuses(self, stage, split, other, message):
    """With the shards of `other` as `split`, a stage writes nothing."""
    self._lay(split, other)
    before = _files(self.workdir)
    with self.assertRaisesRegex(ValueError, message):
      stage(self.config, self.workdir)
    # The whole flow does not even get there.
    with self.assertRaisesRegex(ValueError, r'other settings \(split differ'):
      pipeline.run(self.config, self.workdir, lambda line: None)
    self.assertEqual(_files(self.workdir), before)
    self._lay(split, split)

  @pytest.mark.slow
  def test_trained_on_trajectories_and_judged_on_replies(self):
    self.config = flow_test.small('redraft, vtrace')
    self.config.evaluation.update(num_live=0, num_coverage_samples=0)
    root = pathlib.Path(self.create_tempdir().full_path)
    self.right, self.shared = root / 'right', root / 'shared'
    self.workdir = root / 'run'
    for split in ('train', 'select', 'prove', 'test'):
      collect.collect_split(self.config, self.right, split, 'replies')
      self._lay(split, split)
    self.config.data.directory = str(self.shared)
    pipeline.run(self.config, self.workdir, lambda line: None)
    directory = train.run_directory(self.workdir, 0)
    self.assertLen(routing.load(directory).seen.prove, 8)

    # The policy learnt from trajectories of the 12 problems whose replies now
    # stand in the folder of `prove`, of which as many are read as it has.
    calibrated, evaluated = calibrate.calibrate_all, evaluate.evaluate
    known_as = "{}, .* in split '{}'; .* {num} of {num} problems are refused"
    for stage, split, other in (
        (calibrated, 'prove', 'train'),
        (calibrated, 'prove', 'select'),
        (calibrated, 'select', 'train'),
        (evaluated, 'test', 'train'),
        (evaluated, 'test', 'prove'),
        (evaluated, 'select', 'prove'),
    ):
      with self.subTest(f'{other} as {split}'):
        num = min(self.config.problems[x] for x in (split, other))
        message = known_as.format(f'{split} on', other, num=num)
        self._refuses(stage, split, other, message)
    before = _files(self.workdir)
    pipeline.run(self.config, self.workdir, lambda line: None)
    self.assertEqual(_files(self.workdir), before)


if __name__ == '__main__':
  absltest.main()
