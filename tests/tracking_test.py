"""Tests of metrics in TensorBoard and Weights & Biases, read back."""

import pathlib
import shutil
import sys
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import ml_collections
import numpy as np
import pytest

from experiments import tracking
from experiments import workdirs

_ROWS = (
    (10, {'loss': np.float32(0.5), 'multiplier': np.array([0.1, 0.2])}),
    (20, {'loss': 0.25, 'multiplier': [0.3, float('-inf')]}),
)


def _config(kind):
  return ml_collections.ConfigDict({'track': kind, 'seed': 0})


class TrackingTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.create_tempdir().full_path)

  def _track(self, kind, rows=_ROWS):
    with tracking.opened(_config(kind), self.directory, 'a run') as report:
      for step, row in rows:
        report(step, row)

  def test_scalars(self):
    # Lists have one entry per policy; what is not finite cannot be drawn.
    self.assertEqual(
        tracking.scalars(_ROWS[1][1]), {'loss': 0.25, 'multiplier/0': 0.3}
    )

  def test_nothing_is_sent_by_default(self):
    self._track('')
    self.assertEmpty(list(self.directory.iterdir()))
    old = ml_collections.ConfigDict({'seed': 0})
    self.assertEqual(tracking.kind_of(old), '')

  def test_tensorboard(self):
    pytest.importorskip('tensorboardX', reason='Needs the extra `track`.')
    accumulator = pytest.importorskip(
        'tensorboard.backend.event_processing.event_accumulator',
        reason='Needs tensorboard, which reads what the extra `track` writes.',
    )
    self._track('tensorboard')
    # A resumed run repeats step 20, which the first one may have written.
    self._track('tensorboard', [(20, {'loss': 0.125})])
    events = accumulator.EventAccumulator(str(self.directory / 'tensorboard'))
    events.Reload()
    self.assertCountEqual(
        events.Tags()['scalars'], ['loss', 'multiplier/0', 'multiplier/1']
    )
    self.assertEqual(
        [(x.step, x.value) for x in events.Scalars('loss')],
        [(10, 0.5), (20, 0.125)],
    )

  def test_wandb_offline(self):
    wandb = pytest.importorskip('wandb', reason='Needs the extra `track`.')
    with pytest.MonkeyPatch.context() as patch:
      patch.setenv('WANDB_MODE', 'offline')
      patch.setenv('WANDB_SILENT', 'true')
      self._track('wandb')
      # The process that writes the file may still do so; as at the end of a
      # program, this waits for it.
      wandb.teardown()
    (run,) = (self.directory / 'wandb').glob('offline-run-*')
    (log,) = run.glob('*.wandb')
    self.assertGreater(log.stat().st_size, 0)
    self.assertIn(b'multiplier/0', log.read_bytes())

  def test_a_run_that_begins_anew_is_another_run(self):
    given = []
    wandb = mock.MagicMock()
    wandb.init.side_effect = lambda **kwargs: (
        given.append(kwargs['id']) or mock.MagicMock()
    )
    with (
        mock.patch.dict(sys.modules, {'wandb': wandb}),
        mock.patch.object(tracking, 'check'),
    ):
      self._track('wandb')
      self._track('wandb')  # Resumed: its curves continue.
      shutil.rmtree(self.directory)
      self.directory.mkdir()
      self._track('wandb')
    first, resumed, anew = given
    self.assertEqual(first, resumed)
    self.assertNotEqual(first, anew)

  def test_what_is_not_allowed(self):
    with self.assertRaisesRegex(ValueError, "'mlflow'; allowed: '', 'tensor"):
      tracking.check(_config('mlflow'))
    with mock.patch('importlib.util.find_spec', return_value=None):
      with self.assertRaisesRegex(ValueError, r'wandb is not installed: pip'):
        tracking.check(_config('wandb'))

  def test_a_directory_does_not_belong_to_a_tracker(self):
    # Where metrics are shown changes no result, so it may differ.
    for given in ({'seed': 0}, {'seed': 0, 'track': 'wandb'}):
      workdirs.claim(self.directory, ml_collections.ConfigDict(given))
      workdirs.claim(self.directory, _config(''))
    with self.assertRaisesRegex(ValueError, 'seed is 0 there, 1 here'):
      changed = ml_collections.ConfigDict({'seed': 1, 'track': ''})
      workdirs.claim(self.directory, changed)


if __name__ == '__main__':
  absltest.main()
