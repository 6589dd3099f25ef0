"""What a service refuses by name, and that others do not suffer from it."""

import dataclasses
import io
import json

from absl.testing import absltest
import httpx
import openai as openai_client

from routing.engines import endpoint as endpoint_lib
from routing.engines import engine as engine_lib
from routing.engines import openai
from routing.engines import openai_faults
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


class QuestionTest(router_server.SharedCase):
  """Questions that are none, in whichever form they come."""

  def refused(self, path, content):
    """Returns the error of a request that is refused."""
    answer = self.http.post(
        path, content=content, headers={'content-type': 'application/json'}
    )
    self.assertEqual(answer.status_code, 400, answer.text)
    return answer.json()['error']

  def asked(self, content):
    """Returns the body of a chat with this content of its message, as JSON."""
    message = {'role': 'user', 'content': content}
    return json.dumps({'model': 'router', 'messages': [message]})

  def test_what_a_part_has_besides_its_text_is_refused(self):
    part = {'type': 'text', 'text': router_server.QUESTION}
    error = self.refused(
        router_server.CHAT,
        self.asked([part, part | {'cache_control': {'type': 'ephemeral'}}]),
    )
    self.assertEqual(error['param'], 'messages[0].content[1].cache_control')
    self.assertEqual(error['code'], 'unsupported_parameter')
    # A name that cannot be sent back as it came.
    error = self.refused(router_server.CHAT, self.asked([part | {'\ud800': 1}]))
    self.assertEqual(error['param'], 'messages[0].content[0].?')
    # What means nothing is accepted, as everywhere.
    found = self.http.post(
        router_server.CHAT,
        content=self.asked([part | {'cache_control': None}]),
        headers={'content-type': 'application/json'},
    )
    self.assertEqual(found.status_code, 200)

  def test_half_a_character_is_refused(self):
    half = '\ud800'
    draft = dict(text='1', model=router_server.SMALL, tokens=1)
    decision = dict(model='router', question='12:5\n', draft=draft)
    for path, content, param in (
        (router_server.CHAT, self.asked(half), 'messages'),
        (
            router_server.CHAT,
            self.asked([{'type': 'text', 'text': half}]),
            'messages',
        ),
        (
            '/v1/completions',
            json.dumps({'model': 'router', 'prompt': ['12:5\n', half]}),
            'prompt',
        ),
        (
            '/v1/decision',
            json.dumps(decision | {'question': half}),
            'question',
        ),
        (
            '/v1/decision',
            json.dumps(decision | {'draft': draft | {'text': half}}),
            'draft.text',
        ),
    ):
      self.assertEqual(self.refused(path, content)['param'], param, content)

  def test_what_a_decision_sees_is_not_too_long(self):
    draft = dict(text='1', model=router_server.SMALL, tokens=1)
    body = dict(model='router', question='12:5\n', draft=draft)
    most = self.service.settings.max_question_characters
    error = self.refused(
        '/v1/decision', json.dumps(body | {'question': '1' * (most + 1)})
    )
    self.assertEqual(error['param'], 'question')
    self.assertIn(f'{most + 1} characters', error['message'])
    error = self.refused(
        '/v1/decision',
        json.dumps(body | {'draft': draft | {'text': '1' * 20_001}}),
    )
    self.assertEqual(error['param'], 'draft.text')

  def test_what_is_no_json_is_said_in_plain_words(self):
    error = self.refused(router_server.CHAT, '{"model": "router" "messages"')
    self.assertIsNone(error['param'])
    self.assertEqual(
        error['message'],
        "The body is no valid JSON: Expecting ',' delimiter, at character 19.",
    )


class BackEndTest(router_server.ServedCase):
  """What a back end says of a question that it refuses."""

  def serve_refusing(self, error):
    engines = scripted_pair.make_engines(2)

    async def reply(session, request):
      del session, request
      raise error

    engines[0].reply = reply
    return self.serve(engines=engines)

  def test_its_own_words_are_for_the_log(self):
    status = httpx.Response(400, request=httpx.Request('POST', 'http://a'))
    body = {'error': {'message': "Bad input: '12:5'"}}
    error = openai_faults.read_fault(
        openai_client.BadRequestError(
            f'Error code: 400 - {body}', response=status, body=body
        ),
        router_server.SMALL,
    )
    log = io.StringIO()
    self.enter_context(router_server.logged_to(log))
    _, client = self.serve_refusing(error)
    fields = {'model': router_server.SMALL}
    for path, param, more in (
        (router_server.CHAT, 'messages', router_server.body()),
        ('/v1/completions', 'prompt', {'prompt': router_server.QUESTION}),
    ):
      answer = client.post(path, json=more | fields)
      self.assertEqual(answer.status_code, 400)
      self.assertEqual(
          answer.json()['error'],
          {
              'message': 'The back end refuses the question.',
              'type': 'invalid_request_error',
              'param': param,
              'code': 'question_refused',
          },
      )
    lines = map(json.loads, log.getvalue().splitlines())
    found = [x for x in lines if x['event'] == 'question_refused']
    self.assertLen(found, 2)
    self.assertIn('HTTP 400', found[0]['reason'])

  def test_words_of_ours_are_for_the_client(self):
    _, client = self.serve_refusing(engine_lib.Refused('No room is left.'))
    answer = client.post(router_server.CHAT, json=router_server.body())
    self.assertEqual(answer.json()['error']['message'], 'No room is left.')


if __name__ == '__main__':
  absltest.main()
