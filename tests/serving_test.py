"""What the endpoint speaks: OpenAI's protocol, with the routing beside it."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import openai

from routing.serving import stop_strings
from tests import router_server

_SMALL, _LARGE = router_server.SMALL, router_server.LARGE
# Hands over at step 1 where the threshold is .6, and stays at 2.
_MIXED = router_server.QUESTION
_MIXED_STEPS = ('13\n\n', '14\n\n', '15\n\n', '16\n\n', '17\n\n', '#### 17')


class ChatTest(router_server.SharedCase):

  def test_an_answer_of_two_writers_says_so(self):
    raw = self.openai.chat.completions.with_raw_response.create(
        model='router@cost<=0.5', messages=[{'role': 'user', 'content': _MIXED}]
    )
    answer = raw.parse()
    self.assertEqual(answer.choices[0].message.content, ''.join(_MIXED_STEPS))
    self.assertEqual(answer.choices[0].finish_reason, 'stop')
    self.assertEqual(answer.model, 'router@cost<=0.5')
    steps = answer.routing['steps']
    self.assertEqual([step['model'] for step in steps], [_SMALL] + [_LARGE] * 5)
    self.assertLess(steps[0]['score'], 0.6)  # The small model goes on.
    self.assertGreaterEqual(steps[1]['score'], 0.6)  # The large takes over.
    self.assertEqual([step['threshold'] for step in steps[:2]], [0.6, 0.6])
    # The draft of step 1, '14\n\n': four characters, one token each.
    self.assertEqual([x['wasted_tokens'] for x in steps], [0, 4, 0, 0, 0, 0])
    self.assertEqual(raw.headers['x-routing-route'], f'{_SMALL}:1,{_LARGE}:5')
    self.assertEqual(raw.headers['x-routing-model'], answer.model)
    self.assertGreater(float(raw.headers['x-routing-overhead-ms']), 0)
    # The question has 5 characters; the answer 5 * 4 and '#### 17'.
    self.assertEqual(answer.usage.prompt_tokens, 5)
    self.assertEqual(answer.usage.completion_tokens, 27)
    self.assertEqual(answer.usage.total_tokens, 32)

  def test_costs_by_hand(self):
    routing = self.ask().routing
    # Prices per million of small 0.2 read, 0.02 cached, 1 written; of the
    # larger four times as much. Small reads 5, writes 4 and 4 more, with 9
    # cached before the second. The larger reads 5 + 4 and writes 23.
    small = 5 * 0.2 + 4 * 1 + (9 * 0.02 + 4 * 1)
    large = 9 * 0.8 + 23 * 4
    self.assertAlmostEqual(routing['cost']['price'] * 1e6, small + large)
    self.assertAlmostEqual(
        sum(step['cost']['price'] for step in routing['steps']),
        routing['cost']['price'],
    )
    # Alone it reads the 5 of the question and writes all 27.
    self.assertAlmostEqual(
        routing['large_alone']['price'] * 1e6, 5 * 0.8 + 27 * 4
    )
    self.assertIsNone(routing['large_alone']['latency'])
    self.assertEqual(routing['wasted_tokens'], 4)

  def test_a_model_alone_decides_nothing(self):
    answer = self.ask(model=_LARGE)
    self.assertEqual(answer.model, _LARGE)
    routing = answer.routing
    self.assertEqual({step['model'] for step in routing['steps']}, {_LARGE})
    self.assertEqual({step['score'] for step in routing['steps']}, {None})
    self.assertEqual(routing['wasted_tokens'], 0)  # No draft was made for it.
    self.assertIsNone(routing['promise'])
    for metric in ('price', 'flops', 'decoded_tokens'):
      self.assertAlmostEqual(
          routing['cost'][metric], routing['large_alone'][metric], msg=metric
      )

  @parameterized.parameters(False, True)
  def test_stream_has_a_chunk_per_step_and_sums_in_the_last(self, has_own):
    options = {'stream_options': {'include_usage': True}} if has_own else {}
    chunks = list(self.ask(stream=True, **options))
    texts = [x.choices[0].delta.content for x in chunks if x.choices]
    self.assertEqual(tuple(text for text in texts if text), _MIXED_STEPS)
    steps = [x.routing['step'] for x in chunks[:6]]
    self.assertEqual([x['step'] for x in steps], list(range(6)))
    self.assertEqual(steps[1]['model'], _LARGE)
    self.assertEqual(chunks[0].choices[0].delta.role, 'assistant')
    self.assertEqual(bool(chunks[-1].choices), not has_own)
    self.assertEqual(chunks[-1].usage.total_tokens, 32)
    self.assertEqual({x.usage for x in chunks[:-1]}, {None})
    whole = self.ask().routing
    for step, other in zip(
        chunks[-1].routing['steps'], whole['steps'], strict=True
    ):
      # Only what is measured may differ.
      measured = {name: step[name] for name in ('seconds', 'overhead_ms')}
      self.assertEqual(step, other | measured)
    reasons = [x.choices[0].finish_reason for x in chunks if x.choices]
    self.assertEqual(reasons, [None] * 6 + ['stop'])

  def test_several_answers(self):
    answer = self.ask(n=3, temperature=1.0, seed=4)
    again = self.ask(n=3, temperature=1.0, seed=4)
    texts = [x.message.content for x in answer.choices]
    self.assertEqual(texts, [x.message.content for x in again.choices])
    self.assertEqual([x.index for x in answer.choices], [0, 1, 2])
    other = self.ask(n=3, temperature=1.0, seed=5)
    both = {*texts, *(x.message.content for x in other.choices)}
    self.assertGreater(len(both), 1)
    parts = answer.routing['choices']
    self.assertLen({part['id'] for part in parts}, 3)
    self.assertAlmostEqual(
        answer.routing['cost']['price'], sum(x['cost']['price'] for x in parts)
    )
    self.assertEqual(answer.usage.prompt_tokens, 5)  # One question.
    streamed = ['', '', '']
    for chunk in self.ask(n=3, temperature=1.0, seed=4, stream=True):
      for choice in chunk.choices:
        streamed[choice.index] += choice.delta.content
    self.assertEqual(streamed, texts)

  def test_without_a_seed_only_samples_differ(self):
    seeds = {self.ask(temperature=1.0).routing['seed'] for _ in range(3)}
    self.assertLen(seeds, 3)
    self.assertEqual({self.ask().routing['seed'] for _ in range(3)}, {0})

  @parameterized.parameters('max_tokens', 'max_completion_tokens')
  def test_a_limit_of_tokens(self, name):
    model = 'router@loss<=0.02@0.9'
    answer = self.ask(model=model, **{name: 6})
    self.assertEqual(answer.choices[0].message.content, '13\n\n14')
    self.assertEqual(answer.choices[0].finish_reason, 'length')
    self.assertEqual(answer.usage.completion_tokens, 6)
    promise = answer.routing['promise']
    self.assertFalse(promise['holds'])
    self.assertIn('limit of tokens', promise['why_not'])
    # A limit beyond that of the calibration changes nothing.
    whole = self.ask(model=model, **{name: 9_999})
    self.assertTrue(whole.routing['promise']['holds'])

  @parameterized.product(
      stop=(['15'], ['4\n\n1', 'zz'], '\n\n15'), stream=(False, True)
  )
  def test_a_stop_string_ends_the_text_before_it(self, stop, stream):
    whole = ''.join(_MIXED_STEPS)
    first = stop if isinstance(stop, str) else stop[0]
    answer = self.ask(stop=stop, stream=stream)
    if stream:
      chunks = [x.choices[0] for x in answer]
      text = ''.join(x.delta.content for x in chunks)
      reason = chunks[-1].finish_reason
    else:
      text = answer.choices[0].message.content
      reason = answer.choices[0].finish_reason
    self.assertEqual(text, whole[: whole.index(first)])
    self.assertEqual(reason, 'stop')

  def test_a_stop_string_that_never_comes_is_not_held_back(self):
    chunks = self.ask(stop='#### 18', stream=True)
    text = ''.join(x.choices[0].delta.content for x in chunks)
    self.assertEqual(text, ''.join(_MIXED_STEPS))

  def test_logprobs(self):
    content = self.ask(logprobs=True).choices[0].logprobs.content
    self.assertEqual(''.join(x.token for x in content), ''.join(_MIXED_STEPS))
    self.assertEqual({x.logprob for x in content}, {-0.5})

  def test_parts_of_text_are_one_question(self):
    parts = [{'type': 'text', 'text': x} for x in (_MIXED[:2], _MIXED[2:])]
    answer = self.post(messages=[{'role': 'user', 'content': parts}]).json()
    self.assertEqual(
        answer['choices'][0]['message']['content'], ''.join(_MIXED_STEPS)
    )

  @parameterized.parameters(
      ('tools', [{'type': 'function', 'function': {'name': 'f'}}]),
      ('response_format', {'type': 'json_object'}),
      ('top_p', 0.5),
      ('logit_bias', {'1': 2}),
      ('top_logprobs', 2),
      ('frequency_penalty', 0.1),
      ('made_up', 1),
      ('n', 0),
      ('n', 9),
      ('temperature', -1),
      ('temperature', 'warm'),
      ('stop', ['a', 'b', 'c', 'd', 'e']),
      ('stream_options', {'include_usage': True}),
      ('routing', {'max_price': 1}),
      ('max_tokens', 0),
      ('messages', []),
  )
  def test_what_is_not_supported_is_refused_by_name(self, name, value):
    response = self.post(**{name: value})
    self.assertEqual(response.status_code, 400)
    error = response.json()['error']
    self.assertStartsWith(error['param'], name)
    self.assertIn(name, error['message'])
    self.assertEqual(error['type'], 'invalid_request_error')
    with self.assertRaises(openai.BadRequestError):
      self.ask(**{'extra_body': {name: value}})

  @parameterized.parameters(
      ([{'role': 'system', 'content': 'Be brief.'}], 'messages[0]'),
      ([{'role': 'user', 'content': '1:1\n'}], 'messages[0]'),
  )
  def test_earlier_messages_are_refused(self, earlier, param):
    asked = {'role': 'user', 'content': _MIXED}
    error = self.post(messages=[*earlier, asked]).json()['error']
    self.assertEqual(error['param'], param)
    self.assertIn(repr(earlier[0]['role']), error['message'])

  @parameterized.parameters(
      ({'role': 'system', 'content': 'x'}, 'messages[0].role'),
      ({'role': 'user', 'content': None}, 'messages[0].content'),
      ({'role': 'user', 'content': 'x', 'name': 'me'}, 'messages[0].name'),
      (
          {'role': 'user', 'content': [{'type': 'image_url', 'image_url': {}}]},
          'messages[0].content[0]',
      ),
  )
  def test_a_message_that_is_no_question_is_refused(self, message, param):
    response = self.post(messages=[message])
    self.assertEqual(response.status_code, 400)
    self.assertEqual(response.json()['error']['param'], param)

  @parameterized.parameters(
      ({'tools': []}),
      ({'top_p': 1}),
      ({'presence_penalty': 0.0}),
      ({'response_format': {'type': 'text'}}),
      ({'user': 'me'}),
  )  # pyformat: disable
  def test_what_changes_nothing_is_accepted(self, **fields):
    self.assertEqual(self.post(**fields).status_code, 200)

  def test_no_body_is_a_client_error(self):
    for content in (b'', b'{', b'[]', b'\xff', b'null', b'{"model": 1}'):
      response = self.http.post(
          '/v1/chat/completions',
          content=content,
          headers={'content-type': 'application/json'},
      )
      self.assertEqual(response.status_code, 400, content)
      self.assertIn('message', response.json()['error'])

  def test_paths_and_methods_that_do_not_exist(self):
    self.assertEqual(self.http.get('/v1/nothing').status_code, 404)
    self.assertEqual(self.http.get('/v1/chat/completions').status_code, 405)
    self.assertIn('error', self.http.get('/v1/nothing').json())


class CompletionsTest(router_server.SharedCase):

  def test_each_prompt_is_a_question(self):
    answer = self.openai.completions.create(
        model='router@cost<=0.5', prompt=[_MIXED, '11:4\n'], logprobs=0
    )
    first, second = answer.choices
    self.assertEqual(first.text, ''.join(_MIXED_STEPS))
    self.assertEqual(second.text, '12\n\n13\n\n14\n\n16\n\n#### 16')
    self.assertEqual(''.join(first.logprobs.tokens), first.text)
    self.assertEqual(first.logprobs.text_offset[:3], [0, 1, 2])
    self.assertEqual(answer.usage.prompt_tokens, 10)
    streamed = self.openai.completions.create(
        model='router@cost<=0.5', prompt=_MIXED, stream=True
    )
    self.assertEqual(''.join(x.choices[0].text for x in streamed), first.text)

  @parameterized.parameters('15', '5\n\n1', 'zz', '#### 17')
  def test_logprobs_are_those_of_the_text(self, stop):
    ask = functools.partial(
        self.openai.completions.create,
        model='router@cost<=0.5',
        prompt=_MIXED,
        logprobs=0,
        stop=stop,
    )
    whole = ask().choices[0]
    self.assertEqual(''.join(whole.logprobs.tokens), whole.text)
    self.assertEqual(whole.logprobs.text_offset, list(range(len(whole.text))))
    chunks = [x.choices[0] for x in ask(stream=True)]
    self.assertEqual(''.join(x.text for x in chunks), whole.text)
    for chunk in chunks:
      self.assertEqual(''.join(chunk.logprobs.tokens), chunk.text)
    offsets = [i for x in chunks for i in x.logprobs.text_offset]
    self.assertEqual(offsets, whole.logprobs.text_offset)

  @parameterized.parameters(
      ('prompt', [1, 2]),
      ('prompt', []),
      ('prompt', ''),
      ('echo', True),
      ('best_of', 2),
      ('suffix', 'x'),
      ('logprobs', 2),
  )  # pyformat: disable
  def test_refused_by_name(self, name, value):
    body = {'model': 'router', 'prompt': _MIXED, name: value}
    response = self.http.post('/v1/completions', json=body)
    self.assertEqual(response.status_code, 400)
    self.assertStartsWith(response.json()['error']['param'], name)


class StopStringsTest(parameterized.TestCase):

  @parameterized.parameters(
      ('abc', ('b',), 1, 3),
      ('abc', ('cd',), None, 2),  # The c may begin it.
      ('abcc', ('ccd', 'b'), 1, 2),
      ('abc', (), None, 3),
  )
  def test_by_hand(self, text, stops, end, sure):
    self.assertEqual(stop_strings.end(text, stops), end)
    self.assertEqual(stop_strings.sure(text, stops), sure)


if __name__ == '__main__':
  absltest.main()
