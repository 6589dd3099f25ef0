"""The embedded engine writes the same through a server as without one."""

import asyncio

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.engines import embedded
from routing.engines import endpoint as endpoint_lib
from routing.engines import openai
from routing.engines import prompts
from routing.lm import export
from routing.lm import tokenizer as tokenizer_lib
from routing.tasks import arithmetic
from tests import openai_server
from tests import sessions

_VOCABULARY = tokenizer_lib.Tokenizer()
# The shipped model: an untrained one may spell the delimiter with two tokens,
# where the embedded engine does not stop.
_SMALL = export.load_pretrained(export.shipped('small'))
_QUESTIONS = [p.question for p in arithmetic.load(1, test=6)['test']]


def _embedded():
  return embedded.EmbeddedEngine('small', 0, *_SMALL, _VOCABULARY)


def _model():
  """Returns the embedded engine as a model; prompts are not split."""
  decode = lambda i: '' if i == _VOCABULARY.eos_id else _VOCABULARY.decode([i])
  return openai_server.Model(_embedded(), decode, can_stop=True)


async def _write_all(engine, requests):
  try:
    return await sessions.write_all(engine, requests)
  finally:
    await engine.close()


def _client(url, mode='completions'):
  """Returns an engine for a server that reports all that vLLM reports."""
  return openai.OpenAIEngine(
      'served',
      0,
      endpoint_lib.Endpoint(
          url, 'm', mode, is_vllm=True, num_log_probs=3, seeds=True
      ),
      prompter=prompts.Prompter(
          prompts.load_tokenizer(export.shipped('small'))
      ),
  )


class TwinTest(parameterized.TestCase):

  def _check_same(self, served, direct):
    for ours, theirs in zip(served, direct, strict=True):
      self.assertEqual([s.text for s in ours], [s.text for s in theirs])
      for a, b in zip(ours, theirs, strict=True):
        self.assertEqual(a.token_ids, b.token_ids)
        self.assertEqual(a.is_final, b.is_final)
        for name in ('route', 'read', 'cached', 'written'):
          self.assertEqual(getattr(a.usage, name), getattr(b.usage, name))
        np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-4)
        np.testing.assert_allclose(
            a.top_log_probs, b.top_log_probs[:, :3], atol=1e-4
        )

  @parameterized.product(
      mode=['completions', 'chat'], to_end=[True, False], temperature=[0.0, 1.0]
  )
  def test_writes_the_same(self, mode, to_end, temperature):
    requests = [
        sessions.ask(
            question,
            to_end=to_end,
            max_tokens=100,
            temperature=temperature,
            seed=i,
        )
        for i, question in enumerate(_QUESTIONS)
    ]
    with openai_server.serve(openai_server.make_app(_model())) as url:
      served = asyncio.run(_write_all(_client(url, mode), requests))
    direct = asyncio.run(_write_all(_embedded(), requests))
    self._check_same(served, direct)

  def test_a_session_has_a_cache_of_its_own(self):
    async def run(engine):
      steps, named = [], sessions.Sessions(engine)
      for session, trace in (('a', ()), ('a', (0,)), ('b', (0,))):
        asked = sessions.ask(
            _QUESTIONS[0],
            trace=''.join(steps[i][0].text for i in trace),
            session=session,
            max_tokens=100,
        )
        steps.append(await named.write(asked))
      await engine.close()
      return steps

    with openai_server.serve(openai_server.make_app(_model())) as url:
      served = asyncio.run(run(_client(url)))
    self._check_same(served, asyncio.run(run(_embedded())))
    first, again, other = (step.usage for (step,) in served)
    self.assertEqual((first.cached, again.read, other.cached), (0, 0, 0))
    self.assertEqual(again.cached, first.read + first.written)
    self.assertEqual(other.read, again.cached)


if __name__ == '__main__':
  absltest.main()
