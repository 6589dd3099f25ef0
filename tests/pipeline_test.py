"""Tests of the pipeline: finished stages are skipped, bad input is rejected."""

import dataclasses
import pathlib
import subprocess
import sys
from unittest import mock

from absl.testing import absltest

from configs import arithmetic
from experiments import pipeline
from experiments import workdirs
from routing.shards import manifest as manifest_lib


def _run_command(*arguments):
  """The command as a user types it."""
  return subprocess.run(
      [sys.executable, '-m', 'experiments.pipeline', *arguments],
      capture_output=True,
      text=True,
      check=False,
  )


class PipelineTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)
    self.config = arithmetic.get_config('smoke')

  def _stages(self, calls):
    """Returns two stages that write one file each; the first one resumes."""

    def stage(name, resumes):
      path = self.workdir / f'{name}.txt'

      def run():
        calls.append(name)
        path.write_text(name)

      return pipeline.Stage(name, run, (path,), resumes=resumes)

    return [stage('collect', True), stage('report', False)]

  def test_settings_of_all_stages_are_checked_first(self):
    for field, value, said in (
        ('task.name', 'gsm', "Unknown task 'gsm'"),
        ('routes', (), r'routes has the names \[\]'),
        ('protocol.view', 'blind', "no view 'blind'"),
        ('collect.samples', 0, 'num_samples is 0'),
        ('collect.limits.attempts', 0, 'attempts is 0'),
        ('collect.concurrency', 999, 'concurrency is 999; allowed: at most'),
        ('objective.policy_update', 'sgd', "policy_update 'sgd'"),
        ('behaviour.kind', 'greedy', "Unknown behaviour.kind 'greedy'"),
        ('cost_metric', 'flps', "Unknown cost metric 'flps'"),
        ('objective.form', 'loss', "Unknown objective form 'loss'"),
        ('objective.estimator', 'ppo', "Unknown objective.estimator 'ppo'"),
        ('network.kind', 'lstm', "Unknown network kind 'lstm'"),
        ('features.groups', ('words',), "features.groups contains 'words'"),
        ('calibration.procedure', 'best', "procedure is 'best'"),
        ('evaluation.learners', ('svm',), "contains 'svm'"),
        ('evaluation.num_trials', 7, 'trials is 7; allowed: 1 to 6'),
    ):
      config = arithmetic.get_config('smoke')
      config.objective.update(estimator='exact', policy_update='lagrangian')
      config.behaviour = dict(kind='rate')
      config.update_from_flattened_dict({field: value})
      with self.assertRaisesRegex(ValueError, said):
        pipeline.run(config, self.workdir)
      self.assertEmpty(list(self.workdir.iterdir()))

  def test_only_unfinished_stages_run_again(self):
    calls, said = [], []
    with mock.patch.object(pipeline, 'stages', lambda *_: self._stages(calls)):
      files = pipeline.run(self.config, self.workdir, said.append)
      self.assertEqual(calls, ['collect', 'report'])
      pipeline.run(self.config, self.workdir, said.append)
    # The resuming stage checks its own files; the finished one is skipped.
    self.assertEqual(calls, ['collect', 'report', 'collect'])
    self.assertIn('done before', said[-1])
    # A line before each stage, and one after it.
    self.assertEqual(said[0], 'Stage 1 of 2: collect')
    self.assertEqual(said[2], 'Stage 2 of 2: report')
    for line, path in zip((said[1], said[3]), files, strict=True):
      self.assertIn(path.name, line)

  def test_a_stage_with_changed_inputs_runs_again(self):
    calls, said, is_current = [], [], [True]
    stages = self._stages(calls)
    stages[1] = dataclasses.replace(stages[1], is_current=lambda: is_current[0])
    with mock.patch.object(pipeline, 'stages', lambda *_: stages):
      pipeline.run(self.config, self.workdir, said.append)
      pipeline.run(self.config, self.workdir, said.append)
      self.assertEqual(calls.count('report'), 1)
      is_current[0] = False
      pipeline.run(self.config, self.workdir, said.append)
    self.assertEqual(calls.count('report'), 2)
    self.assertIn('again, 0 s', said[-1])

  def test_an_interrupted_collection_is_not_done(self):
    (stage,) = (
        x
        for x in pipeline.stages(self.config, self.workdir)
        if x.name == 'collect ladders test'
    )
    manifest = manifest_lib.Manifest({}, 48, 16)
    stage.files[0].parent.mkdir(parents=True)
    manifest_lib.save(stage.files[0].parent, manifest)
    self.assertFalse(stage.is_done())
    said, run = [], lambda: self._complete(stage.files[0].parent, manifest)
    stage = dataclasses.replace(stage, run=run)
    with mock.patch.object(pipeline, 'stages', lambda *_: [stage]):
      pipeline.run(self.config, self.workdir, said.append)
      pipeline.run(self.config, self.workdir, said.append)
    self.assertIn('resumed, 0 s', said[1])
    self.assertIn('done before', said[2])
    # Fewer problems than the configuration asks for.
    self.config.problems.test = 49
    self.assertFalse(stage.is_done())

  def _complete(self, directory, manifest):
    """Lists shards of all problems."""
    for first in (0, 16, 32):
      entry = manifest_lib.ShardEntry(f'{first}.parquet', first, 16, '')
      manifest = manifest.with_shard(entry)
    manifest_lib.save(directory, manifest)

  def test_the_stages_are_in_order_and_name_their_files(self):
    stages = pipeline.stages(self.config, self.workdir)
    self.assertEqual(
        [stage.name.split()[0] for stage in stages],
        ['collect'] * 4 + ['train', 'calibrate', 'evaluate', 'report'],
    )
    self.assertFalse(any(stage.is_done() for stage in stages))

  def test_the_directory_of_another_configuration_is_refused(self):
    workdirs.claim(self.workdir, self.config)
    before = (self.workdir / 'config.json').read_text()
    done = _run_command(
        '--config=configs/arithmetic.py:smoke',
        '--config.cost_metric=flops',
        f'--workdir={self.workdir}',
    )
    self.assertNotEqual(done.returncode, 0)
    last = done.stderr.strip().splitlines()[-1]
    self.assertIn("cost_metric is 'price' there, 'flops' here", last)
    self.assertEqual((self.workdir / 'config.json').read_text(), before)
    self.assertLen(list(self.workdir.iterdir()), 1)

  def test_a_misspelt_field_is_refused_with_the_right_one(self):
    done = _run_command(
        '--config=configs/arithmetic.py:smoke',
        '--config.cost_metrik=flops',
        f'--workdir={self.workdir}/new',
    )
    self.assertNotEqual(done.returncode, 0)
    self.assertIn("Did you mean 'cost_metric'", done.stderr)
    self.assertFalse((self.workdir / 'new').exists())


if __name__ == '__main__':
  absltest.main()
