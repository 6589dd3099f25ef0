"""Stages refuse routers without a record, and problems of another split."""

import json
import pathlib
import shutil
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized

from configs import arithmetic
from configs import arithmetic_redraft
from experiments import builders
from experiments import calibrate
from experiments import collect
from experiments import evaluate
from experiments import train
import routing
from routing.routers import learned


def _without_record(directory):
  """The shipped router as an old one that does not say what it has seen."""
  shutil.copytree(learned.SHIPPED, directory)
  (directory / learned.SEEN_FILE).unlink()
  path = directory / learned.CARD_FILE
  card = json.loads(path.read_text())
  del card['seen_hashes']
  path.write_text(json.dumps(card))


class NoRecordTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)
    self.directory = train.run_directory(self.workdir, 0)
    _without_record(self.directory)

  @parameterized.parameters(calibrate.calibrate_all, evaluate.evaluate)
  def test_a_router_that_does_not_say_is_refused_by_its_directory(self, stage):
    self.assertFalse(routing.load(self.directory).seen.is_known)
    with self.assertRaisesRegex(ValueError, f'{self.directory} does not say'):
      stage(arithmetic.get_config('smoke'), self.workdir)


class MixtureTest(absltest.TestCase):
  """The shipped router writes the trajectories."""

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)
    self.config = arithmetic_redraft.get_config('vtrace-smoke')
    self.config.data.kind = 'rollouts'
    self.config.calibration.source = 'recorded'
    self.config.evaluation.source = 'recorded'
    self.config.behaviour.kind = 'mixture'

  def test_its_training_problems_are_refused_but_for_training(self):
    of = lambda split: builders.problems(self.config, split)
    for split in builders.SPLITS:
      collect.check_behaviour(self.config, split, of(split))
    collect.check_behaviour(self.config, 'train', of('select'))
    trained = of('train')
    with mock.patch.object(builders, 'problems', lambda *_: trained):
      for split in ('select', 'prove', 'test'):
        with self.assertRaisesRegex(ValueError, "has seen it in split 'train'"):
          collect.collect_split(self.config, self.workdir, split)
    self.assertEmpty(list(self.workdir.iterdir()))

  def test_it_must_say_what_it_has_seen(self):
    directory = self.workdir / 'router'
    _without_record(directory)
    self.config.behaviour.router = str(directory)
    with self.assertRaisesRegex(ValueError, 'behaviour.router .* does not say'):
      collect.collect_split(self.config, self.workdir, 'train')


if __name__ == '__main__':
  absltest.main()
