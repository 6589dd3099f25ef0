"""Tests of the engine for servers, with a real server on loopback."""

import asyncio
import functools

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.engines import boundaries
from routing.engines import endpoint as endpoint_lib
from routing.engines import engine as engine_lib
from routing.engines import openai
from routing.engines import openai_responses
from routing.engines import prompts
from routing.engines import scripted
from routing.engines import segmentation
from routing.rollout import steps as steps_lib
from routing.tasks import delimiter as delimiter_lib
from tests import openai_server
from tests import sessions


def _recite(text, *, num_top=2, **fields):
  """Returns a model that writes `text` after the question 'q\n'."""
  split = lambda prompt: (prompt[:2], prompt[2:])
  engine = scripted.ScriptedEngine(
      's', 0, scripted.recite(text), num_top=num_top
  )
  return openai_server.Model(engine, split=split, **fields)


class _Letters:
  """A tokenizer with one token per letter."""

  def encode(self, text, **fields):
    del fields
    return list(map(ord, text))


def _endpoint(url, **fields):
  fields = dict(mode='completions', is_vllm=True, seeds=True) | fields
  return endpoint_lib.Endpoint(url, 'm', **fields)


async def _write_all(engine, requests):
  try:
    return await sessions.write_all(engine, requests)
  finally:
    await engine.close()


def _write(model, requests, *, prompter=None, prompt=None, **fields):
  """Serves `model` and makes all requests to it concurrently."""
  with openai_server.serve(openai_server.make_app(model)) as url:

    async def run():
      engine = openai.OpenAIEngine(
          'served',
          0,
          _endpoint(url, **fields),
          prompter=prompter,
          prompt=prompt,
      )
      return await _write_all(engine, requests)

    return asyncio.run(run())


def _request(text='q\n', **fields):
  return sessions.ask(text, **fields)


def _walk(model, *, max_decisions=20, request=_request, **fields):
  """Writes a whole answer with one request per step."""
  steps = []
  with openai_server.serve(openai_server.make_app(model)) as url:

    async def run():
      engine = openai.OpenAIEngine('served', 0, _endpoint(url, **fields))
      named = sessions.Sessions(engine)
      while not steps or not steps[-1].is_final and len(steps) < max_decisions:
        steps.extend(await named.write(request(trace=steps_lib.join(steps))))
      await engine.close()

    asyncio.run(run())
  return steps


def _texts(steps):
  return [step.text for step in steps]


