"""Who may ask a service, how much, and what it says of itself."""

import io
import json
import pathlib
import threading
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized

from routing import costs
from routing.serving import keys as keys_lib
from routing.serving import refusals
from routing.serving import waiting_room
from tests import router_server
from tests import scripted_pair


class KeysTest(router_server.ServedCase):

  def test_only_who_has_a_key_may_call(self):
    keys, secret, path = self.keys()
    self.assertNotIn(secret, path.read_text())
    self.assertEqual(path.stat().st_mode & 0o077, 0)  # The owner alone.
    self.assertNotIn(keys[0].sha256, repr(keys))
    _, client = self.serve(keys=keys)
    for header in (None, '', 'Bearer', f'Bearer {secret}x', f'Basic {secret}'):
      headers = {} if header is None else {'authorization': header}
      for method, where in (('POST', router_server.CHAT), ('GET', '/metrics')):
        answer = client.request(
            method, where, json=router_server.body(), headers=headers
        )
        self.assertEqual(answer.status_code, 401, header)
        self.assertEqual(answer.json()['error']['code'], 'invalid_api_key')
        self.assertNotIn(secret, answer.text)
    self.assertEqual(client.get('/health').status_code, 200)
    self.assertEqual(client.get('/ready').status_code, 200)
    client.headers['authorization'] = f'Bearer {secret}'
    self.assertEqual(
        client.post(router_server.CHAT, json=router_server.body()).status_code,
        200,
    )
    self.assertEqual(client.get('/v1/usage').json()['key'], 'alice')

  def test_a_name_is_given_once(self):
    _, _, path = self.keys()
    with self.assertRaisesRegex(ValueError, "'alice' already"):
      keys_lib.add(path, 'alice')
    for name in ('', 'a b', '(shadow)', 'anyone', 'x' * 65):
      with self.assertRaisesRegex(ValueError, 'allowed'):
        keys_lib.add(path, name)

  @parameterized.parameters(
      '[]',
      '{}',
      '{',
      '{"a": 1}',
      '{"a": {"sha256": "00"}}',
      '{"a": {"sha256": 5}}',
      '{"a": {"sha256": "%s"}}' % ('x' * 64),
      '{"(shadow)": {"sha256": "%s"}}' % ('0' * 64),
      '{"anyone": {"sha256": "%s"}}' % ('0' * 64),
      '{"a": {"sha256": "%s", "max_tokens": -1}}' % ('0' * 64),
      '{"a": {"sha256": "%s", "max_tokens": "1"}}' % ('0' * 64),
      '{"a": {"sha256": "%s", "made_up": 1}}' % ('0' * 64),
  )  # pyformat: disable
  def test_a_file_that_is_none_is_refused(self, content):
    path = pathlib.Path(self.create_tempfile(content=content).full_path)
    with self.assertRaisesRegex(ValueError, str(path)):
      keys_lib.read(path)

  def test_a_hash_may_have_large_letters(self):
    _, secret, path = self.keys()
    content = json.loads(path.read_text())
    content['alice']['sha256'] = content['alice']['sha256'].upper()
    path.write_text(json.dumps(content))
    ring = keys_lib.Keyring(keys_lib.read(path))
    self.assertEqual(ring.find(f'Bearer {secret}').name, 'alice')

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

  def test_less_than_one_request_a_minute(self):
    now = [0.0]
    ring = keys_lib.Keyring(clock=lambda: now[0])
    key = keys_lib.Key('a', requests_per_minute=0.5)
    ring.count(key)
    with self.assertRaisesRegex(refusals.Refusal, '0.5 requests') as caught:
      ring.count(key)
    self.assertEqual(caught.exception.retry_after, 120)
    now[0] = 120.0
    ring.count(key)

  def test_two_names_of_one_key_are_refused(self):
    _, _, path = self.keys()
    content = json.loads(path.read_text())
    content['bob'] = {'sha256': content['alice']['sha256'].upper()}
    path.write_text(json.dumps(content))
    with self.assertRaisesRegex(ValueError, "'alice' and 'bob'"):
      keys_lib.read(path)

  def test_a_budget_in_dollars(self):
    keys, secret, _ = self.keys(max_price=1e-6)
    _, client = self.serve(keys=keys)
    client.headers['authorization'] = f'Bearer {secret}'
    ask = lambda: client.post(router_server.CHAT, json=router_server.body())
    # The first one begins within its budget and costs more.
    answer = ask().json()
    spent = answer['routing']['cost']['price']
    self.assertGreater(spent, 1e-6)
    used = client.get('/v1/usage').json()['models'].values()
    self.assertAlmostEqual(sum(x['price'] for x in used), spent)
    refused = ask()
    self.assertEqual(refused.status_code, 429)
    error = refused.json()['error']
    self.assertEqual(error['code'], 'insufficient_quota')
    self.assertIn('its budget of 1e-06 dollars', error['message'])

  def test_limits_over_http(self):
    keys, secret, _ = self.keys(requests_per_minute=3, max_tokens=100)
    _, client = self.serve(keys=keys)
    client.headers['authorization'] = f'Bearer {secret}'
    self.assertEqual(
        client.post(router_server.CHAT, json=router_server.body()).status_code,
        200,
    )
    self.assertEqual(
        client.post(router_server.CHAT, json=router_server.body()).status_code,
        200,
    )
    # Each reads and writes 58 tokens: 5 + 4, 9 + 4 (cached) and 9 + 23... so
    # the second went over 100, and the third may not begin.
    used = client.get('/v1/usage').json()['models']
    total = sum(x['read'] + x['cached'] + x['written'] for x in used.values())
    self.assertGreater(total, 100)
    answer = client.post(router_server.CHAT, json=router_server.body())
    self.assertEqual(answer.status_code, 429)
    self.assertEqual(answer.json()['error']['code'], 'insufficient_quota')
    answer = client.post(router_server.CHAT, json=router_server.body())
    self.assertEqual(answer.json()['error']['code'], 'rate_limit_exceeded')
    self.assertGreaterEqual(int(answer.headers['retry-after']), 1)

  def test_feedback_counts_as_a_request_and_needs_no_budget(self):
    keys, secret, _ = self.keys(requests_per_minute=4, max_tokens=1)
    _, client = self.serve(keys=keys)
    client.headers['authorization'] = f'Bearer {secret}'
    answer = client.post(router_server.CHAT, json=router_server.body()).json()
    refused = client.post(router_server.CHAT, json=router_server.body())
    self.assertEqual(refused.json()['error']['code'], 'insufficient_quota')
    given = {'id': answer['routing']['id'], 'correct': True}
    found = [client.post('/v1/feedback', json=given) for _ in range(3)]
    # Once for an answer, and four requests in all.
    self.assertEqual([x.status_code for x in found], [200, 409, 429])
    self.assertEqual(found[-1].json()['error']['code'], 'rate_limit_exceeded')
    self.assertGreaterEqual(int(found[-1].headers['retry-after']), 1)


