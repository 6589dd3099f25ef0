"""Engines tell steps while they are written, and what they tell is returned."""

import asyncio
import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.engines import embedded
from routing.engines import endpoint as endpoint_lib
from routing.engines import engine as engine_lib
from routing.engines import meter
from routing.engines import openai
from routing.engines import prompts
from routing.engines import resilience
from routing.engines import scripted
from routing.lm import export
from routing.lm import tokenizer as tokenizer_lib
from routing.tasks import arithmetic
from tests import openai_server
from tests import router_server
from tests import scripted_pair

_VOCABULARY = tokenizer_lib.Tokenizer()
_SHIPPED = export.shipped('small')
_QUESTION = arithmetic.load(1, test=1)['test'][0].question
# Six lines, of which the fourth equal one ends the answer.
_REPEATED = 'a\n\n' + 'b\n\n' * 6 + 'c'


def _recite(text, **fields):
  """Returns a model that writes a text after the question 'q\n'."""
  split = lambda prompt: (prompt[:2], prompt[2:])
  engine = scripted.ScriptedEngine('s', 0, scripted.recite(text), num_top=2)
  return openai_server.Model(engine, split=split, **fields)


def _embedded():
  """Returns the small model, behind the interface of vLLM's server."""
  decode = lambda i: '' if i == _VOCABULARY.eos_id else _VOCABULARY.decode([i])
  engine = embedded.EmbeddedEngine(
      'small', 0, *export.load_pretrained(_SHIPPED), _VOCABULARY
  )
  return openai_server.Model(engine, decode, can_stop=True)


def _engine(url, prompter=None, **fields):
  fields = {'is_vllm': True, 'seeds': True} | fields
  endpoint = endpoint_lib.Endpoint(url, 'm', **fields)
  return openai.OpenAIEngine('served', 0, endpoint, prompter=prompter)


class Told:
  """Keeps what an engine tells."""

  def __init__(self, then=lambda step: None):
    self.steps, self.places, self._then = [], [], then

  def __call__(self, place, step):
    self.steps.append(step)
    self.places.append(place)
    self._then(step)

  @property
  def texts(self):
    return [step.text for step in self.steps]


def _write(engine, question='q\n', told=None, **fields):
  """Makes one request, and closes the engine."""
  request = engine_lib.Request(on_step=told, **fields)

  async def run():
    try:
      async with engine.open(question) as session:
        return await session.write(request)
    finally:
      await engine.close()

  return asyncio.run(run())


async def _given_up(writing, model):
  """Cancels a request once the server has stopped in the middle of it."""
  while not model.is_held:
    await asyncio.sleep(0.01)
  await asyncio.sleep(0.1)  # What was sent arrives.
  writing.cancel()
  await asyncio.wait([writing])
  assert writing.cancelled()


