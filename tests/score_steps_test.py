"""The pipeline with a step scorer: its files, its rows, and its refusals."""

import json
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from configs import arithmetic
from configs import gsm8k_qwen25_coder
from configs import paper
from experiments import evaluate
from experiments import pipeline
from experiments import workdirs
from experiments.scoring import score_steps
import routing
from routing.engines import process_reward
from routing.engines import step_scorer
from routing.shards import reader
from tests import flow_test
from tests import tiny_qwen


@pytest.mark.usefixtures('lightly_optimized')
class PipelineTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)
    self.model = pathlib.Path(self.create_tempdir().full_path)
    tiny_qwen.save_process_reward(self.model, 0)
    self.config = flow_test.small('escalate')
    self.config.evaluation.update(
        learners=(), num_live=0, num_coverage_samples=0
    )
    self.config.scorer.model = str(self.model)

  def _results(self):
    return json.loads((self.workdir / evaluate.RESULTS_FILE).read_text())

  @pytest.mark.slow
  def test_two_rows_and_what_stops_them(self):
    pipeline.run(self.config, self.workdir, lambda _: None)
    self._check_scores()
    for figures in self._results()['cost_metrics'].values():
      self.assertEmpty(figures['left_out'])
      methods = figures['methods']
      charged = methods['step score']['curve']['cost']
      free = methods['step score, free']['curve']['cost']
      self.assertGreaterEqual(min(charged), min(free))
    flops = self._results()['cost_metrics']['flops']['methods']
    self.assertGreater(
        min(flops['step score']['curve']['cost']),
        min(flops['step score, free']['curve']['cost']),
    )
    table = (self.workdir / 'table.md').read_text()
    self.assertIn('| step score threshold (PRM) |', table)
    self.assertIn('| step score threshold (PRM), PRM not charged |', table)
    self._check_resumes()
    self._check_other_scorers()

  def _check_scores(self):
    """Compares the saved scores with those of one answer at a time."""
    scorer = process_reward.ProcessRewardModel(self.model)
    for split in score_steps.SPLITS:
      found = score_steps.read(self.config, self.workdir, split)
      ladders = reader.read_ladders(self.workdir / 'shards' / split)
      self.assertLen(found, len(ladders))
      for ladder in ladders:
        steps = [x.text for x in ladder.steps[: ladder.num_decisions]]
        (alone,) = scorer.score([(ladder.problem.question, steps)])
        scores = found[ladder.problem.id]
        np.testing.assert_allclose(scores.scores, alone.scores, atol=1e-5)
        np.testing.assert_array_equal(scores.read, alone.read)

  def _check_resumes(self):
    """A file that is missing is scored again, and no other."""
    where = score_steps.directory(self.workdir, 'test')
    kept, lost = sorted(where.glob('*.parquet'))[:2]
    before, time = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    with self.assertRaisesRegex(ValueError, 'not all scored'):
      evaluate.evaluate(self.config, self.workdir)
    said = []
    pipeline.run(self.config, self.workdir, said.append)
    self.assertTrue(any('score steps' in x for x in said))
    self.assertEqual(kept.stat().st_mtime_ns, time)
    # The seconds differ; the size is that of the same rows.
    self.assertAlmostEqual(len(lost.read_bytes()), len(before), delta=200)

  def _check_other_scorers(self):
    """Scores of another scorer, or the same name with other weights."""
    config = self.config.copy_and_resolve_references()
    config.scorer.settings = dict(system='Other.')
    with self.assertRaisesRegex(ValueError, "system .* 'Other.'"):
      score_steps.read(config, self.workdir, 'test')
    tiny_qwen.save_process_reward(self.model, 1)
    with self.assertRaisesRegex(ValueError, 'scores with identity'):
      score_steps.score_all(self.config, self.workdir)