class LimitsTest(router_server.ServedCase):

  def test_bodies_and_questions_that_are_too_long(self):
    _, client = self.serve(max_body_bytes=1_000, max_question_characters=50)
    answer = client.post(
        router_server.CHAT, json=router_server.body(question='1' * 51)
    )
    self.assertEqual(answer.status_code, 400)
    self.assertIn('51 characters', answer.json()['error']['message'])
    answer = client.post(
        router_server.CHAT, json=router_server.body(question='1' * 1_000)
    )
    self.assertEqual(answer.status_code, 413)
    self.assertIn('1000 bytes', answer.json()['error']['message'])

    def parts():  # Without a length in advance.
      for _ in range(30):
        yield b' ' * 100

    answer = client.post(router_server.CHAT, content=parts())
    self.assertEqual(answer.status_code, 413)
    self.assertIn('1000 bytes', answer.json()['error']['message'])

  def test_no_page_of_elsewhere_may_call_unless_allowed(self):
    headers = {
        'origin': 'https://a.example',
        'access-control-request-method': 'POST',
    }
    name = 'access-control-allow-origin'
    _, client = self.serve()
    answer = client.options(router_server.CHAT, headers=headers)
    self.assertNotIn(name, answer.headers)
    _, client = self.serve(cors_origins=('https://a.example',))
    answer = client.options(router_server.CHAT, headers=headers)
    self.assertEqual(answer.headers[name], 'https://a.example')
    headers['origin'] = 'https://b.example'
    answer = client.options(router_server.CHAT, headers=headers)
    self.assertNotIn(name, answer.headers)

  def test_a_page_cannot_send_what_needs_no_permission(self):
    # A browser sends this type to other origins without asking them.
    _, client = self.serve()
    answer = client.post(
        router_server.CHAT,
        content=json.dumps(router_server.body()),
        headers={'content-type': 'text/plain'},
    )
    self.assertEqual(answer.status_code, 400)

  def test_a_full_queue_says_when_to_come_again(self):
    engines = scripted_pair.make_engines(2, delay=0.1)
    running, client = self.serve(engines=engines, concurrency=1, queue=1)
    answers = []

    def ask():
      with running.client() as other:
        answers.append(
            other.post(
                router_server.CHAT,
                json=router_server.body(model=router_server.SMALL),
            )
        )

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
      thread.start()
    room = running.service.room
    router_server.until(lambda: (room.num_running, room.num_waiting) == (1, 1))
    self.assertEqual(router_server.metric(client, 'routing_waiting_answers'), 1)
    answer = client.post(router_server.CHAT, json=router_server.body())
    self.assertEqual(answer.status_code, 429)
    self.assertEqual(answer.json()['error']['code'], 'queue_full')
    self.assertGreaterEqual(int(answer.headers['retry-after']), 1)
    for thread in threads:
      thread.join()
    self.assertEqual([x.status_code for x in answers], [200, 200])
    self.assertEqual((room.num_running, room.num_waiting), (0, 0))
    self.assertEqual(
        client.post(router_server.CHAT, json=router_server.body()).status_code,
        200,
    )

  def test_room_by_hand(self):
    room = waiting_room.WaitingRoom(concurrency=2, capacity=1)
    with room.admitted(2), room.admitted(1):
      with self.assertRaises(refusals.Refusal):
        with room.admitted(1):
          pass
    with room.admitted(3):
      self.assertEqual(room.num_waiting, 3)
    self.assertEqual(room.num_waiting, 0)


