"""Back ends that fail, clients that go away, a service that stops."""

import io
import json
import logging
import socket
import threading
import time

from absl.testing import absltest
from absl.testing import parameterized

from routing.engines import engine as engine_lib
from tests import router_server
from tests import scripted_pair


class _Flaky:
  """Makes an engine fail while `is_down`."""

  def __init__(self, engine):
    self.is_down, self.error = False, engine_lib.Unavailable('It is down.')
    self._reply = engine.reply
    engine.reply = self.reply

  async def reply(self, session, request):
    if self.is_down:
      raise self.error
    return await self._reply(session, request)


class FailuresTest(router_server.ServedCase):

  def flaky(self, route, **settings):
    engines = scripted_pair.make_engines(2)
    flaky = _Flaky(engines[route])
    running, client = self.serve(engines=engines, **settings)
    return flaky, running, client

  @parameterized.parameters(
      (0, 'large', router_server.LARGE),
      (1, 'small', router_server.SMALL),
      (0, 'small', None),
      (1, 'large', None),
      (1, 'none', None),
  )  # pyformat: disable
  def test_what_answers_while_a_back_end_is_down(self, route, fall_back, model):
    flaky, running, client = self.flaky(
        route, fall_back=fall_back, retry_down_after=0.2
    )
    self.assertEqual(
        client.post(router_server.CHAT, json=router_server.body()).status_code,
        200,
    )
    flaky.is_down = True
    name = (router_server.SMALL, router_server.LARGE)[route]
    for _ in range(2):  # The failure itself, and while it is known.
      answer = client.post(router_server.CHAT, json=router_server.body())
      if model is None:
        self.assertEqual(answer.status_code, 503)
        self.assertEqual(answer.json()['error']['code'], 'back_end_down')
        self.assertIn('retry-after', answer.headers)
      else:
        self.assertEqual(answer.status_code, 200)
        self.assertEqual(answer.json()['model'], model)
        routing = answer.json()['routing']
        self.assertEqual(routing['fall_back'], model)
        self.assertEqual(routing['fall_back_reason'], 'back_end_down')
        self.assertIsNone(answer.json()['routing']['promise'])
    self.assertEqual(
        router_server.metric(client, 'routing_back_end_up', route=name), 0
    )
    self.assertGreaterEqual(
        router_server.metric(
            client, 'routing_back_end_errors_total', route=name
        ),
        1,
    )
    if model is not None:
      self.assertEqual(
          router_server.metric(
              client, 'routing_fall_backs_total', reason='back_end_down'
          ),
          2,
      )
    flaky.is_down = False
    router_server.until(lambda: not running.service.health.is_down(route))
    answer = client.post(router_server.CHAT, json=router_server.body())
    self.assertEqual(answer.json()['model'], 'router@cost<=0.5')
    self.assertEqual(
        router_server.metric(client, 'routing_back_end_up', route=name), 1
    )

  def test_a_model_asked_for_by_name_is_not_replaced(self):
    flaky, _, client = self.flaky(1, fall_back='small')
    flaky.is_down = True
    for _ in range(2):
      answer = client.post(
          router_server.CHAT, json=router_server.body(model=router_server.LARGE)
      )
      self.assertEqual(answer.status_code, 503)

  def test_a_stream_names_what_answers(self):
    flaky, _, client = self.flaky(0, fall_back='large')
    flaky.is_down = True
    for _ in range(2):
      answer = client.post(
          router_server.CHAT, json=router_server.body(stream=True)
      )
      self.assertEqual(answer.headers['x-routing-model'], router_server.LARGE)
      lines = [x[6:] for x in answer.text.split('\n\n') if x]
      models = {json.loads(x)['model'] for x in lines[:-1]}
      self.assertEqual(models, {router_server.LARGE})

  def test_a_failure_in_the_middle_costs_what_was_written(self):
    flaky, _, client = self.flaky(1, fall_back='small')
    flaky.is_down = True
    answer = client.post(router_server.CHAT, json=router_server.body()).json()
    routing = answer['routing']
    # The small model wrote a step and a draft for the router, then all again.
    self.assertEqual(routing['steps'][0]['wasted_tokens'], 8)
    self.assertAlmostEqual(
        sum(x['cost']['price'] for x in routing['steps']),
        routing['cost']['price'],
    )
    used = client.get('/v1/usage').json()['models']
    self.assertEqual(used[router_server.SMALL]['written'], 8 + 27)

  def test_steps_that_were_sent_are_not_taken_back(self):
    flaky, _, client = self.flaky(1, fall_back='small')
    flaky.is_down = True
    answer = client.post(
        router_server.CHAT, json=router_server.body(stream=True)
    )
    events = [x[6:] for x in answer.text.split('\n\n') if x]
    # A step of the small model, then the hand-over fails.
    self.assertIn('13', events[0])
    self.assertEqual(json.loads(events[1])['error']['code'], 'back_end_down')
    self.assertEqual(events[2], '[DONE]')
    self.assertEqual(
        router_server.metric(
            client, 'routing_unfinished_answers_total', reason='back_end_down'
        ),
        1,
    )

  def test_a_refused_request_is_counted_and_takes_no_back_end_down(self):
    flaky, running, client = self.flaky(0)
    flaky.is_down, flaky.error = True, engine_lib.Refused('Too long.')
    answer = client.post(router_server.CHAT, json=router_server.body())
    self.assertEqual(answer.status_code, 400)
    self.assertFalse(running.service.health.is_down(0))
    self.assertEqual(
        router_server.metric(
            client, 'routing_back_end_errors_total', route=router_server.SMALL
        ),
        1,
    )

  def test_every_line_of_the_log_names_its_request(self):
    flaky, _, client = self.flaky(0, fall_back='large')
    flaky.is_down = True
    log = io.StringIO()
    self.enter_context(router_server.logged_to(log))
    logging.getLogger('another.package').warning('The key is sk-password.')
    client.post(
        router_server.CHAT,
        json=router_server.body(),
        headers={'x-request-id': 'mine-2'},
    )
    router_server.until(lambda: '"request"' in log.getvalue())
    first, *lines = map(json.loads, log.getvalue().splitlines())
    self.assertEqual(first['event'], 'The key is ***.')
    self.assertEqual(first['logger'], 'another.package')
    self.assertEqual(
        [(x['event'], x['request_id']) for x in lines],
        [(x, 'mine-2') for x in ('back_end_down', 'fall_back', 'request')],
    )

  def test_an_error_of_our_own_tells_a_client_nothing(self):
    flaky, _, client = self.flaky(0)
    flaky.is_down, flaky.error = True, KeyError('sk-password')
    log = io.StringIO()
    self.enter_context(router_server.logged_to(log))
    answer = client.post(
        router_server.CHAT,
        json=router_server.body(),
        headers={'x-request-id': 'mine-1'},
    )
    self.assertEqual(answer.status_code, 500)
    self.assertNotIn('password', answer.text)
    self.assertEqual(answer.headers['x-request-id'], 'mine-1')
    router_server.until(lambda: '"request"' in log.getvalue())
    lines = list(map(json.loads, log.getvalue().splitlines()))
    self.assertEqual({x['request_id'] for x in lines}, {'mine-1'})
    self.assertEqual([x['event'] for x in lines], ['error', 'request'])
    self.assertEqual(lines[1]['status'], 500)
    # The operator sees where it failed, and no key that a library has quoted.
    self.assertIn('KeyError', lines[0]['trace'])
    self.assertNotIn('password', log.getvalue())

  def test_not_ready_when_nothing_answers(self):
    flaky, running, client = self.flaky(0, retry_down_after=60)
    other = _Flaky(running.service.engines[1]._engine)
    flaky.is_down = other.is_down = True
    self.assertEqual(client.get('/ready').json()['status'], 'ready')
    self.assertEqual(
        client.post(router_server.CHAT, json=router_server.body()).status_code,
        503,
    )
    answer = client.get('/ready')
    self.assertEqual(answer.status_code, 503)
    self.assertEqual(
        answer.json()['models'],
        {router_server.SMALL: False, router_server.LARGE: False},
    )
    self.assertEqual(client.get('/health').status_code, 200)
    # When they may be tried again, requests have to come to find out.
    running.service.health._retry_after = 0.0
    self.assertEqual(client.get('/ready').status_code, 200)
    flaky.is_down = other.is_down = False
    self.assertEqual(
        client.post(router_server.CHAT, json=router_server.body()).status_code,
        200,
    )


