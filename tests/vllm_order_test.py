"""Tests that vLLM's cache and its defaults change no number that is recorded.

The models are tiny, with weights at random.
"""

import asyncio
import importlib.util
import json
import pathlib
import unittest

from absl.testing import absltest
import numpy as np

from configs import arithmetic_vllm
from experiments import builders
from routing.engines import vllm
from tests import sessions

_COMMON = 'The first forty tokens are the same for each '  # A token is a byte.
_QUESTIONS = tuple(_COMMON + x for x in ('apple?', 'pear, or two?', 'fig'))


@unittest.skipUnless(
    importlib.util.find_spec('vllm'), 'vllm is not installed here'
)
class OrderTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    from tests import tiny_qwen  # It needs torch, as vLLM does.

    builders.set_environment(arithmetic_vllm.get_config())
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    tiny_qwen.save(self.folder, 0, num_layers=2)

  def _write(self, questions, temperature=0.0, shares=True, **fields):
    """Writes an answer to each question, one after the other."""
    settings = vllm.Settings(
        max_length=256,
        cache_bytes=64 << 20,
        num_slots=4,
        speculates=False,
        shares_prefix=shares,
        enforce_eager=True,
    )

    async def run():
      engine = vllm.VllmEngine('tiny', 0, self.folder, settings, **fields)
      try:
        steps = {}
        for question in questions:
          asked = sessions.ask(
              question, to_end=True, max_tokens=24, temperature=temperature
          )
          ((steps[question], *_),) = await sessions.write_all(engine, [asked])
        return steps
      finally:
        await engine.close()

    return asyncio.run(run())

  def test_the_order_of_prompts_changes_no_log_prob(self):
    forward, backward = self._write(_QUESTIONS), self._write(_QUESTIONS[::-1])
    for question in _QUESTIONS:
      one, other = forward[question], backward[question]
      self.assertEqual(one.token_ids, other.token_ids)
      self.assertEqual(one.usage.read, other.usage.read)
      self.assertEqual(one.usage.cached, other.usage.cached)
      np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-5)
      np.testing.assert_allclose(
          one.top_log_probs, other.top_log_probs, atol=1e-5
      )

  def test_only_what_a_route_names_changes_the_distribution(self):
    greedy = self._write(_QUESTIONS[:1])
    # At any temperature, the best token of one is the best token.
    (one,) = self._write(
        _QUESTIONS[:1], temperature=2.0, sampling={'top_k': 1}
    ).values()
    self.assertEqual(one.token_ids, greedy[_QUESTIONS[0]].token_ids)
    (free,) = self._write(_QUESTIONS[:1], temperature=2.0).values()
    self.assertNotEqual(free.token_ids, one.token_ids)
    # The file of sampling defaults has no effect.
    (self.folder / 'generation_config.json').write_text(
        json.dumps({'top_k': 1})
    )
    (filed,) = self._write(_QUESTIONS[:1], temperature=2.0).values()
    self.assertEqual(filed.token_ids, free.token_ids)


if __name__ == '__main__':
  absltest.main()