class SharedTest(absltest.TestCase):
  """Scores of ladders in a shared directory that holds more of them."""

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)
    self.config = gsm8k_qwen25_coder.get_config('shipped')
    self.config.scorer.model = 'shipped/reward'
    self.config.problems.update(select=20, test=0)
    self.asked = []

  def _score(self, split):
    """Gives each step of the ladders of a split the score 1."""

    def score(answers):
      self.asked.extend(question for question, _ in answers)
      return [
          step_scorer.StepScores(*[np.ones(len(steps))] * 3)
          for _, steps in answers
      ]

    scorer = mock.Mock(score=score)
    score_steps.score_split(self.config, self.workdir, split, scorer)

  def _read(self):
    return score_steps.read(self.config, self.workdir, 'select')

  def test_only_the_problems_of_the_run_are_scored(self):
    self._score('select')
    first = routing.load_ladders('qwen25_coder', 'select')[:20]
    self.assertEqual(self.asked, [x.problem.question for x in first])
    self.assertEqual(list(self._read()), [x.problem.id for x in first])
    # With more problems, some have no score yet.
    self.config.problems.update(select=21)
    with self.assertRaisesRegex(ValueError, 'num_problems 20; here it is 21'):
      self._read()
    # Earlier, all problems were scored, and the key did not say how many.
    key = score_steps.directory(self.workdir, 'select') / score_steps.KEY_FILE
    content = json.loads(key.read_text())
    del content['num_problems']
    key.write_text(json.dumps(content))
    self.assertLen(self._read(), 20)

  def test_the_stage_is_done_once_both_splits_are_scored(self):
    stages = pipeline.stages(self.config, self.workdir)
    (stage,) = [x for x in stages if x.name == score_steps.STAGE]
    self._score('select')
    self.assertFalse(stage.is_done())
    self._score('test')  # Without problems, it has no scores either.
    self.assertTrue(stage.is_done())
    self.config.scorer.settings = dict(system='Other.')
    self.assertFalse(stage.is_done())
    self.config.scorer.settings = {}
    where = score_steps.directory(self.workdir, 'select')
    next(where.glob('*.parquet')).unlink()
    self.assertFalse(stage.is_done())


class SettingsTest(parameterized.TestCase):

  def test_off_unless_a_model_is_named(self):
    config = arithmetic.get_config('smoke')
    workdir = pathlib.Path(self.create_tempdir().full_path)
    stages = pipeline.stages(config, workdir)
    self.assertNotIn('score steps', [x.name for x in stages])
    with self.assertRaisesRegex(ValueError, 'scorer.model is empty'):
      score_steps.score_all(config, workdir)

  @parameterized.parameters(
      ('scorer.settings', {'batch': 3}, "scorer.settings.*'batch'"),
      ('data.kind', 'rollouts', 'steps are scored in ladders only'),
  )
  def test_what_is_not_allowed(self, field, value, message):
    config = arithmetic.get_config('smoke')
    config.scorer.model = 'tiny'
    config.update_from_flattened_dict({field: value})
    with self.assertRaisesRegex(ValueError, message):
      score_steps.check(config)

  def test_a_directory_from_before_scorers_is_the_same_run(self):
    config = arithmetic.get_config('smoke')
    workdir = pathlib.Path(self.create_tempdir().full_path)
    saved = json.loads(config.to_json_best_effort())
    del saved['scorer']
    (workdir / 'config.json').write_text(json.dumps(saved))
    workdirs.claim(workdir, config)
    config.scorer.model = 'tiny'
    with self.assertRaisesRegex(ValueError, "scorer.model is '' there"):
      workdirs.claim(workdir, config)

  def test_the_papers_scorer(self):
    for variant in ('gsm8k', 'math', 'omni_math'):
      config = paper.get_config(variant)
      self.assertEqual(config.scorer.model, 'Qwen/Qwen2.5-Math-PRM-7B')
    self.assertFalse(score_steps.is_on(paper.get_config('gpt41_mini')))
    self.assertFalse(score_steps.is_on(paper.get_config('gsm8k-tiny')))


if __name__ == '__main__':
  absltest.main()