class ClientsTest(router_server.ServedCase):

  @parameterized.parameters(False, True)
  def test_a_client_that_goes_away_ends_its_work(self, stream):
    engines = scripted_pair.make_engines(2, delay=0.2)
    running, client = self.serve(engines=engines)
    body = json.dumps(
        router_server.body(model=router_server.SMALL, stream=stream)
    ).encode()
    port = int(running.url.rpartition(':')[2])
    with socket.create_connection(('127.0.0.1', port)) as connection:
      connection.sendall(
          f'POST {router_server.CHAT} HTTP/1.1\r\nhost: a\r\n'
          'content-type: application/json\r\n'
          f'content-length: {len(body)}\r\n\r\n'.encode() + body
      )
      router_server.until(lambda: len(engines[0].requests) == 2)
    router_server.until(lambda: running.service.room.num_running == 0)
    self.assertEqual(engines[0].num_open, 0)  # The cache is free again.
    self.assertEqual(engines[0].num_in_flight, 0)
    time.sleep(0.3)
    self.assertLen(engines[0].requests, 2)  # Five more would have followed.
    # The first step was paid: it read 5 tokens and wrote 4. Of the second, the
    # prompt of 9: this back end says nothing of a call that was given up.
    used = client.get('/v1/usage').json()['models'][router_server.SMALL]
    self.assertEqual((used['read'], used['written']), (5 + 9, 4))
    router_server.until(
        lambda: router_server.metric(
            client, 'routing_unfinished_answers_total', reason='client gone'
        )
        == 1
    )

  def test_accepted_requests_finish_when_the_service_stops(self):
    engines = scripted_pair.make_engines(2, delay=0.1)
    running, _ = self.serve(engines=engines)
    answers = []

    def ask():
      with running.client() as other:
        answers.append(
            other.post(
                router_server.CHAT,
                json=router_server.body(model=router_server.SMALL),
            )
        )

    thread = threading.Thread(target=ask)
    thread.start()
    router_server.until(lambda: engines[0].requests)
    running.server.should_exit = True
    thread.join()
    self.assertEqual(answers[0].status_code, 200)
    self.assertEqual(answers[0].json()['choices'][0]['finish_reason'], 'stop')
    self.assertLen(engines[0].requests, 6)

  def test_many_clients_at_once_get_their_own_answers(self):
    running, client = self.serve(concurrency=8)
    problems = scripted_pair.make_problems(40)
    wanted = [
        client.post(
            router_server.CHAT, json=router_server.body(question=x.question)
        ).json()
        for x in problems
    ]
    found = [None] * len(problems)

    def ask(start):
      with running.client() as other:
        for i in range(start, len(problems), 8):
          body = router_server.body(question=problems[i].question)
          found[i] = other.post(router_server.CHAT, json=body).json()

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    for one, other in zip(wanted, found, strict=True):
      self.assertEqual(one['choices'], other['choices'])
      self.assertEqual(one['routing']['cost'], other['routing']['cost'])


if __name__ == '__main__':
  absltest.main()
