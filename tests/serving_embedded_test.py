"""The service with the embedded pair: real models, real requests."""

import json
import socket
import time

from absl.testing import absltest

from benchmarks import counted_engines
from benchmarks import served_answers
from benchmarks import serving_faults
from benchmarks import troubled_engines
from configs import arithmetic
from experiments import builders
from experiments import records_on_disk
from experiments import serve
from routing.routers import learned
from routing.serving import answering as answering_lib
from routing.serving import store as store_lib
from tests import router_server

_POINT = 'loss<=0.1@0.9'


def _config():
  """A configuration whose engines compile one size of batch."""
  config = arithmetic.get_config('smoke')
  config.problems.update(train=1, select=1, prove=1, test=12)
  for route in config.routes:
    route['settings'].update(max_batch=8, num_slots=8)
  config.collect.concurrency = config.serving.concurrency = 8
  return config


class EmbeddedTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.router = learned.load('shipped')

  def test_what_is_served_equals_what_was_evaluated(self):
    found = served_answers.compare(_config(), self.router, _POINT, 12)
    self.assertEqual(found['problems'], 12)
    # Some were written by both, or the comparison would say little.
    self.assertBetween(found['handed_over'], 1, 11)
    for what in ('text', 'decisions', 'cost'):
      self.assertEqual(found[f'{what}_differs'], 0, what)
    # The hidden states that are observed depend a little on who shares a batch.
    self.assertLess(found['max_score_difference'], 1e-3)

  def test_tokens_of_clients_that_went_away_are_in_the_ledger(self):
    config = _config()
    given = serve.settings(config)
    engines = builders.engines(config)
    counters = list(map(counted_engines.count, engines))

    def make():
      return answering_lib.Service(
          records_on_disk.answering(config, self.router.card),
          engines,
          self.router,
          given,
          store_lib.Store(None),
      )

    problems = builders.problems(config, 'test')
    with router_server.running(make) as running, running.client() as client:
      port = int(running.url.rpartition(':')[2])
      for index, problem in enumerate(problems[:6]):
        body = json.dumps(
            {
                'model': ('large', f'router@{_POINT}')[index % 2],
                'messages': [{'role': 'user', 'content': problem.question}],
                'stream': True,
            }
        ).encode()
        with socket.create_connection(('127.0.0.1', port)) as connection:
          connection.sendall(
              b'POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n'
              b'content-type: application/json\r\ncontent-length: '
              + str(len(body)).encode()
              + b'\r\n\r\n'
              + body
          )
          seen = b''
          while seen.count(b'data: ') < 1 + index // 2:  # So many steps.
            seen += connection.recv(4_096)
      room = running.service.room
      while room.num_running:
        time.sleep(0.01)
      # The step in progress ends, and then the engines have nothing to do.
      while any(not engine._worker.done() for engine in engines):
        time.sleep(0.01)
      written = [counter.written for counter in counters]
      used = client.get('/v1/usage').json()['models']
      for name, counter in zip(('small', 'large'), counters, strict=True):
        self.assertEqual(used[name]['written'], counter.written, name)
        self.assertEqual(used[name]['read'], counter.read, name)
      self.assertGreater(written[1], 0)
      # Six whole answers of some 100 tokens would be more.
      self.assertLess(sum(written), 6 * 90)
      time.sleep(0.3)
      self.assertEqual([x.written for x in counters], written)  # It is over.

  def test_a_storm_of_faults(self):
    found = serving_faults.measure(
        _config(),
        self.router,
        num_requests=60,
        num_questions=3,
        streams=12,
        seed=0,
        chances=troubled_engines.Chances(
            cut=0.06, killed=0.02, longest_wait=0.1, longest_down=0.2
        ),
    )
    self.assertEmpty(found['wrong'])
    self.assertEqual(sum(found['ends'].values()), 60)
    # Or nothing was tried.
    self.assertGreater(found['ends']['answer'], 5)
    self.assertGreater(found['ends']['client gone'], 0)
    faults = [sum(x.values()) for x in found['faults'].values()]
    self.assertGreater(min(faults), 0)


if __name__ == '__main__':
  absltest.main()
