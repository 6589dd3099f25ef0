"""Many streams at once, a bounded queue, and a stop in the middle of it."""

import asyncio
import random
import time
from unittest import mock

from absl.testing import absltest
import httpx

from benchmarks import load_client
from benchmarks import serving
from routing.engines import scripted
from tests import router_server
from tests import scripted_pair

_SCRIPT = scripted_pair.count_up(0, every=3)


def _bodies(count, **fields):
  """Returns requests to the small model, and the text that each must get."""
  questions = [x.question for x in scripted_pair.make_problems(count)]
  bodies = [
      load_client.chat(router_server.SMALL, x, **fields) for x in questions
  ]
  return bodies, [_SCRIPT(scripted.Asked(question=x)) for x in questions]


class LoadTest(router_server.ServedCase):

  def ask_all(self, running, bodies, **kwargs):
    return asyncio.run(
        load_client.ask_all(
            running.url + load_client.CHAT,
            bodies,
            streams=len(bodies),
            **kwargs,
        )
    )

  def test_many_streams_at_once_are_neither_lost_nor_mixed_up(self):
    running, _ = self.serve(concurrency=16, queue=300)
    bodies, texts = _bodies(200)
    replies = self.ask_all(running, bodies)
    self.assertTrue(all(reply.is_whole for reply in replies))
    self.assertEqual([reply.text for reply in replies], texts)
    self.assertLen(set(texts), 200)  # Or a mix-up would not be seen.

  def test_requests_at_random_times_wait_for_no_other(self):
    engines = scripted_pair.make_engines(2, delay=0.5)
    running, _ = self.serve(engines=engines, concurrency=64)
    bodies, texts = _bodies(30)
    start = time.perf_counter()
    replies, rate = asyncio.run(
        load_client.ask_as_they_come(
            running.url + load_client.CHAT, bodies, 100.0, random.Random(0)
        )
    )
    seconds = time.perf_counter() - start
    self.assertEqual([reply.text for reply in replies], texts)
    # Each takes half a second or more; in turn they would take 30 times that.
    self.assertLess(seconds, sum(reply.seconds for reply in replies) / 2)
    self.assertBetween(rate, 1.0, 1_000.0)

  def test_the_queue_is_bounded_and_what_is_accepted_is_answered(self):
    engines = scripted_pair.make_engines(2, delay=0.02)
    running, client = self.serve(engines=engines, concurrency=4, queue=8)
    bodies, texts = _bodies(60, stream=False)
    replies = self.ask_all(running, bodies)
    answered = [reply for reply in replies if reply.is_whole]
    refused = [reply for reply in replies if not reply.is_whole]
    self.assertGreaterEqual(len(answered), 12)  # All that had room at once.
    self.assertNotEmpty(refused)
    for reply in refused:
      self.assertEqual(reply.status, 429)
      self.assertEqual(reply.error['code'], 'queue_full')
      self.assertGreaterEqual(int(reply.headers['retry-after']), 1)
    for reply, text in zip(replies, texts, strict=True):
      self.assertIn(reply.text, ('', text))
    self.assertLessEqual(engines[0].max_in_flight, 4)
    self.assertEqual(
        router_server.metric(
            client,
            'routing_requests_total',
            endpoint=router_server.CHAT,
            status='429',
        ),
        len(refused),
    )
    # It is as good as new.
    (reply,) = self.ask_all(running, bodies[:1])
    self.assertEqual(reply.text, texts[0])

  def test_what_is_accepted_finishes_when_the_service_stops(self):
    engines = scripted_pair.make_engines(2, delay=0.02)
    running, _ = self.serve(engines=engines, concurrency=4, queue=40)
    bodies, texts = _bodies(30)

    async def run():
      count = load_client.Count(len(bodies))
      asking = asyncio.create_task(
          load_client.ask_all(
              running.url + load_client.CHAT,
              bodies,
              streams=len(bodies),
              count=count,
          )
      )
      while count.ended < 5:
        await asyncio.sleep(0.005)
      running.server.should_exit = True
      replies = await asking
      return replies

    replies = asyncio.run(run())
    self.assertEqual([reply.text for reply in replies], texts)
    self.assertTrue(all(reply.is_whole for reply in replies))
    with self.assertRaises(httpx.ConnectError):  # Nothing new is accepted.
      httpx.get(f'{running.url}/health')


class BenchmarkTest(absltest.TestCase):

  def test_answers_that_were_lost_are_faults(self):
    found = dict(lost=0, mixed_up=0, beside=dict(router=dict(lost=0)))
    self.assertEmpty(serving.faults(found))
    found['mixed_up'], found['beside']['router']['lost'] = 1, 2
    self.assertEqual(
        serving.faults(found), {'mixed_up': 1, 'lost by router': 2}
    )

  def test_added_by_hand(self):
    rows = [
        dict(overhead_ms=ours, seconds=theirs / 1_000)
        for ours, theirs in ((1, 10), (1, 20), (1, 90))
    ]
    reply = mock.Mock(routing=dict(steps=rows))
    found = serving.added([reply])
    self.assertAlmostEqual(found['p50'], 1 / 20)
    self.assertAlmostEqual(found['ms_p99_by_median_step'], 1 / 20)
    self.assertAlmostEqual(found['ms_p99_by_mean_step'], 1 / 40)


if __name__ == '__main__':
  absltest.main()
