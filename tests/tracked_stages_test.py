"""Tests of what calibration, evaluation and a sweep send to a tracker."""

import json
import pathlib

from absl.testing import absltest
import ml_collections
import pytest

from experiments import evaluate
from experiments import pipeline
from experiments import sweep_table
from experiments import sweep_tracking
from experiments import tracking
from experiments import train
from routing.routers import learned
from tests import flow_test
from tests import tracking_test


def last_values(folder: pathlib.Path) -> dict[str, float]:
  """Returns tag -> the only value of TensorBoard's files in a folder."""
  found = tracking_test.read_scalars(folder)
  assert all(len(x) == 1 for x in found.values()), found
  return {name: value for name, ((_, value),) in found.items()}


@pytest.mark.usefixtures('lightly_optimized')
class StagesTest(absltest.TestCase):

  @pytest.mark.slow
  def test_a_pipeline_sends_what_its_files_say(self):
    pytest.importorskip('tensorboardX', reason='Needs the extra `track`.')
    config = flow_test.small('escalate')
    config.track = 'tensorboard'
    workdir = pathlib.Path(self.create_tempdir().full_path)
    pipeline.run(config, workdir, lambda line: None)
    run = train.run_directory(workdir, 0)
    curves = tracking_test.read_scalars(run / 'tensorboard')
    last, _ = curves['validation_score/0'][-1]
    self.assertEqual(last, config.num_steps)

    found = last_values(run / 'tensorboard' / 'calibration')
    points = json.loads((run / learned.POINTS_FILE).read_text())
    self.assertLen(found, 1 + 3 * len(points))
    for point in points:
      for name in ('accuracy', 'cost', 'loss'):
        self.assertAlmostEqual(
            found[tracking.tag(f'{point["name"]}/{name}')],
            point['promise']['measured'][name],
            places=6,
        )

    found = last_values(workdir / 'tensorboard' / 'evaluation')
    results = json.loads((workdir / evaluate.RESULTS_FILE).read_text())
    wanted = tracking.scalars(tracking.of_results(results))
    self.assertContainsSubset(
        {'cost<=0.9/loss', 'price/policy/area', 'flops/fitted Q, linear/area'},
        wanted,
    )
    self.assertCountEqual(found, map(tracking.tag, wanted))
    for name, value in wanted.items():
      self.assertAlmostEqual(found[tracking.tag(name)], value, places=5)


class SweepTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)
    self.config = ml_collections.ConfigDict({'track': 'tensorboard', 'seed': 0})

  def write(self, area):
    rows = [
        {'a.kind': 'gru', 'seed': 0, 'area': 0.25},
        {'a.kind': 'gru', 'seed': 1, 'area': 0.75},
        {'a.kind': 'mlp', 'seed': 0, 'area': area},
        {'b.steps': 9, 'seed': 0},
    ]
    sweep_table.write(rows, ['a.kind', 'b.steps', 'seed'], self.workdir)

  def row(self, name):
    folder = self.workdir / sweep_tracking.FOLDER / name / 'tensorboard'
    return last_values(folder / sweep_tracking.STAGE)

  def test_each_row_of_the_table_is_a_run(self):
    pytest.importorskip('tensorboardX', reason='Needs the extra `track`.')
    self.write(0.5)
    sent = sweep_tracking.send(self.config, self.workdir)
    self.assertEqual(sent, ['kind=gru', 'kind=mlp', 'steps=9'])
    # Two runs, with a mean of .5 and a standard deviation of .25 * sqrt(2).
    gru = self.row('kind=gru')
    self.assertAlmostEqual(gru.pop('area_spread'), 0.25 * 2**0.5, places=6)
    self.assertEqual(gru, {'runs': 2.0, 'area_mean': 0.5})
    self.assertEqual(self.row('kind=mlp'), {'runs': 1.0, 'area_mean': 0.5})
    self.assertEqual(self.row('steps=9'), {'runs': 1.0})
    # Again, only what has changed.
    self.assertEmpty(sweep_tracking.send(self.config, self.workdir))
    self.write(0.625)
    sent = sweep_tracking.send(self.config, self.workdir)
    self.assertEqual(sent, ['kind=mlp'])
    self.assertEqual(self.row('kind=mlp')['area_mean'], 0.625)

  def test_nothing_is_sent_by_default(self):
    self.write(0.5)
    self.config.track = ''
    self.assertEmpty(sweep_tracking.send(self.config, self.workdir))
    self.assertFalse((self.workdir / sweep_tracking.FOLDER).exists())


if __name__ == '__main__':
  absltest.main()
