"""Log-probabilities in service, of models behind OpenAI-compatible servers."""

import contextlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import openai

from routing import types
from routing.engines import endpoint as endpoint_lib
from routing.engines import openai as openai_engine
from routing.engines import openai_responses
from routing.engines import segmentation
from routing.tasks import prompt as prompt_lib
from tests import openai_server
from tests import router_server
from tests import scripted_pair

_TEXT = '13\n\n14\n\n15\n\n16\n\n17\n\n#### 17'  # Four steps by the larger one.


def _split(prompt):
  question, newline, trace = prompt.partition('\n')
  return question + newline, trace


def _log_probs(text):
  """Returns -0.5 for each token; of '15' the server says no number."""
  found = np.full(len(text), -0.5, np.float32)
  if text.startswith('15'):
    found[1] = -9999.0
  return found


class ServedLogProbsTest(router_server.ServedCase):

  def serve_pair(self, *, is_vllm, log_probs=None, **fields):
    """Serves a router whose models are behind servers; returns a client."""
    engines = []
    for engine in scripted_pair.make_engines(2):
      name, route = engine.name, engine.route
      if log_probs is not None:
        engine.log_probs = log_probs
      model = openai_server.Model(engine, split=_split, is_vllm=is_vllm)
      url = self.enter_context(
          openai_server.serve(openai_server.make_app(model))
      )
      endpoint = endpoint_lib.Endpoint(
          url, 'm', is_vllm=is_vllm, **({'num_log_probs': 2} | fields)
      )
      prompt = prompt_lib.Prompt(is_chat=endpoint.mode != 'completions')
      engines.append(
          openai_engine.OpenAIEngine(name, route, endpoint, prompt=prompt)
      )
    running, client = self.serve(engines=engines)
    made = openai.OpenAI(
        base_url=f'{running.url}/v1', api_key='none', max_retries=0
    )
    return client, self.enter_context(contextlib.closing(made))

  def ask(self, client, **fields):
    return client.chat.completions.create(
        **router_server.body(logprobs=True), **fields
    )

  @parameterized.parameters(
      dict(is_vllm=True),
      dict(is_vllm=False),  # It leaves the stop string out of the text.
      dict(is_vllm=True, mode='chat'),
  )
  def test_the_tokens_are_those_of_the_text(self, **fields):
    _, client = self.serve_pair(**fields)
    whole = self.ask(client).choices[0]
    self.assertEqual(whole.message.content, _TEXT)
    self.assertEqual([x.token for x in whole.logprobs.content], list(_TEXT))
    self.assertEqual({x.logprob for x in whole.logprobs.content}, {-0.5})
    text = ''
    for chunk in self.ask(client, stream=True):
      choice = chunk.choices[0]
      tokens = [x.token for x in choice.logprobs.content]
      self.assertEqual(''.join(tokens), choice.delta.content)
      text += choice.delta.content
    self.assertEqual(text, _TEXT)

  def test_a_step_without_all_numbers_has_none(self):
    _, client = self.serve_pair(is_vllm=True, log_probs=_log_probs)
    whole = self.ask(client).choices[0]
    self.assertEqual(whole.message.content, _TEXT)
    tokens = ''.join(x.token for x in whole.logprobs.content)
    self.assertEqual(tokens, _TEXT.replace('15\n\n', ''))
    found = client.completions.create(
        model='router@cost<=0.5', prompt=router_server.QUESTION, logprobs=0
    )
    offsets = found.choices[0].logprobs.text_offset
    self.assertEqual(offsets, [*range(8), *range(12, len(_TEXT))])

  @parameterized.parameters(
      dict(is_vllm=True, num_log_probs=0),
      dict(is_vllm=False, mode='instruct'),
  )
  def test_where_there_are_none_they_are_refused(self, **fields):
    http, _ = self.serve_pair(**fields)
    answer = http.post(router_server.CHAT, json=router_server.body())
    self.assertEqual(answer.status_code, 200, answer.text)
    answer = http.post(
        router_server.CHAT, json=router_server.body(logprobs=True)
    )
    self.assertEqual(answer.status_code, 400)
    self.assertEqual(answer.json()['error']['param'], 'logprobs')
    self.assertIn(router_server.SMALL, answer.json()['error']['message'])


class PiecesTest(parameterized.TestCase):

  @parameterized.parameters(
      (['a', '\n\n', 'b', ''], [('a', '\n\n'), ('b', '')]),
      # The token that ends a step begins the next one.
      (['a', '\n\nb', 'c'], [('a', '\n\n'), ('bc',)]),
      (['a\n\nb\n\nc', 'd'], [('a\n\n',), (), ('cd',)]),
      (['a\n\n', ''], [('a\n\n',), ('',)]),
  )
  def test_texts_of_tokens_by_hand(self, pieces, expected):
    count = len(pieces)
    written = segmentation.Written(
        pieces,
        range(count),
        np.zeros(count, np.float32),
        np.zeros((count, 0), np.float32),
        is_final=True,
    )
    steps = segmentation.to_steps(written, types.Usage(0, 1, 0, count))
    self.assertEqual([step.pieces for step in steps], expected)
    for step in steps:
      if step.pieces:
        self.assertEqual(''.join(step.pieces), step.text)

  @parameterized.parameters(
      ('ab\n\n', ['ab', '\n\n'], True),
      ('ab\n\n', ['ab'], True),  # The server does not list the stop string.
      ('ab', ['ab', '\n\n'], True),
      ('ab', ['a', '\ufffd'], False),  # Half a character.
      ('ab', None, False),
  )
  def test_texts_are_known_where_they_join_to_the_text(
      self, text, tokens, has_texts
  ):
    reply = openai_responses.Reply(
        text=text,
        finish='stop',
        stopped_at=None,
        token_ids=None,
        tokens=tokens,
        log_probs=None,
        top_log_probs=np.zeros((0, 0), np.float32),
        read=1,
        cached=0,
        written=2,
        thought=0,
        model='',
    )
    written = openai_responses.to_written(reply, text, None, is_final=True)
    self.assertEqual(written.has_texts, has_texts)
    (step,) = segmentation.to_steps(written, types.Usage(0, 1, 0, 2))
    self.assertEqual(step.pieces is not None, has_texts)


if __name__ == '__main__':
  absltest.main()
