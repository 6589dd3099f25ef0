"""The pipeline with more prove problems than before: which stages rerun."""

import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import pytest

from experiments import calibrate
from experiments import evaluate
from experiments import pipeline
from experiments import train
from experiments import workdirs
import routing
from routing.calibration import looks as looks_lib
from routing.shards import reader
from tests import flow_test


def _files(directory):
  return {x: x.read_bytes() for x in directory.rglob('*') if x.is_file()}


@pytest.mark.usefixtures('lightly_optimized')
class GrowingFlowTest(absltest.TestCase):

  def _run(self, prove, **calibration):
    """Returns what the pipeline reports about each stage."""
    self.config.problems.prove = prove
    self.config.calibration.update(calibration)
    said = []
    pipeline.run(self.config, self.workdir, said.append)
    found, title = {}, ''
    for line in said:
      # 'Stage 1 of 8: train, done before: ...', or the title alone, followed by
      # '  again, 3 s: ...' once the stage has ended.
      if line.startswith('Stage '):
        title, _, how = line.split(': ', 1)[1].partition(', done before')
        if how:
          found[title] = 'done before'
      else:
        found[title] = line.strip().split(',')[0]
    return found

  def _ladders(self):
    return reader.read_ladders(self.workdir / 'shards' / 'prove')

  @pytest.mark.slow
  def test_when_prove_grows_the_later_stages_run_again(self):
    self.config = flow_test.small('escalate')
    self.config.evaluation.update(
        learners=(), num_live=0, num_coverage_samples=0
    )
    self.config.calibration.alphas = (0.3, 0.6)
    self.workdir = pathlib.Path(self.create_tempdir().full_path)
    self.directory = train.run_directory(self.workdir, 0)
    self._run(6, procedure='growing')
    first = self._ladders()
    full = self.workdir / 'shards' / 'prove' / 'ladders-00000.parquet'
    before, points = full.read_bytes(), self._points()

    said = self._run(13)
    self.assertEqual(
        {name for name, took in said.items() if took != 'done before'},
        {'collect ladders prove', 'calibrate', 'evaluate', 'report'},
    )
    self.assertEqual(said['collect ladders prove'], 'resumed')
    self.assertEqual(said['calibrate'], 'again')
    # Nothing was collected twice, and each problem is there once.
    self.assertEqual(full.read_bytes(), before)
    grown = self._ladders()
    self.assertLen(grown, 13)
    self.assertLen({x.problem.id for x in grown}, 13)
    self.assertEqual([x.problem for x in grown[:6]], [x.problem for x in first])
    looks = looks_lib.read(self.directory / looks_lib.FILE_NAME)
    self.assertEqual([x.num_problems for x in looks], [6, 13])
    self.assertNotEqual(self._points(), points)
    self.assertLen(routing.load(self.directory).seen.prove, 13)
    results = json.loads((self.workdir / 'results.json').read_text())
    self.assertEqual(results['num_problems']['prove'], 13)
    self.assertEqual(results['config']['problems']['prove'], 13)

    files = _files(self.workdir)
    said = self._run(13)
    self.assertEqual(set(said.values()), {'done before'})
    self.assertEqual(_files(self.workdir), files)
    for prove, procedure in ((12, 'growing'), (14, 'fixed_sequence')):
      with self.assertRaisesRegex(ValueError, 'another configuration'):
        self._run(prove, procedure=procedure)
    self.assertEqual(_files(self.workdir), files)
    self._stale()

  def _points(self):
    names = 'operating_points.json', 'refused_points.json'
    return [json.loads((self.directory / x).read_text()) for x in names]

  def _stale(self):
    """Checks that files changed by another stage count as not done."""
    path = self.directory / 'operating_points.json'
    right = path.read_bytes()
    path.write_text('[]')
    said = self._run(13, procedure='growing')
    self.assertEqual(path.read_bytes(), right)
    self.assertEqual(said['calibrate'], 'again')
    # The points are again those that were evaluated.
    self.assertEqual(said['evaluate'], 'done before')
    self.assertEqual(said['report'], 'done before')
    # Calibrated and evaluated with another budget.
    (self.directory / looks_lib.FILE_NAME).unlink()
    self.config.calibration.update(budgets=(0.95,))
    calibrate.calibrate_all(self.config, self.workdir)
    evaluate.evaluate(self.config, self.workdir)
    self.assertIn('cost<=0.95', (self.workdir / 'results.json').read_text())
    (self.directory / looks_lib.FILE_NAME).unlink()
    said = self._run(13, budgets=(0.9,))
    self.assertEqual(said['calibrate'], 'again')
    self.assertEqual(said['evaluate'], 'again')
    # The results are again those that were reported.
    self.assertEqual(said['report'], 'done before')
    self.assertNotIn('cost<=0.95', (self.workdir / 'results.json').read_text())
    # The split is missing.
    manifest = self.workdir / 'shards' / 'prove' / 'manifest.json'
    manifest.unlink()
    for shard in manifest.parent.glob('*.parquet'):
      shard.unlink()
    stages = {x.name: x for x in pipeline.stages(self.config, self.workdir)}
    self.assertFalse(stages['calibrate'].is_done())
    self.assertFalse(stages['evaluate'].is_done())
    self.assertTrue(stages['report'].is_done())
    # Collecting again gives other outcomes, hence another look.
    with self.assertRaisesRegex(ValueError, 'then: the recorded outcomes'):
      self._run(13)


class ClaimTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)
    self.config = flow_test.small('escalate')
    self.config.calibration.procedure = 'growing'
    workdirs.claim(self.workdir, self.config)
    self.before = (self.workdir / 'config.json').read_text()

  def test_more_problems_of_prove_are_recorded(self):
    self.config.problems.prove += 1
    workdirs.claim(self.workdir, self.config)
    found = json.loads((self.workdir / 'config.json').read_text())
    self.assertEqual(found['problems']['prove'], 9)
    self.config.problems.prove -= 1
    with self.assertRaisesRegex(ValueError, 'prove is 9 there, 8 here'):
      workdirs.claim(self.workdir, self.config)

  @parameterized.parameters(
      ('problems.prove', 7),
      ('problems.test', 10),
      ('problems.select', 9),
      ('seed', 1),
      ('calibration.delta', 0.2),
      ('calibration.procedure', 'fixed_sequence'),
  )
  def test_nothing_else_may_change(self, name, value):
    if name != 'problems.prove':
      self.config.problems.prove += 1
    self.config.update_from_flattened_dict({name: value})
    with self.assertRaisesRegex(ValueError, 'another configuration'):
      workdirs.claim(self.workdir, self.config)
    self.assertEqual((self.workdir / 'config.json').read_text(), self.before)


if __name__ == '__main__':
  absltest.main()
