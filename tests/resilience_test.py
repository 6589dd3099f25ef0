"""Tests of retries, limits and restarts."""

import asyncio
import dataclasses
import time
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized

from routing import types
from routing.engines import boundaries
from routing.engines import engine as engine_lib
from routing.engines import meter as meter_lib
from routing.engines import resilience
from routing.engines import restarts
from routing.engines import scripted
from routing.engines import vllm
from tests import scripted_pair
from tests import sessions

_REQUEST = sessions.ask('q', to_end=True)


class _Troubled(scripted.ScriptedEngine):
  """Raises one error after the other, then writes 'abcd'."""

  def __init__(self, *troubles, **fields):
    super().__init__('t', 0, scripted.recite('abcd'), **fields)
    self.troubles = list(troubles)
    self.num_starts = 1

  async def reply(self, session, request):
    if self.troubles and (trouble := self.troubles.pop(0)):
      await asyncio.sleep(0)
      raise trouble
    return await super().reply(session, request)


class _Mortal(_Troubled):
  """An engine whose process can be restarted."""

  async def restart(self):
    await asyncio.sleep(0)
    self.num_starts += 1


def _resilient(engine, waits=None, clock=time.monotonic, **fields):
  async def sleep(seconds):
    if waits is not None:
      waits.append(seconds)
    await asyncio.sleep(0)

  limits = resilience.Limits(**fields)
  meter = meter_lib.Meter(scripted_pair.SPECS)
  return resilience.ResilientEngine(
      engine, limits, meter, sleep=sleep, clock=clock
  )


def _write(engine, count=1):
  return asyncio.run(sessions.write_all(engine, [_REQUEST] * count))


class RetryTest(parameterized.TestCase):

  def test_tries_again_until_it_succeeds(self):
    waits = []
    trouble = engine_lib.Unavailable('busy')
    ((step,),) = _write(_resilient(_Troubled(*[trouble] * 4), waits))
    self.assertEqual(step.text, 'abcd')
    # 1, 2, 4 and 8 seconds, of which up to a half is random.
    for wait, most in zip(waits, (1, 2, 4, 8), strict=True):
      self.assertBetween(wait, most / 2, most)

  def test_gives_up_after_so_many_attempts(self):
    waits = []
    engine = _Troubled(*[engine_lib.Unavailable('busy')] * 9)
    with self.assertRaisesRegex(
        resilience.Exhausted, 'All 3 attempts .* failed; the last: busy'
    ) as caught:
      _write(_resilient(engine, waits, attempts=3))
    # It may succeed later, so it is not a refusal, which would be for good.
    self.assertNotIsInstance(caught.exception, engine_lib.Refused)
    self.assertLen(engine.troubles, 6)
    self.assertLen(waits, 2)  # No wait after the last attempt.

  @parameterized.parameters(
      engine_lib.Refused('no'), engine_lib.Stop('never'), ValueError('a bug')
  )
  def test_permanent_errors_are_not_retried(self, trouble):
    engine = _Troubled(trouble, None)
    with self.assertRaises(type(trouble)) as caught:
      _write(_resilient(engine))
    self.assertIs(caught.exception, trouble)
    self.assertLen(engine.troubles, 1)

  def test_waits_as_long_as_the_back_end_asks(self):
    engine = _resilient(_Troubled(), first_wait=1.0)
    waits = [engine.pause(1, 30.0) for _ in range(100)]
    self.assertGreaterEqual(min(waits), 30.0)
    self.assertLess(max(waits), 30.5)

  def test_a_request_that_would_have_to_wait_too_long_has_failed(self):
    busy = [engine_lib.Unavailable('busy', wait) for wait in (4.0, 3_600.0)]
    waits, engine = [], _Troubled(*busy)
    with self.assertRaisesRegex(resilience.Exhausted, 'wait for 3600 s'):
      _write(_resilient(engine, waits, longest_asked=5.0, first_wait=0.0))
    self.assertEqual(waits, [4.0])

  def test_waits_are_bounded_and_differ(self):
    engine = _resilient(_Troubled(), first_wait=1.0, longest_wait=10.0)
    waits = [engine.pause(50, 0.0) for _ in range(100)]
    self.assertBetween(min(waits), 5.0, 6.0)
    self.assertBetween(max(waits), 9.0, 10.0)
    self.assertLen(set(waits), 100)

  def test_a_waiting_request_does_not_block_others(self):
    engine = _Troubled(engine_lib.Unavailable('busy'), delay=0.001)
    _write(_resilient(engine, requests=2), count=6)
    self.assertEqual(engine.max_in_flight, 2)
    self.assertLen(engine.requests, 6)

  def test_what_a_failed_attempt_still_tells_is_no_part_of_the_answer(self):
    told = []

    class Late(_Troubled):
      """Tells of a step of the failed attempt during the second one."""

      async def reply(self, session, request):
        if self.num_starts == 1:
          self.num_starts, self.late = 2, request
          raise engine_lib.Unavailable('cut')
        (step,) = await super().reply(session, request)
        self.late.on_step(0, dataclasses.replace(step, is_final=True))
        request.on_step(0, step)
        return (step,)

    on_step = lambda place, step: told.append(step)
    asked = sessions.ask('q', to_end=True, on_step=on_step)
    engine = _resilient(Late())
    ((step,),) = asyncio.run(sessions.write_all(engine, [asked]))
    self.assertEqual([x.text for x in told], ['abcd', 'abcd'])
    self.assertEqual([x.usage for x in told], [step.usage] * 2)  # Both paid.
    self.assertEqual(list(map(boundaries.is_cut, told)), [True, False])

  def test_what_a_failed_attempt_was_billed_for_is_told(self):
    trouble, billed = engine_lib.Unavailable('cut'), []
    trouble.billed = (types.Usage(0, 7, 0, 2),)
    asked = sessions.ask('q', to_end=True, on_billed=billed.append)
    engine = _resilient(_Troubled(trouble, None, trouble), attempts=2)
    asyncio.run(sessions.write_all(engine, [asked]))
    self.assertEqual(billed, [types.Usage(0, 7, 0, 2)])

  def test_all_else_is_that_of_the_engine(self):
    engine = _Troubled(hidden_size=3)
    resilient = _resilient(engine)
    self.assertEqual((resilient.name, resilient.route), ('t', 0))
    self.assertEqual(resilient.capabilities, engine.capabilities)
    self.assertEqual(resilient.count_tokens('ab', 'c'), 3)


