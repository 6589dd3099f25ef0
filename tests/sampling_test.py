"""Tests of how each route samples: its own fields, and none in silence."""

import asyncio

from absl.testing import absltest
from absl.testing import parameterized

from configs import arithmetic_servers
from experiments import builders
from routing import types
from routing.engines import back_ends
from routing.engines import endpoint as endpoint_lib
from routing.engines import openai
from routing.engines import route as route_lib
from routing.engines import scripted
from routing.rollout import step_requests
from tests import openai_server
from tests import sessions

_NONE = {'top_p': 1.0, 'top_k': 0, 'min_p': 0.0, 'repetition_penalty': 1.0}


def _config(**sampling):
  """Returns a configuration whose large route samples in its own way."""
  config = arithmetic_servers.get_config('smoke')
  config.routes[1]['sampling'] = sampling
  return config


class RouteTest(parameterized.TestCase):

  def test_an_unknown_field_is_an_error(self):
    with self.assertRaisesRegex(ValueError, "'x' .*'top'; allowed: temperat"):
      route_lib.Route('x', 'openai', 'm', sampling={'top': 1})

  @parameterized.parameters('embedded', 'llama_cpp')
  def test_a_back_end_that_only_knows_the_temperature(self, engine):
    route = route_lib.Route(
        'x', engine, 'shipped/small', sampling={'top_p': 0.9}
    )
    with self.assertRaisesRegex(ValueError, f"top_p; engine '{engine}' has"):
      back_ends.make(route, 0)

  def test_is_in_the_key_of_its_route(self):
    plain, same, other = (
        builders.answer_keys(config)
        for config in (
            arithmetic_servers.get_config('smoke'),
            _config(),
            _config(top_p=0.9),
        )
    )
    self.assertEqual(plain, same)
    self.assertEqual(plain[0], other[0])
    self.assertEqual(other[1], plain[1] | {'sampling': {'top_p': 0.9}})


class TemperatureTest(absltest.TestCase):

  def test_each_route_has_its_own(self):
    config = _config(temperature=1.0)
    config.collect.temperature = 0.0
    sampling = builders.sampling(config)
    self.assertEqual(sampling.temperature, (0.0, 1.0))
    self.assertFalse(sampling.is_greedy)
    self.assertEqual(builders.sampling(_config(top_p=0.5)).temperature, 0.0)
    with self.assertRaisesRegex(ValueError, r'\(0.0, -1.0\); allowed: >= 0'):
      step_requests.Sampling(temperature=(0.0, -1.0))

  def test_reaches_the_requests_of_its_route(self):
    asked = []

    def script(request):
      asked.append(request.temperature)
      return 'a'

    problem = types.Problem('p/0', 'q', '1')

    async def write(route):
      engine = scripted.ScriptedEngine('s', route, script)
      async with engine.open('q') as session:
        await step_requests.write(
            problem,
            (),
            session,
            to_end=True,
            seed=0,
            sampling=step_requests.Sampling(temperature=(0.0, 0.7)),
        )

    for route in range(2):
      asyncio.run(write(route))
    self.assertEqual(asked, [0.0, 0.7])


class RequestTest(parameterized.TestCase):

  def _body(self, sampling, **fields):
    """Returns the body of a request to a server."""
    fields = dict(mode='completions', is_vllm=True) | fields
    model = openai_server.Model(
        scripted.ScriptedEngine('s', 0, lambda request: 'a'),
        is_vllm=fields['is_vllm'],
    )

    async def run(url):
      engine = openai.OpenAIEngine(
          'x', 0, endpoint_lib.Endpoint(url, 'm', **fields), sampling=sampling
      )
      await sessions.write_all(engine, [sessions.ask('q')])
      await engine.close()

    with openai_server.serve(openai_server.make_app(model)) as url:
      asyncio.run(run(url))
    (body,) = model.requests
    return {name: body[name] for name in _NONE if name in body}

  @parameterized.parameters(
      ({}, {}, _NONE),
      ({'top_p': 0.9}, {}, _NONE | {'top_p': 0.9}),
      ({}, {'is_vllm': False}, {}),
      ({'top_p': 0.9}, {'is_vllm': False}, {'top_p': 0.9}),
  )
  def test_vllms_server_is_told_all_that_it_would_take_from_a_file(
      self, sampling, fields, expected
  ):
    self.assertEqual(self._body(sampling, **fields), expected)


if __name__ == '__main__':
  absltest.main()
