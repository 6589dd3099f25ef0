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
from tests import results_test
from tests import wandb_files

_ROWS = (
    (10, {'loss': np.float32(0.5), 'multiplier': np.array([0.1, 0.2])}),
    (20, {'loss': 0.25, 'multiplier': [0.3, float('-inf')]}),
)


def _config(kind):
  return ml_collections.ConfigDict({'track': kind, 'seed': 0})


def read_scalars(folder: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
  """Returns tag -> (step, value) pairs of TensorBoard's files in a folder.

  Skips the test where TensorBoard is not installed.
  """
  pytest.importorskip('tensorboardX', reason='Needs the extra `track`.')
  accumulator = pytest.importorskip(
      'tensorboard.backend.event_processing.event_accumulator',
      reason='Needs tensorboard, which reads what the extra `track` writes.',
  )
  events = accumulator.EventAccumulator(str(folder))
  events.Reload()
  return {
      tag: [(x.step, x.value) for x in events.Scalars(tag)]
      for tag in events.Tags()['scalars']
  }


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
    self._track('tensorboard')
    # A resumed run repeats step 20, which the first one may have written.
    self._track('tensorboard', [(20, {'loss': 0.125})])
    found = read_scalars(self.directory / 'tensorboard')
    self.assertCountEqual(found, ['loss', 'multiplier/0', 'multiplier/1'])
    self.assertEqual(found['loss'], [(10, 0.5), (20, 0.125)])

  def test_figures_that_a_stage_ends_with(self):
    pytest.importorskip('tensorboardX', reason='Needs the extra `track`.')
    config = _config('tensorboard')
    self._track('tensorboard')
    for loss in (0.5, 0.25):  # The second time replaces the first.
      row = {'loss<=0.1@0.9/loss': loss, 'area': None, 'cost': float('inf')}
      tracking.final(config, self.directory, 'a run', 'evaluation', row)
    folder = self.directory / 'tensorboard'
    self.assertEqual(
        read_scalars(folder / 'evaluation'),
        {'loss_0.1_0.9/loss': [(0, 0.25)]},
    )
    # The curves of training are left as they are.
    self.assertLen(read_scalars(folder)['loss'], 2)
    before = sorted(self.directory.rglob('*'))
    tracking.final(_config(''), self.directory, 'a run', 'x', {'loss': 1.0})
    self.assertEqual(sorted(self.directory.rglob('*')), before)

  def test_figures_of_results(self):
    results, _ = results_test.make_results(60, 20)
    row = tracking.of_results(results)
    point = results['operating_points'][0]
    self.assertEqual(row[f'{point["name"]}/cost'], point['cost'])
    self.assertEqual(row[f'{point["name"]}/loss'], point['loss']['mean'])
    accuracy = point['accuracy']['mean']
    self.assertEqual(row[f'{point["name"]}/accuracy'], accuracy)
    methods = results['cost_metrics']['flops']['methods']
    area = methods['policy']['area']['mean']
    self.assertEqual(row['flops/policy/area'], area)
    gap = methods['oracle']['mean_gap_recovered']
    self.assertEqual(row['flops/oracle/gap recovered'], gap)
    self.assertLen(row, 3 + 2 * 2 * len(methods))

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

  def test_final_figures_in_wandb_offline(self):
    wandb = pytest.importorskip('wandb', reason='Needs the extra `track`.')
    with pytest.MonkeyPatch.context() as patch:
      patch.setenv('WANDB_MODE', 'offline')
      patch.setenv('WANDB_SILENT', 'true')
      self._track('wandb')
      given = (self.directory, 'a run', 'evaluation')
      row = {'loss<=0.1@0.9/loss': 0.25, 'flops/policy/area': None}
      tracking.final(_config('wandb'), *given, row, {'a.kind': 'gru'})
      wandb.teardown()  # Waits for the process that writes the file.
    found = wandb_files.summaries(self.directory / 'wandb')
    ours = {x: y for x, y in found.items() if x.startswith('evaluation/')}
    self.assertEqual(ours, {'evaluation/loss<=0.1@0.9/loss': 0.25})
    logs = sorted(self.directory.glob('wandb/offline-run-*/*.wandb'))
    # One run, written in two pieces that are joined when they are sent.
    self.assertLen({x.name for x in logs}, 1)
    self.assertIn(b'a.kind', logs[-1].read_bytes())

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
