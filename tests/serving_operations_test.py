"""What a service needs to be left alone: keys, limits, failures, metrics."""

import contextlib
import io
import json
import logging
import pathlib
import random
import re
import socket
import threading
import time

from absl.testing import absltest
from absl.testing import parameterized

from routing import costs
from routing.engines import engine as engine_lib
from routing.serving import keys as keys_lib
from routing.serving import monitoring
from routing.serving import refusals
from routing.serving import waiting_room
from tests import router_server
from tests import scripted_pair

_SMALL, _LARGE = (spec.name for spec in scripted_pair.SPECS[:2])
_QUESTION = '12:5\n'
_CHAT = '/v1/chat/completions'


def _body(model='router@cost<=0.5', question=_QUESTION, **fields):
  return {
      'model': model,
      'messages': [{'role': 'user', 'content': question}],
  } | fields


def _until(is_so, seconds=20):
  """Waits until a function returns True, or raises after some seconds."""
  end = time.monotonic() + seconds
  while not is_so():
    if time.monotonic() > end:
      raise TimeoutError('It did not become so.')
    time.sleep(0.01)


def _metric(client, name, **labels):
  """Returns a metric's value as a scrape shows it; 0 if it is not there."""
  for line in client.get('/metrics').text.splitlines():
    found = re.fullmatch(rf'{name}(?:{{(.*)}})? (\S+)', line)
    if found and dict(re.findall(r'(\w+)="(.*?)"', found[1] or '')) == labels:
      return float(found[2])
  return 0.0


class OperationsTest(parameterized.TestCase):

  def serve(self, make=None, keys=(), engines=None, **settings):
    """Serves the scripted pair; returns what runs and a client."""
    running = self.enter_context(
        router_server.running(
            make
            or (
                lambda: router_server.scripted_service(
                    engines=engines, **settings
                )
            ),
            keys,
        )
    )
    return running, self.enter_context(running.client())

  def keys(self, **limits):
    """Makes a file with the key of alice; returns the keys and the secret."""
    path = pathlib.Path(self.create_tempdir().full_path) / 'keys.json'
    secret = keys_lib.add(path, 'alice')
    content = json.loads(path.read_text())
    content['alice'] |= limits
    path.write_text(json.dumps(content))
    return keys_lib.read(path), secret, path


class KeysTest(OperationsTest):

  def test_only_who_has_a_key_may_call(self):
    keys, secret, path = self.keys()
    self.assertNotIn(secret, path.read_text())
    self.assertEqual(path.stat().st_mode & 0o077, 0)  # The owner alone.
    self.assertNotIn(keys[0].sha256, repr(keys))
    _, client = self.serve(keys=keys)
    for header in (None, '', 'Bearer', f'Bearer {secret}x', f'Basic {secret}'):
      headers = {} if header is None else {'authorization': header}
      for method, where in (('POST', _CHAT), ('GET', '/metrics')):
        answer = client.request(method, where, json=_body(), headers=headers)
        self.assertEqual(answer.status_code, 401, header)
        self.assertEqual(answer.json()['error']['code'], 'invalid_api_key')
        self.assertNotIn(secret, answer.text)
    self.assertEqual(client.get('/health').status_code, 200)
    self.assertEqual(client.get('/ready').status_code, 200)
    client.headers['authorization'] = f'Bearer {secret}'
    self.assertEqual(client.post(_CHAT, json=_body()).status_code, 200)
    self.assertEqual(client.get('/v1/usage').json()['key'], 'alice')

  def test_a_name_is_given_once(self):
    _, _, path = self.keys()
    with self.assertRaisesRegex(ValueError, "'alice' already"):
      keys_lib.add(path, 'alice')
    for name in ('', 'a b', '(shadow)', 'anyone', 'x' * 65):
      with self.assertRaisesRegex(ValueError, 'allowed'):
        keys_lib.add(path, name)

  @parameterized.parameters(
      '[]', '{}', '{', '{"a": 1}', '{"a": {"sha256": "00"}}',
      '{"a": {"sha256": "%s", "max_tokens": -1}}' % ('0' * 64),
      '{"a": {"sha256": "%s", "max_tokens": "1"}}' % ('0' * 64),
      '{"a": {"sha256": "%s", "made_up": 1}}' % ('0' * 64),
  )  # pyformat: disable
  def test_a_file_that_is_none_is_refused(self, content):
    path = pathlib.Path(self.create_tempfile(content=content).full_path)
    with self.assertRaisesRegex(ValueError, str(path)):
      keys_lib.read(path)

  def test_a_rate_by_hand(self):
    now = [0.0]
    ring = keys_lib.Keyring(clock=lambda: now[0])
    key = keys_lib.Key('a', requests_per_minute=2)
    ring.count(key)
    ring.count(key)
    with self.assertRaises(refusals.Refusal) as caught:
      ring.count(key)
    # Two a minute: the next comes after 30 seconds.
    self.assertEqual(caught.exception.status, 429)
    self.assertEqual(caught.exception.retry_after, 30)
    now[0] = 29.0
    with self.assertRaises(refusals.Refusal):
      ring.count(key)
    now[0] = 30.0
    ring.count(key)

  def test_limits_over_http(self):
    keys, secret, _ = self.keys(requests_per_minute=3, max_tokens=100)
    _, client = self.serve(keys=keys)
    client.headers['authorization'] = f'Bearer {secret}'
    self.assertEqual(client.post(_CHAT, json=_body()).status_code, 200)
    self.assertEqual(client.post(_CHAT, json=_body()).status_code, 200)
    # Each reads and writes 58 tokens: 5 + 4, 9 + 4 (cached) and 9 + 23... so
    # the second went over 100, and the third may not begin.
    used = client.get('/v1/usage').json()['models']
    total = sum(x['read'] + x['cached'] + x['written'] for x in used.values())
    self.assertGreater(total, 100)
    answer = client.post(_CHAT, json=_body())
    self.assertEqual(answer.status_code, 429)
    self.assertEqual(answer.json()['error']['code'], 'insufficient_quota')
    answer = client.post(_CHAT, json=_body())
    self.assertEqual(answer.json()['error']['code'], 'rate_limit_exceeded')
    self.assertGreaterEqual(int(answer.headers['retry-after']), 1)