class MetricsTest(router_server.ServedCase):

  def test_what_is_counted(self):
    running, client = self.serve()
    answer = client.post(router_server.CHAT, json=router_server.body()).json()
    client.post(
        router_server.CHAT, json=router_server.body(model=router_server.SMALL)
    )
    client.get('/v1/secrets/alice')
    for name, value, labels in (
        (
            'routing_requests_total',
            2,
            dict(endpoint=router_server.CHAT, status='200'),
        ),
        ('routing_requests_total', 1, dict(endpoint='other', status='404')),
        (
            'routing_answers_total',
            1,
            dict(model='router@cost<=0.5', handed_over='true'),
        ),
        (
            'routing_answers_total',
            1,
            dict(model=router_server.SMALL, handed_over='false'),
        ),
        ('routing_decisions_total', 1, dict(route=router_server.LARGE)),
        ('routing_wasted_tokens_total', 4, {}),
        (
            'routing_tokens_total',
            8 + 27,
            dict(route=router_server.SMALL, kind='written'),
        ),
        ('routing_time_to_first_token_seconds_count', 2, {}),
        ('routing_step_seconds_count', 1 + 6, dict(route=router_server.SMALL)),
        ('routing_running_answers', 0, {}),
    ):
      self.assertEqual(
          router_server.metric(client, name, **labels), value, name
      )
    small = client.post(
        router_server.CHAT, json=router_server.body(model=router_server.SMALL)
    ).json()
    self.assertAlmostEqual(
        router_server.metric(client, 'routing_cost_total', metric='price'),
        answer['routing']['cost']['price']
        + 2 * small['routing']['cost']['price'],
    )
    self.assertGreater(
        router_server.metric(
            client, 'routing_large_alone_cost_total', metric='price'
        ),
        router_server.metric(client, 'routing_cost_total', metric='price'),
    )
    del running

  def test_an_error_of_another_endpoint_is_no_answer(self):
    running, client = self.serve()
    count = lambda: router_server.metric(
        client, 'routing_unfinished_answers_total', reason='error'
    )
    fails = mock.patch.object(
        running.service.feedback, 'take', side_effect=KeyError
    )
    with fails:
      given = {'id': 'x', 'correct': True}
      found = client.post('/v1/feedback', json=given)
    self.assertEqual((found.status_code, count()), (500, 0))
    with mock.patch.object(running.service, 'drive', side_effect=KeyError):
      found = client.post(router_server.CHAT, json=router_server.body())
      self.assertEqual((found.status_code, count()), (500, 1))
      body = router_server.body(stream=True)
      client.post(router_server.CHAT, json=body)
    self.assertEqual(count(), 2)

  def test_a_log_line_has_no_secret_and_no_text(self):
    keys, secret, _ = self.keys()
    log = io.StringIO()
    self.enter_context(router_server.logged_to(log))
    _, client = self.serve(keys=keys)
    client.headers['authorization'] = f'Bearer {secret}'
    client.post(f'{router_server.CHAT}?key={secret}', json=router_server.body())
    client.post(router_server.CHAT, json=router_server.body(made_up=secret))
    client.get(f'/{secret}')
    router_server.until(lambda: log.getvalue().count('"request"') == 3)
    self.assertNotIn(secret, log.getvalue())
    self.assertNotIn('12:5', router_server.untimed(log.getvalue()))
    first = json.loads(log.getvalue().splitlines()[0])
    self.assertEqual(first['key'], 'alice')
    self.assertEqual(first['model'], 'router@cost<=0.5')
    self.assertEqual(first['status'], 200)
    self.assertCountEqual(first['cost'], costs.COST_METRICS)


if __name__ == '__main__':
  absltest.main()