class OpenAITest(parameterized.TestCase):

  def serve(self, model):
    app = openai_server.make_app(model)
    return self.enter_context(openai_server.serve(app))

  @parameterized.product(mode=['completions', 'chat'], temperature=[0.0, 1.0])
  def test_a_stream_is_the_whole_reply(self, mode, temperature):
    url = self.serve(_embedded())
    prompter = prompts.Prompter(prompts.load_tokenizer(_SHIPPED))
    fields = dict(to_end=True, max_tokens=150, temperature=temperature, seed=3)
    told = Told()
    whole, streamed = (
        _write(
            _engine(url, prompter, mode=mode, num_log_probs=3),
            _QUESTION,
            listener,
            **fields,
        )
        for listener in (None, told)
    )
    self.assertGreater(len(whole), 2)
    for one, other in zip(whole, streamed, strict=True):
      zero = {'seconds': 0.0}
      self.assertEqual(
          dataclasses.replace(one.usage, **zero),
          dataclasses.replace(other.usage, **zero),
      )
      for name in ('text', 'token_ids', 'is_final', 'is_complete'):
        self.assertEqual(getattr(one, name), getattr(other, name))
      np.testing.assert_allclose(one.log_probs, other.log_probs)
      np.testing.assert_allclose(one.top_log_probs, other.top_log_probs)
    # All but the last, which the end of the request shows.
    self.assertEqual(told.texts, [step.text for step in whole[:-1]])
    self.assertEqual(told.places, list(range(len(whole) - 1)))
    for one, other in zip(told.steps, whole, strict=False):
      self.assertEqual(one.usage.written, other.usage.written)
      # What was cached of the prompt is not known before the end.
      self.assertEqual((one.usage.read, one.usage.cached), (0, 0))

  @parameterized.product(
      is_vllm=[True, False],
      text=[
          'ab\n\n```\nx\n\ny\n```\n\n\\[ 1\n\n\\]\n\nd',
          'a\n\n\n\nb\n\nc',
          'a',
      ],
  )
  def test_steps_end_where_they_end_in_the_whole(self, is_vllm, text):
    url, told = self.serve(_recite(text, is_vllm=is_vllm)), Told()
    steps = _write(_engine(url, is_vllm=is_vllm), told=told, to_end=True)
    texts = [step.text for step in steps]
    self.assertEqual(''.join(texts), text)
    self.assertEqual(told.texts, texts[:-1])

  def test_what_follows_a_repetition_is_not_told(self):
    told = Told()
    url = self.serve(_recite(_REPEATED))
    steps = _write(_engine(url), told=told, to_end=True)
    self.assertEqual([x.text for x in steps], ['a\n\n'] + ['b\n\n'] * 4)
    self.assertEqual(told.texts, [x.text for x in steps])
    self.assertTrue(told.steps[-1].is_final)

  def test_a_step_is_told_while_the_server_writes_the_next(self):
    model = _recite('ab\n\ncd\n\nef', hold=5)
    # If nothing were told by then, the server would wait for ever.
    told = Told(lambda step: model.is_free.set())
    steps = _write(_engine(self.serve(model)), told=told, to_end=True)
    self.assertLen(steps, 3)

  def test_a_request_that_is_given_up_tells_what_was_paid(self):
    model = _recite('ab\n\ncd\n\nef', hold=6)
    engine, told = _engine(self.serve(model)), Told()

    async def run():
      async with engine.open('q\n') as session:
        asked = engine_lib.Request(to_end=True, on_step=told)
        writing = asyncio.create_task(session.write(asked))
        await _given_up(writing, model)
      await engine.close()

    asyncio.run(run())
    self.assertEqual(told.texts, ['ab\n\n', 'cd'])
    self.assertEqual([x.usage.written for x in told.steps], [4, 2])
    # By four bytes to a token, 'q\n' is none; it has no tokenizer.
    self.assertEqual([x.usage.read for x in told.steps], [0, 0])
    router_server.until(lambda: model.num_cancelled == 1)

  def test_a_prompt_that_can_be_counted_is_paid_when_given_up(self):
    model = _embedded()
    model.hold = 1
    prompter = prompts.Prompter(prompts.load_tokenizer(_SHIPPED))
    engine, told = _engine(self.serve(model), prompter), Told()

    async def run():
      async with engine.open(_QUESTION) as session:
        asked = engine_lib.Request(to_end=True, on_step=told)
        await _given_up(asyncio.create_task(session.write(asked)), model)
      await engine.close()

    asyncio.run(run())
    (step,) = told.steps
    self.assertEqual(step.usage.read, len(prompter.ids(_QUESTION, '')))
    self.assertEqual((step.usage.written, step.num_tokens), (1, 1))

  def test_a_stream_that_breaks_off_is_written_again(self):
    model = _recite('ab\n\ncd\n\nef')
    app, cuts = openai_server.make_app(model), [1]

    async def breaking(scope, receive, send):
      async def cut(message):
        if b'"f"' in message.get('body', b'') and cuts:
          cuts.pop()
          return send.__self__.transport.abort()  # Of uvicorn.
        await send(message)

      await app(scope, receive, cut)

    told = Told()
    url = self.enter_context(openai_server.serve(breaking))
    engine = resilience.ResilientEngine(
        _engine(url),
        resilience.Limits(attempts=2, first_wait=0.01),
        meter.Meter(scripted_pair.SPECS),
    )
    steps = _write(engine, told=told, to_end=True)
    self.assertLen(steps, 3)
    self.assertEqual(told.places, [0, 1, 0, 1])
    self.assertEqual(told.texts, ['ab\n\n', 'cd\n\n'] * 2)

  @parameterized.parameters(
      dict(streams=False), dict(mode='instruct', is_vllm=False)
  )
  def test_servers_that_do_not_stream_are_asked_as_before(self, **fields):
    model, told = (
        _recite('ab\n\ncd', is_vllm=fields.get('is_vllm', True)),
        Told(),
    )
    engine = _engine(self.serve(model), **fields)
    self.assertFalse(engine.capabilities.tells_steps)
    _write(engine, told=told, to_end=True)
    self.assertEmpty(told.steps)
    self.assertNotIn('stream', model.requests[0])

  def test_where_nobody_listens_nothing_is_streamed(self):
    model = _recite('ab\n\ncd')
    _write(_engine(self.serve(model)), to_end=True)
    self.assertNotIn('stream', model.requests[0])


class ServedTest(router_server.ServedCase):

  def test_a_client_sees_steps_while_a_server_writes(self):
    models = [
        openai_server.Model(
            engine, split=lambda x: (x[:5], x[5:]), is_vllm=False
        )
        for engine in scripted_pair.make_engines(2)
    ]
    # After 14 and 15 of the rest of the answer, with four characters each.
    models[1].hold = 9
    urls = [
        self.enter_context(openai_server.serve(openai_server.make_app(x)))
        for x in models
    ]

    def engines():
      return [
          openai.OpenAIEngine(spec.name, route, endpoint_lib.Endpoint(url, 'm'))
          for route, (spec, url) in enumerate(
              zip(scripted_pair.SPECS, urls, strict=False)
          )
      ]

    _, client = self.serve(
        lambda: router_server.scripted_service(engines=engines())
    )
    body = router_server.body(model=router_server.LARGE, stream=True)
    seen = []
    with client.stream('POST', router_server.CHAT, json=body) as found:
      for line in found.iter_lines():
        if '"content": "' in line:
          seen.append(line)
          if len(seen) == 2:
            models[1].is_free.set()
    self.assertGreater(len(seen), 4)
    whole = client.post(router_server.CHAT, json=body | {'stream': False})
    usage = whole.json()['usage']
    self.assertEqual(usage['prompt_tokens'], 5)
    self.assertEqual(usage['completion_tokens'], 27)


if __name__ == '__main__':
  absltest.main()
