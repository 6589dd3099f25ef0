"""Tests of models that think before they answer, and of what a reply costs."""

import asyncio
import dataclasses
from typing import Any

from absl.testing import absltest
from absl.testing import parameterized
import fastapi
from fastapi import responses

from routing import costs
from routing.engines import endpoint as endpoint_lib
from routing.engines import engine as engine_lib
from routing.engines import openai
from routing.engines import openai_responses
from routing.engines import route as route_lib
from routing.rollout import steps as steps_lib
from tests import openai_server
from tests import sessions

_USAGE = {
    'prompt_tokens': 1_000,
    'completion_tokens': 200,
    'total_tokens': 1_200,
    'prompt_tokens_details': {'cached_tokens': 900},
    'completion_tokens_details': {'reasoning_tokens': 190},
}
# What the models with a reasoning effort reject, as OpenAI's server words it.
_REJECTED = {
    'max_tokens': "Use 'max_completion_tokens' instead.",
    'temperature': 'Only the default (1) value is supported.',
    'top_p': 'Unsupported parameter.',
    'stop': 'Unsupported parameter.',
    'logprobs': 'Unsupported parameter.',
}


@dataclasses.dataclass
class Server:
  """A server of a model that thinks; it gives the same reply to everyone."""

  text: str = 'a\n\nb'
  finish: str = 'stop'
  model: str = 'gpt-5-mini-2025-08-07'
  usage: dict[str, Any] = dataclasses.field(default_factory=lambda: _USAGE)
  bodies: list[dict[str, Any]] = dataclasses.field(default_factory=list)

  def app(self) -> fastapi.FastAPI:
    app = fastapi.FastAPI()

    @app.post('/v1/chat/completions')
    async def write(request: fastapi.Request):
      body = await request.json()
      self.bodies.append(body)
      for name, why in _REJECTED.items():
        if name in body:
          error = {'message': f'{name}: {why}', 'code': 'unsupported_parameter'}
          return responses.JSONResponse({'error': error}, 400)
      return self.response()

    return app

  def response(self) -> dict[str, Any]:
    return {
        'id': 'x',
        'object': 'chat.completion',
        'created': 0,
        'model': self.model,
        'choices': [
            {
                'index': 0,
                'finish_reason': self.finish,
                'logprobs': None,
                'message': {'role': 'assistant', 'content': self.text},
            }
        ],
        'usage': self.usage,
    }

  def write(self, *, temperature=1.0, to_end=True, trace='', **fields):
    """Makes one request to the server, with an engine of these settings."""
    fields = dict(mode='instruct', reasoning_effort='low') | fields
    request = sessions.ask(
        'q',
        trace=trace,
        temperature=temperature,
        to_end=to_end,
        max_tokens=200,
    )

    async def run(url):
      engine = openai.OpenAIEngine(
          'gpt', 0, endpoint_lib.Endpoint(url, 'gpt-5-mini', **fields)
      )
      try:
        (steps,) = await sessions.write_all(engine, [request])
        return steps
      finally:
        await engine.close()

    with openai_server.serve(self.app()) as url:
      return asyncio.run(run(url))


class ReasoningTest(parameterized.TestCase):

  def test_sends_what_such_a_model_accepts(self):
    server = Server()
    server.write()
    (body,) = server.bodies
    self.assertEqual(
        {k: v for k, v in body.items() if k != 'messages'},
        {
            'model': 'gpt-5-mini',
            'max_completion_tokens': 200,
            'reasoning_effort': 'low',
        },
    )

  def test_a_model_declared_otherwise_is_refused_by_the_server(self):
    with self.assertRaisesRegex(engine_lib.Refused, 'max_completion_tokens'):
      Server().write(reasoning_effort='')

  def test_another_temperature_is_refused_before_a_request(self):
    server = Server()
    with self.assertRaisesRegex(
        engine_lib.Stop, r'gpt .*temperature 1.0, but the run asks for 0.0'
    ):
      server.write(temperature=0.0)
    self.assertEmpty(server.bodies)

  @parameterized.parameters(True, False)
  def test_thoughts_are_paid_and_are_no_text(self, to_end):
    steps = Server().write(to_end=to_end)
    self.assertEqual(steps[0].text, 'a\n\n')
    self.assertLen(steps, 2 if to_end else 1)
    # Ten tokens of text, spread over 'a\n\nb': all but two stand in 'a\n\n'.
    self.assertLessEqual(steps_lib.count_tokens(steps), 10)
    usage = steps_lib.call_usage(steps)
    self.assertEqual((usage.read, usage.cached, usage.written), (100, 900, 200))

  def test_nothing_but_thoughts_is_refused_and_paid(self):
    usage = _USAGE | {'completion_tokens_details': {'reasoning_tokens': 200}}
    with self.assertRaisesRegex(
        engine_lib.Refused, 'all 200 tokens on thoughts'
    ) as caught:
      Server(text='', finish='length', usage=usage).write()
    (billed,) = caught.exception.billed
    self.assertEqual((billed.read, billed.written), (100, 200))

  @parameterized.parameters(
      dict(mode='completions'), dict(num_log_probs=1), dict(seeds=True)
  )
  def test_impossible_declarations_are_errors(self, **fields):
    fields = dict(mode='instruct', reasoning_effort='low') | fields
    with self.assertRaisesRegex(ValueError, "needs mode 'instruct', num_log_p"):
      endpoint_lib.Endpoint('http://x', 'gpt-5', **fields)