class CutTest(parameterized.TestCase):
  """Where steps end, with vLLM's server and with others."""

  @parameterized.parameters(True, False)
  def test_one_request_per_step_equals_one_for_all(self, is_vllm):
    text = 'ab\n\n```\nx\n\ny\n```\n\n\\[ 1\n\n\\]\n\nd'
    whole = ['ab\n\n', '```\nx\n\ny\n```\n\n', '\\[ 1\n\n\\]\n\n', 'd']
    model = _recite(text, is_vllm=is_vllm)
    (at_once,) = _write(model, [_request(to_end=True)], is_vllm=is_vllm)
    self.assertEqual(_texts(at_once), whole)
    stepwise = _walk(model, is_vllm=is_vllm)
    if not is_vllm:  # It does not report that 'd' was the end.
      *stepwise, last = stepwise
      self.assertEqual((last.text, last.usage.written), ('', 0))
      self.assertEqual(last.token_ids, (openai_responses.UNKNOWN_ID,))
      whole[-1] += '\n\n'
    self.assertEqual(_texts(stepwise), whole)
    self.assertEqual([s.is_final for s in at_once], [False] * 3 + [True])

  @parameterized.product(
      is_vllm=[True, False],
      delimiter=[
          '\n',
          {'pattern': r'[.]\s+'},
          {'max_tokens': 9},
          {'text': '\n', 'max_tokens': 9},
      ],
  )
  def test_other_delimiters_end_steps(self, is_vllm, delimiter):
    text = 'One line.\nA second. It is long.\n#### 3'
    delimiter = delimiter_lib.of(delimiter)
    whole = [
        x.text for x in segmentation.slices(text, delimiter, is_final=True)
    ]
    model = _recite(text, is_vllm=is_vllm)
    request = functools.partial(_request, delimiter=delimiter)
    (at_once,) = _write(model, [request(to_end=True)], is_vllm=is_vllm)
    self.assertEqual(_texts(at_once), whole)
    stepwise = _walk(model, is_vllm=is_vllm, request=request)
    if not is_vllm:  # It does not report that the answer has ended.
      whole[-1:] = _texts(stepwise)[len(whole) - 1 : len(whole)]
      self.assertStartsWith(whole[-1].lstrip(), '#### 3')
    self.assertEqual(_texts(stepwise)[: len(whole)], whole)
    written = sum(step.usage.written for step in stepwise)
    # Only at a pattern, or a length, has a model gone on in vain.
    is_exact = not delimiter.pattern and not delimiter.max_tokens
    self.assertEqual(written > len(text), not is_exact)

  def test_a_block_costs_one_more_request_whatever_its_blank_lines(self):
    block = '```\n' + 'x\n\n' * 9 + '```\n\n'
    model = _recite(block + 'end')
    ((step,),) = _write(model, [_request()])
    self.assertEqual(step.text, block)
    # Stops: the first blank line, the closing fence, the next blank line.
    self.assertEqual(
        [x['stop'] for x in model.requests], [['\n\n'], ['```'], ['\n\n']]
    )
    self.assertEqual(step.usage.written, len(block))
    self.assertEqual(step.log_probs.shape, (0,))
    # The prompts of the later requests are all in the cache.
    again = len('q\n```\nx\n\n') + len('q\n' + block) - len('\n\n')
    self.assertEqual((step.usage.read, step.usage.cached), (2, again))

  def test_blank_lines_belong_to_the_step_after_them(self):
    ((step,),) = _write(_recite('\n\n\n\nab\n\nc'), [_request()])
    self.assertEqual(step.text, '\n\n\n\nab\n\n')

  @parameterized.parameters(True, False)
  def test_endless_blank_lines_end_the_answer(self, is_vllm):
    model = _recite('\n\n' * 50, is_vllm=is_vllm)
    ((step,),) = _write(model, [_request()], is_vllm=is_vllm)
    self.assertTrue(step.is_final)
    self.assertLess(len(model.requests), 6)

  def test_endless_repetition_ends_the_answer(self):
    model = _recite('a\n\n' + 'b\n\n' * 50)
    steps = _walk(model)
    self.assertEqual(_texts(steps), ['a\n\n'] + ['b\n\n'] * 4)
    self.assertEqual([s.is_final for s in steps], [False] * 4 + [True])
    (at_once,) = _write(model, [_request(to_end=True, max_tokens=99)])
    self.assertEqual(_texts(at_once), _texts(steps))
    # The dropped text is charged as well, but is no part of the answer.
    self.assertEqual(steps_lib.call_usage(at_once).written, 99)
    self.assertEqual(steps_lib.count_tokens(at_once), len('a\n\n' * 5))

  def test_a_length_limit_leaves_the_step_open(self):
    model = _recite('abcdef\n\ng')
    for to_end in (True, False):
      ((step,),) = _write(model, [_request(max_tokens=4, to_end=to_end)])
      self.assertEqual(step.text, 'abcd')
      self.assertFalse(step.is_final)
      self.assertTrue(boundaries.is_cut(step))

  def test_a_length_limit_covers_all_requests_of_a_step(self):
    ((step,),) = _write(_recite('$$\n\na\n\nb$$\n\n'), [_request(max_tokens=8)])
    self.assertEqual(step.text, '$$\n\na\n\nb')
    self.assertTrue(boundaries.is_cut(step))