class LimitsTest(OperationsTest):

  def test_bodies_and_questions_that_are_too_long(self):
    _, client = self.serve(max_body_bytes=1_000, max_question_characters=50)
    answer = client.post(_CHAT, json=_body(question='1' * 51))
    self.assertEqual(answer.status_code, 400)
    self.assertIn('51 characters', answer.json()['error']['message'])
    answer = client.post(_CHAT, json=_body(question='1' * 1_000))
    self.assertEqual(answer.status_code, 413)
    self.assertIn('1000 bytes', answer.json()['error']['message'])

    def parts():  # Without a length in advance.
      for _ in range(30):
        yield b' ' * 100

    answer = client.post(_CHAT, content=parts())
    self.assertEqual(answer.status_code, 413)
    self.assertIn('1000 bytes', answer.json()['error']['message'])

  def test_no_page_of_elsewhere_may_call_unless_allowed(self):
    headers = {
        'origin': 'https://a.example',
        'access-control-request-method': 'POST',
    }
    name = 'access-control-allow-origin'
    _, client = self.serve()
    answer = client.options(_CHAT, headers=headers)
    self.assertNotIn(name, answer.headers)
    _, client = self.serve(cors_origins=('https://a.example',))
    answer = client.options(_CHAT, headers=headers)
    self.assertEqual(answer.headers[name], 'https://a.example')
    headers['origin'] = 'https://b.example'
    answer = client.options(_CHAT, headers=headers)
    self.assertNotIn(name, answer.headers)

  def test_a_full_queue_says_when_to_come_again(self):
    engines = scripted_pair.make_engines(2, delay=0.1)
    running, client = self.serve(engines=engines, concurrency=1, queue=1)
    answers = []

    def ask():
      with running.client() as other:
        answers.append(other.post(_CHAT, json=_body(model=_SMALL)))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
      thread.start()
    room = running.service.room
    _until(lambda: (room.num_running, room.num_waiting) == (1, 1))
    self.assertEqual(_metric(client, 'routing_waiting_answers'), 1)
    answer = client.post(_CHAT, json=_body())
    self.assertEqual(answer.status_code, 429)
    self.assertEqual(answer.json()['error']['code'], 'queue_full')
    self.assertGreaterEqual(int(answer.headers['retry-after']), 1)
    for thread in threads:
      thread.join()
    self.assertEqual([x.status_code for x in answers], [200, 200])
    self.assertEqual((room.num_running, room.num_waiting), (0, 0))
    self.assertEqual(client.post(_CHAT, json=_body()).status_code, 200)

  def test_room_by_hand(self):
    room = waiting_room.WaitingRoom(concurrency=2, capacity=1)
    with room.admitted(2), room.admitted(1):
      with self.assertRaises(refusals.Refusal):
        with room.admitted(1):
          pass
    with room.admitted(3):
      self.assertEqual(room.num_waiting, 3)
    self.assertEqual(room.num_waiting, 0)


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