class RestartTest(absltest.TestCase):

  def test_a_dead_process_is_restarted_once_for_all_requests(self):
    died = engine_lib.EngineDied('died')
    engine = _Mortal(died, died, died)
    got = _write(_resilient(engine), count=5)
    self.assertLen(got, 5)
    self.assertEqual(engine.num_starts, 2)

  def test_it_may_die_once_an_hour(self):
    died, now = engine_lib.EngineDied('died'), [0.0]
    engine = _Mortal(died, None, died, died)
    resilient = _resilient(engine, clock=lambda: now[0])
    _write(resilient)
    now[0] = 3_599.0
    with self.assertRaises(engine_lib.EngineDied):
      _write(resilient)
    self.assertEqual(engine.num_starts, 2)
    now[0] = 3_600.0
    _write(resilient)
    self.assertEqual(engine.num_starts, 3)

  def test_a_process_of_vllm_may_die_once_an_hour(self):
    now, dead = [0.0], mock.Mock(errored=True)
    engine = object.__new__(vllm.VllmEngine)  # Without vLLM, which may lack.
    engine.name, engine.route, engine._llm = 'small', 0, dead
    engine._restarts = restarts.Restarts(clock=lambda: now[0])
    engine._restarting, engine._start = asyncio.Lock(), lambda: dead

    async def run():
      await engine.restart()
      with self.assertRaisesRegex(engine_lib.EngineDied, 'within an hour'):
        await engine.restart()
      now[0] = 3_600.0
      await engine.restart()

    asyncio.run(run())
    self.assertEqual(engine.num_restarts, 2)
    self.assertEqual(dead.shutdown.call_count, 2)

  def test_a_restart_at_the_last_attempt_leaves_no_further_one(self):
    late = [engine_lib.Unavailable('busy') for _ in range(5)]
    engine = _Mortal(
        engine_lib.Unavailable('a'), engine_lib.EngineDied(), *late
    )
    with self.assertRaisesRegex(resilience.Exhausted, 'All 3 attempts'):
      _write(_resilient(engine, attempts=2))

  def test_without_a_restart_the_run_stops_at_once(self):
    engine = _Troubled(engine_lib.EngineDied('died'))
    with self.assertRaises(engine_lib.EngineDied):
      _write(_resilient(engine))


class LimitsTest(parameterized.TestCase):

  @parameterized.parameters('requests', 'first_wait', 'dollars', 'failures')
  def test_negative_limits_are_errors(self, name):
    with self.assertRaisesRegex(ValueError, f'{name} is -1; allowed: >= 0'):
      resilience.Limits(**{name: -1})

  def test_zero_attempts_is_an_error(self):
    with self.assertRaisesRegex(ValueError, 'attempts is 0; allowed: >= 1'):
      dataclasses.replace(resilience.Limits(), attempts=0)


if __name__ == '__main__':
  absltest.main()