class PriceTest(parameterized.TestCase):

  def test_cached_tokens_once_and_thoughts_included(self):
    usage = steps_lib.call_usage(Server().write())
    spec = costs.RouteSpec('gpt', 1, 1, 1, 0.4, 0.1, 1.6)
    # 100 read at 0.4, 900 cached at 0.1, 10 + 190 written at 1.6, per million.
    dollars = costs.call_cost(usage, spec, 'price')
    self.assertAlmostEqual(dollars, 450e-6)

  @parameterized.parameters(
      ({'prompt_tokens': 800}, '800 prompt tokens, 900 of them cached'),
      ({'completion_tokens': 100}, '100 new tokens, 190 of them thoughts'),
  )
  def test_an_impossible_usage_is_an_error(self, wrong, message):
    with self.assertRaisesRegex(ValueError, message):
      Server(usage=_USAGE | wrong).write()

  @parameterized.parameters(
      ('gpt-5-mini', True),
      ('gpt-5-mini-2025-08-07', True),
      ('gpt-5-mini-20250807', True),
      ('', True),
      ('gpt-5', False),
      ('gpt-5-mini-high', False),
      ('-2025-08-07', False),
  )
  def test_a_reply_of_another_model_is_no_reply(self, replied, is_same):
    self.assertEqual(
        openai_responses.is_same_model('gpt-5-mini', replied), is_same
    )

  def test_another_model_is_refused_with_both_names(self):
    with self.assertRaisesRegex(ValueError, "'gpt-5-mini' .*'gpt-4o'"):
      Server(model='gpt-4o').write()

  @parameterized.parameters('price_output', 'parameters')
  def test_a_served_model_without_price_or_size_is_refused(self, name):
    spec = dict(
        price_input=0.4,
        price_cached=0.1,
        price_output=1.6,
        parameters=8,
        num_layers=1,
        attention_width=4,
    )
    del spec[name]
    route = route_lib.Route('large', 'openai', 'gpt-5', spec=spec)
    with self.assertRaisesRegex(ValueError, f"'large' .* must give {name}"):
      route.cost_spec()


class _Trimming(Server):
  """A server that refuses white space at the end of what it continues."""

  def app(self) -> fastapi.FastAPI:
    app = fastapi.FastAPI()

    @app.post('/v1/chat/completions')
    async def write(request: fastapi.Request):
      body = await request.json()
      self.bodies.append(body)
      last = body['messages'][-1]
      if last['content'] != last['content'].rstrip():
        error = {'message': 'must not end with trailing whitespace'}
        return responses.JSONResponse({'error': error}, 400)
      return self.response()

    return app


class TrimsEndTest(parameterized.TestCase):

  def _write(self, **fields):
    server = _Trimming(text='\n\nb\n\nc', model='gpt-5-mini')
    fields = dict(mode='prefill', reasoning_effort='') | fields
    return server, server.write(trace='a\n\n', **fields)

  @parameterized.parameters((False, ['b\n\n']), (True, ['b\n\n', 'c']))
  def test_the_blank_line_is_in_the_trace_once(self, to_end, texts):
    server, steps = self._write(trims_end=True, to_end=to_end)
    (body,) = server.bodies
    self.assertEqual(body['messages'][-1]['content'], 'a')
    self.assertNotIn('stop', body)  # The model would stop at once.
    self.assertEqual([step.text for step in steps], texts)
    self.assertEqual([step.is_final for step in steps][-1], to_end)
    self.assertEqual(steps_lib.call_usage(steps).written, 200)

  def test_undeclared_it_is_the_error_of_the_server(self):
    with self.assertRaisesRegex(engine_lib.Refused, 'trailing whitespace'):
      self._write()

  def test_only_where_a_message_is_continued(self):
    with self.assertRaisesRegex(ValueError, "trims_end .*allowed .*'prefill'"):
      endpoint_lib.Endpoint('http://x', 'm', 'instruct', trims_end=True)


if __name__ == '__main__':
  absltest.main()