class FailuresTest(OperationsTest):

  def flaky(self, route, **settings):
    engines = scripted_pair.make_engines(2)
    flaky = _Flaky(engines[route])
    running, client = self.serve(engines=engines, **settings)
    return flaky, running, client

  @parameterized.parameters(
      (0, 'large', _LARGE), (1, 'small', _SMALL),
      (0, 'small', None), (1, 'large', None), (1, 'none', None),
  )  # pyformat: disable
  def test_what_answers_while_a_back_end_is_down(self, route, fall_back, model):
    flaky, running, client = self.flaky(
        route, fall_back=fall_back, retry_down_after=0.2
    )
    self.assertEqual(client.post(_CHAT, json=_body()).status_code, 200)
    flaky.is_down = True
    name = (_SMALL, _LARGE)[route]
    for _ in range(2):  # The failure itself, and while it is known.
      answer = client.post(_CHAT, json=_body())
      if model is None:
        self.assertEqual(answer.status_code, 503)
        self.assertEqual(answer.json()['error']['code'], 'back_end_down')
        self.assertIn('retry-after', answer.headers)
      else:
        self.assertEqual(answer.status_code, 200)
        self.assertEqual(answer.json()['model'], model)
        self.assertEqual(answer.json()['routing']['fall_back'], model)
        self.assertIsNone(answer.json()['routing']['promise'])
    self.assertFalse(running.service.health.is_up(route))
    self.assertEqual(_metric(client, 'routing_back_end_up', route=name), 0)
    self.assertGreaterEqual(
        _metric(client, 'routing_back_end_errors_total', route=name), 1
    )
    if model is not None:
      self.assertEqual(
          _metric(client, 'routing_fall_backs_total', reason='back_end_down'), 2
      )
    flaky.is_down = False
    _until(lambda: not running.service.health.is_down(route))
    answer = client.post(_CHAT, json=_body())
    self.assertEqual(answer.json()['model'], 'router@cost<=0.5')
    self.assertEqual(_metric(client, 'routing_back_end_up', route=name), 1)

  def test_a_failure_in_the_middle_costs_what_was_written(self):
    flaky, _, client = self.flaky(1, fall_back='small')
    flaky.is_down = True
    answer = client.post(_CHAT, json=_body()).json()
    routing = answer['routing']
    # The small model wrote a step and a draft for the router, then all again.
    self.assertEqual(routing['steps'][0]['wasted_tokens'], 8)
    self.assertAlmostEqual(
        sum(x['cost']['price'] for x in routing['steps']),
        routing['cost']['price'],
    )
    used = client.get('/v1/usage').json()['models']
    self.assertEqual(used[_SMALL]['written'], 8 + 27)

  def test_steps_that_were_sent_are_not_taken_back(self):
    flaky, _, client = self.flaky(1, fall_back='small')
    flaky.is_down = True
    answer = client.post(_CHAT, json=_body(stream=True))
    events = [x[6:] for x in answer.text.split('\n\n') if x]
    # A step of the small model, then the hand-over fails.
    self.assertIn('13', events[0])
    self.assertEqual(json.loads(events[1])['error']['code'], 'back_end_down')
    self.assertEqual(events[2], '[DONE]')

  def test_an_error_of_our_own_tells_a_client_nothing(self):
    flaky, _, client = self.flaky(0)
    flaky.is_down, flaky.error = True, KeyError('the password')
    log = io.StringIO()
    self.enter_context(_logged_to(log))
    answer = client.post(
        _CHAT, json=_body(), headers={'x-request-id': 'mine-1'}
    )
    self.assertEqual(answer.status_code, 500)
    self.assertNotIn('password', answer.text)
    self.assertEqual(answer.headers['x-request-id'], 'mine-1')
    _until(lambda: '"request"' in log.getvalue())
    lines = list(map(json.loads, log.getvalue().splitlines()))
    self.assertEqual({x['request_id'] for x in lines}, {'mine-1'})
    self.assertEqual([x['event'] for x in lines], ['error', 'request'])
    self.assertEqual(lines[1]['status'], 500)

  def test_not_ready_when_nothing_answers(self):
    flaky, running, client = self.flaky(0, retry_down_after=60)
    other = _Flaky(running.service.engines[1]._engine)
    flaky.is_down = other.is_down = True
    self.assertEqual(client.get('/ready').json()['status'], 'ready')
    self.assertEqual(client.post(_CHAT, json=_body()).status_code, 503)
    answer = client.get('/ready')
    self.assertEqual(answer.status_code, 503)
    self.assertEqual(
        answer.json()['models'], {_SMALL: False, _LARGE: False}
    )
    self.assertEqual(client.get('/health').status_code, 200)


@contextlib.contextmanager
def _logged_to(stream):
  """Sends the log of the service to a stream."""
  before = monitoring.LOG.handlers, monitoring.LOG.propagate
  monitoring.set_up_log(stream)
  try:
    yield
  finally:
    monitoring.LOG.handlers, monitoring.LOG.propagate = before