class SilentCutTest(absltest.TestCase):
  """A server that writes fewer tokens than requested without saying so."""

  def test_is_an_error_unless_the_length_is_known(self):
    model = _recite('abcdef', max_length=6)
    with self.assertRaisesRegex(
        ValueError, 'asked for 9 tokens .* after 4, at 6'
    ):
      _write(model, [_request(max_tokens=9)])
    ((step,),) = _write(model, [_request(max_tokens=9)], max_length=6)
    self.assertEqual(step.text, 'abcd')
    self.assertFalse(step.is_final)

  def test_a_full_context_is_refused_before_the_request(self):
    prompter = prompts.Prompter(_Letters())
    model = _recite('a')
    with self.assertRaisesRegex(
        engine_lib.Refused, 'max_length of served is 7'
    ):
      _write(model, [_request('seven..')], prompter=prompter, max_length=7)
    self.assertEmpty(model.requests)


class ReportedTest(parameterized.TestCase):
  """What servers report about tokens, and what happens if they do not."""

  @parameterized.parameters('completions', 'prefill')
  def test_a_plain_server_gives_log_probs_but_no_ids(self, mode):
    (steps,) = _write(
        _recite('ab\n\nc', is_vllm=False),
        [_request(to_end=True)],
        mode=mode,
        is_vllm=False,
        num_log_probs=2,
    )
    self.assertEqual(_texts(steps), ['ab\n\n', 'c'])
    self.assertEqual(steps[0].token_ids, (openai_responses.UNKNOWN_ID,) * 4)
    np.testing.assert_allclose(steps[0].log_probs, [-0.5] * 4)
    np.testing.assert_allclose(steps[1].top_log_probs, [[-0.5, -1.5]])

  def test_without_a_request_for_log_probs_there_are_none(self):
    (steps,) = _write(_recite('ab\n\nc'), [_request(to_end=True)])
    self.assertLen(steps, 2)
    for step in steps:
      self.assertEqual(step.log_probs.shape, (0,))
      self.assertEqual(step.top_log_probs.shape, (len(step.token_ids), 0))

  @parameterized.parameters(
      (dict(is_vllm=True), 'no token ids, so it is not vLLM'),
      (
          dict(is_vllm=False, num_log_probs=2),
          'no log-probabilities; set .* num_log_probs',
      ),
  )
  def test_declared_but_not_returned_is_an_error(self, fields, message):
    model = _recite('ab', is_vllm=False, num_top=0)
    model.engine.log_probs = lambda text: np.zeros(0, np.float32)
    with self.assertRaisesRegex(ValueError, message):
      _write(model, [_request()], **fields)


class CapabilityTest(parameterized.TestCase):

  @parameterized.parameters(
      (dict(mode='talk'), "mode 'talk'; allowed: completions, chat"),
      (
          dict(mode='chat', is_vllm=False),
          'is_vllm is False, but .*: .completions',
      ),
      (dict(num_log_probs=6, is_vllm=False), 'is 6 .*allowed: 0 to 5'),
      (dict(num_log_probs=21), 'is 21 .*allowed: 0 to 20'),
      (dict(timeout=0), 'timeout is 0'),
  )
  def test_an_impossible_endpoint_is_an_error(self, fields, message):
    with self.assertRaisesRegex(ValueError, message):
      _endpoint('http://localhost', **fields)

  def _engine(self, **fields):
    return openai.OpenAIEngine('gpt', 1, _endpoint('http://nowhere', **fields))

  @parameterized.parameters(
      ('instruct', dict(continues_prefix=True), 'continues_prefix=False'),
      ('prefill', dict(hidden_size=8), 'hidden_size=0, but 8'),
      ('completions', dict(num_log_probs=5), 'num_log_probs=2, but 5'),
      ('completions', dict(seeds=True), 'seeds=False'),
      ('completions', dict(counts_tokens=True), 'counts_tokens=False'),
      ('completions', dict(reports_cached=True), 'reports_cached=False'),
  )
  def test_a_missing_capability_is_named_with_the_engine(
      self, mode, needed, message
  ):
    engine = self._engine(
        mode=mode, num_log_probs=2, seeds=False, reports_cached=False
    )
    with self.assertRaisesRegex(ValueError, f"'gpt' \\(route 1\\).*{message}"):
      engine_lib.require([engine], **needed)

  def test_does_not_count_without_a_tokenizer(self):
    with self.assertRaisesRegex(ValueError, "'gpt' has no tokenizer"):
      self._engine().count_tokens('q', '')

  def test_no_token_to_write_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'max_tokens is 0'):
      asyncio.run(_write_all(self._engine(), [_request(max_tokens=0)]))


