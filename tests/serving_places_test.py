"""Who has a place in the queue, and who tries a back end; without HTTP."""

import asyncio
import contextlib

from absl.testing import absltest
from absl.testing import parameterized

from routing.engines import engine as engine_lib
from routing.serving import back_ends
from routing.serving import exchange as exchange_lib
from routing.serving import keys as keys_lib
from routing.serving import openai_schema
from routing.serving import refusals
from tests import router_server
from tests import scripted_pair


def _exchange(service, **fields):
  body = openai_schema.Chat(**router_server.body(**fields))
  return exchange_lib.Exchange(service, body, keys_lib.Key('alice'))


class PlacesTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.router = router_server.make_router()

  def service(self, engines=None, **settings):
    return router_server.scripted_service(self.router, engines, **settings)

  def test_more_answers_than_have_room_are_refused_for_good(self):
    service = self.service(concurrency=1, queue=1)
    with self.assertRaisesRegex(refusals.Refusal, 'at most 2') as caught:
      _exchange(service, n=3)
    self.assertEqual(caught.exception.status, 400)
    self.assertLen(_exchange(service, n=2).questions, 2)

  def test_a_client_that_reads_slowly_takes_no_place(self):
    service = self.service(concurrency=1, queue=0)

    async def run():
      events = _exchange(service, stream=True).events()
      async with contextlib.aclosing(events):
        await anext(events)
        while service.room.num_running:
          await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.assertEqual(service.room.num_waiting, 0)
        body, _ = await _exchange(service).whole()
        return body['choices'][0]['finish_reason']

    self.assertEqual(asyncio.run(run()), 'stop')

  def test_a_shadow_has_a_place_and_leaves_half_of_them(self):
    engines = scripted_pair.make_engines(2)
    service = self.service(engines, concurrency=1, queue=2, shadow_share=1.0)
    room = service.room

    async def run():
      await _exchange(service).whole()
      engines[1].delay = 0.01  # The shadow is being written for some time.
      await asyncio.sleep(0)
      with self.assertRaises(refusals.Refusal):
        with room.admitted(3):
          pass
      with room.admitted(2):
        self.assertFalse(room.has_spare)
      self.assertTrue(room.has_spare)
      await service.close()
      # With no room to spare there is no shadow.
      with room.admitted(2):
        found, _ = await _exchange(service).whole()
        kept = service.store.answer(found['routing']['id'])
        self.assertFalse(kept['is_shadowed'])
      with room.admitted(3):
        pass

    asyncio.run(run())

  def test_a_shadow_does_not_ask_a_back_end_that_is_down(self):
    engines = scripted_pair.make_engines(2)
    service = self.service(engines, shadow_share=1.0, retry_down_after=60.0)

    async def run():
      # The small model writes all of it.
      await _exchange(service, model='router@cost<=0.3').whole()
      service.health.note(engines[1], OSError())
      failed = dict(service.health._failed)
      await service.close()
      self.assertEmpty(engines[1].requests)
      self.assertEqual(service.health._failed, failed)
      # It may try one that has been left alone long enough.
      service.health._retry_after = 0.0
      await _exchange(service, model='router@cost<=0.3').whole()
      await service.close()
      self.assertLen(engines[1].requests, 1)
      self.assertEmpty(service.health._failed)

    asyncio.run(run())

  def test_a_session_that_fails_at_the_end_of_a_given_up_answer(self):
    engines = scripted_pair.make_engines(2, delay=5.0)
    service = self.service(engines)
    opened = engines[0].open

    def open_(question):
      session = opened(question)

      async def close():
        raise engine_lib.Unavailable('It is gone already.')

      session.close = close
      return session

    engines[0].open = open_

    async def run():
      question, *_ = _exchange(service, model=router_server.SMALL).questions
      async with service.writing(question) as writing:
        while not engines[0].requests:
          await asyncio.sleep(0)
        await writing.end()

    asyncio.run(run())
    # The back end is well, and the prompt of five tokens is paid.
    self.assertFalse(service.health.is_down(0))
    used = service.ledger.used('alice')[router_server.SMALL]
    self.assertEqual((used['read'], used['written']), (5, 0))


class HealthTest(absltest.TestCase):

  def test_a_single_answer_tries_a_back_end_that_failed(self):
    now = [0.0]
    health = back_ends.Health(5.0, clock=lambda: now[0])
    engine = scripted_pair.make_engines(1)[0]
    first, second, third = object(), object(), object()
    self.assertTrue(health.may_ask(0, first))
    health.note(engine, OSError())
    self.assertFalse(health.may_ask(0, first))
    now[0] = 5.0
    self.assertTrue(health.may_ask(0, first))
    self.assertFalse(health.may_ask(0, second))
    self.assertTrue(health.may_ask(0, first))  # It is the one that tries.
    # It has ended without asking it.
    health.leave(first)
    self.assertTrue(health.may_ask(0, second))
    now[0] = 10.0  # It takes too long.
    self.assertTrue(health.may_ask(0, third))
    health.note(engine, None)
    self.assertTrue(health.may_ask(0, first))


if __name__ == '__main__':
  absltest.main()