class ClientsTest(OperationsTest):

  @parameterized.parameters(False, True)
  def test_a_client_that_goes_away_ends_its_work(self, stream):
    engines = scripted_pair.make_engines(2, delay=0.2)
    running, client = self.serve(engines=engines)
    body = json.dumps(_body(model=_SMALL, stream=stream)).encode()
    port = int(running.url.rpartition(':')[2])
    with socket.create_connection(('127.0.0.1', port)) as connection:
      connection.sendall(
          f'POST {_CHAT} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json'
          f'\r\ncontent-length: {len(body)}\r\n\r\n'.encode() + body
      )
      _until(lambda: len(engines[0].requests) == 2)
    _until(lambda: running.service.room.num_running == 0)
    self.assertEqual(engines[0].num_open, 0)  # The cache is free again.
    self.assertEqual(engines[0].num_in_flight, 0)
    time.sleep(0.3)
    self.assertLen(engines[0].requests, 2)  # Five more would have followed.
    # The first step was paid: it read 5 tokens and wrote 4.
    used = client.get('/v1/usage').json()['models'][_SMALL]
    self.assertEqual((used['read'], used['written']), (5, 4))
    _until(
        lambda: _metric(
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
        answers.append(other.post(_CHAT, json=_body(model=_SMALL)))

    thread = threading.Thread(target=ask)
    thread.start()
    _until(lambda: engines[0].requests)
    running.server.should_exit = True
    thread.join()
    self.assertEqual(answers[0].status_code, 200)
    self.assertEqual(answers[0].json()['choices'][0]['finish_reason'], 'stop')
    self.assertLen(engines[0].requests, 6)

  def test_many_clients_at_once_get_their_own_answers(self):
    running, client = self.serve(concurrency=8)
    problems = scripted_pair.make_problems(40)
    wanted = [
        client.post(_CHAT, json=_body(question=x.question)).json()
        for x in problems
    ]
    found = [None] * len(problems)

    def ask(start):
      with running.client() as other:
        for i in range(start, len(problems), 8):
          body = _body(question=problems[i].question)
          found[i] = other.post(_CHAT, json=body).json()

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    for one, other in zip(wanted, found, strict=True):
      self.assertEqual(one['choices'], other['choices'])
      self.assertEqual(one['routing']['cost'], other['routing']['cost'])


class MetricsTest(OperationsTest):

  def test_what_is_counted(self):
    running, client = self.serve()
    answer = client.post(_CHAT, json=_body()).json()
    client.post(_CHAT, json=_body(model=_SMALL))
    client.get('/v1/secrets/alice')
    for name, value, labels in (
        ('routing_requests_total', 2, dict(endpoint=_CHAT, status='200')),
        ('routing_requests_total', 1, dict(endpoint='other', status='404')),
        (
            'routing_answers_total',
            1,
            dict(model='router@cost<=0.5', handed_over='true'),
        ),
        ('routing_answers_total', 1, dict(model=_SMALL, handed_over='false')),
        ('routing_decisions_total', 1, dict(route=_LARGE)),
        ('routing_wasted_tokens_total', 4, {}),
        ('routing_tokens_total', 8 + 27, dict(route=_SMALL, kind='written')),
        ('routing_time_to_first_token_seconds_count', 2, {}),
        ('routing_step_seconds_count', 1 + 6, dict(route=_SMALL)),
        ('routing_running_answers', 0, {}),
    ):
      self.assertEqual(_metric(client, name, **labels), value, name)
    small = client.post(_CHAT, json=_body(model=_SMALL)).json()
    self.assertAlmostEqual(
        _metric(client, 'routing_cost_total', metric='price'),
        answer['routing']['cost']['price']
        + 2 * small['routing']['cost']['price'],
    )
    self.assertGreater(
        _metric(client, 'routing_large_alone_cost_total', metric='price'),
        _metric(client, 'routing_cost_total', metric='price'),
    )
    del running

  def test_a_log_line_has_no_secret_and_no_text(self):
    keys, secret, _ = self.keys()
    log = io.StringIO()
    self.enter_context(_logged_to(log))
    _, client = self.serve(keys=keys)
    client.headers['authorization'] = f'Bearer {secret}'
    client.post(f'{_CHAT}?key={secret}', json=_body())
    client.post(_CHAT, json=_body(made_up=secret))
    client.get(f'/{secret}')
    _until(lambda: log.getvalue().count('"request"') == 3)
    self.assertNotIn(secret, log.getvalue())
    self.assertNotIn('12:5', log.getvalue())
    first = json.loads(log.getvalue().splitlines()[0])
    self.assertEqual(first['key'], 'alice')
    self.assertEqual(first['model'], 'router@cost<=0.5')
    self.assertEqual(first['status'], 200)
    self.assertCountEqual(first['cost'], costs.COST_METRICS)


if __name__ == '__main__':
  absltest.main()