class EndpointTest(absltest.TestCase):

  def test_the_key_is_in_no_repr(self):
    endpoint = _endpoint('http://here', api_key='sk-secret')
    self.assertEqual(endpoint.api_key, 'sk-secret')
    self.assertNotIn('secret', repr(endpoint))
    self.assertNotIn('secret', f'{endpoint} {[endpoint]}')


class FaultTest(parameterized.TestCase):

  def _fail(self, status, headers=None, detail='why'):
    model = _recite('ab')

    async def reply(session, request):
      raise openai_server.fastapi.HTTPException(status, detail, headers)

    model.engine.reply = reply
    with self.assertRaises(Exception) as caught:
      _write(model, [_request()])
    return caught.exception

  @parameterized.parameters(
      (400, engine_lib.Refused),
      (401, engine_lib.Stop),
      (402, engine_lib.Stop),
      (403, engine_lib.Stop),
      (404, engine_lib.Stop),
      (408, engine_lib.Unavailable),
      (422, engine_lib.Refused),
      (429, engine_lib.Unavailable),
      (500, engine_lib.Unavailable),
      (503, engine_lib.Unavailable),
      (504, engine_lib.Unavailable),
  )
  def test_a_status_decides_the_kind_of_error(self, status, kind):
    error = self._fail(status)
    self.assertIs(type(error), kind)
    self.assertRegex(str(error), f'served: HTTP {status}.*why')
    # Only a proxy's time-out leaves open whether the server has answered.
    self.assertEqual(getattr(error, 'may_be_billed', False), status == 504)
    self.assertEqual(getattr(error, 'billed', ()), ())

  def test_the_time_to_wait_is_passed_on(self):
    self.assertEqual(self._fail(429, {'Retry-After': '7'}).retry_after, 7.0)
    self.assertEqual(self._fail(503).retry_after, 0.0)

  def test_no_server(self):
    engine = openai.OpenAIEngine('x', 0, _endpoint('http://127.0.0.1:9/v1'))
    with self.assertRaisesRegex(
        engine_lib.Unavailable, 'x: APIConnection'
    ) as caught:
      asyncio.run(_write_all(engine, [_request()]))
    self.assertFalse(caught.exception.may_be_billed)  # It was never sent.

  def test_no_answer_in_time(self):
    model = _recite('ab')
    model.engine.delay = 1.0
    with self.assertRaisesRegex(
        engine_lib.Unavailable, 'APITimeoutError'
    ) as caught:
      _write(model, [_request()], timeout=0.05)
    self.assertTrue(caught.exception.may_be_billed)

  def test_a_cancelled_request_ends_at_the_server(self):
    model = _recite('ab')
    model.engine.delay = 60.0

    async def run(url):
      engine = openai.OpenAIEngine('x', 0, _endpoint(url))
      asks = [_request(session=str(i)) for i in range(24)]
      writing = asyncio.create_task(_write_all(engine, asks))
      while model.engine.num_in_flight < 24:
        await asyncio.sleep(0.01)
      writing.cancel()
      async with asyncio.timeout(5.0):
        while model.engine.num_in_flight:
          await asyncio.sleep(0.01)

    with openai_server.serve(openai_server.make_app(model)) as url:
      asyncio.run(run(url))
    self.assertEqual(model.num_cancelled, 24)


if __name__ == '__main__':
  absltest.main()
