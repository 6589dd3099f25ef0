"""What a service refuses by name, and that others do not suffer from it."""

import dataclasses

from absl.testing import absltest

from routing.engines import endpoint as endpoint_lib
from routing.engines import openai
from routing.rollout import step_requests
from routing.serving import answering
from routing.serving import settings as settings_lib
from routing.serving import store as store_lib
from tests import router_server
from tests import scripted_pair


def _with_thinker(temperature):
  """Returns a service whose larger model has a reasoning effort.

  Args:
    temperature: the configured ones.
  """
  # No request may reach its server, which does not exist.
  thinker = openai.OpenAIEngine(
      router_server.LARGE,
      1,
      endpoint_lib.Endpoint(
          'http://127.0.0.1:9/v1', 'm', mode='instruct', reasoning_effort='low'
      ),
  )
  router = router_server.make_router()
  return answering.Service(
      dataclasses.replace(
          router_server.make_answering(router),
          sampling=step_requests.Sampling(temperature),
      ),
      [scripted_pair.make_engines(1)[0], thinker],
      router,
      settings_lib.Settings(),
      store_lib.Store(None),
  )


class TemperatureTest(router_server.ServedCase):

  def test_a_model_that_thinks_refuses_others_and_stays_up(self):
    running, client = self.serve(lambda: _with_thinker((0.0, 1.0)))
    for model in ('router@cost<=0.5', router_server.LARGE):
      answer = client.post(
          router_server.CHAT,
          json=router_server.body(model=model, temperature=0.5),
      )
      self.assertEqual(answer.status_code, 400, answer.text)
      error = answer.json()['error']
      self.assertEqual(error['param'], 'temperature')
      self.assertIn(router_server.LARGE, error['message'])
      self.assertIn('1.0', error['message'])
    self.assertFalse(running.service.health.is_down(1))
    # It does not concern who does not ask it.
    body = router_server.body(model=router_server.SMALL, temperature=0.5)
    self.assertEqual(
        client.post(router_server.CHAT, json=body).status_code, 200
    )

  def test_a_configuration_that_asks_otherwise_is_not_served(self):
    with self.assertRaisesRegex(
        ValueError, f'{router_server.LARGE}.* only, .* asks for 0.0'
    ):
      _with_thinker(0.0)


class LogprobsTest(router_server.ServedCase):

  def test_a_model_alone_needs_its_own_back_end_only(self):
    _, client = self.serve(lambda: _with_thinker((0.0, 1.0)))
    ask = lambda model: client.post(
        router_server.CHAT,
        json=router_server.body(model=model, logprobs=True),
    )
    answer = ask(router_server.SMALL)
    self.assertEqual(answer.status_code, 200, answer.text)
    self.assertNotEmpty(answer.json()['choices'][0]['logprobs']['content'])
    for model in ('router@cost<=0.5', router_server.LARGE):
      answer = ask(model)
      self.assertEqual(answer.status_code, 400)
      self.assertEqual(answer.json()['error']['param'], 'logprobs')


if __name__ == '__main__':
  absltest.main()
