"""Tests of retries, limits, the one restart and the spending ceiling."""

import asyncio
import dataclasses

from absl.testing import absltest
from absl.testing import parameterized

from routing import types
from routing.engines import engine as engine_lib
from routing.engines import resilience
from routing.engines import scripted
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


def _resilient(engine, waits=None, meter=None, **fields):
  async def sleep(seconds):
    if waits is not None:
      waits.append(seconds)
    await asyncio.sleep(0)

  limits = resilience.Limits(**fields)
  meter = meter or resilience.Meter(scripted_pair.SPECS, limits)
  return resilience.ResilientEngine(engine, limits, meter, sleep=sleep)


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
        engine_lib.Refused, 'All 3 attempts .* failed; the last: busy'
    ):
      _write(_resilient(engine, waits, attempts=3))
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

  def test_it_may_die_only_once(self):
    died = engine_lib.EngineDied('died')
    engine = _Mortal(died, None, died)
    resilient = _resilient(engine)
    _write(resilient)
    with self.assertRaises(engine_lib.EngineDied):
      _write(resilient)
    self.assertEqual(engine.num_starts, 2)

  def test_a_restart_at_the_last_attempt_leaves_no_further_one(self):
    late = [engine_lib.Unavailable('busy') for _ in range(5)]
    engine = _Mortal(
        engine_lib.Unavailable('a'), engine_lib.EngineDied(), *late
    )
    with self.assertRaisesRegex(engine_lib.Refused, 'All 3 attempts'):
      _write(_resilient(engine, attempts=2))

  def test_without_a_restart_the_run_stops_at_once(self):
    engine = _Troubled(engine_lib.EngineDied('died'))
    with self.assertRaises(engine_lib.EngineDied):
      _write(_resilient(engine))


class MeterTest(parameterized.TestCase):

  def _meter(self, **fields):
    return resilience.Meter(scripted_pair.SPECS, resilience.Limits(**fields))

  def test_adds_up_dollars_and_tokens(self):
    meter = self._meter()
    # Dollars per million read, cached and written tokens: 0.2, 0.02 and 1 for
    # the small model, 1.8, 0.18 and 9 for the large one.
    meter.add(types.Usage(0, 1_000, 500, 200))
    meter.add(types.Usage(0, 0, 0, 100))
    meter.add(types.Usage(2, 2_000, 0, 1_000))
    small = (1_000 * 0.2 + 500 * 0.02 + 300 * 1.0) / 1e6
    large = (2_000 * 1.8 + 1_000 * 9.0) / 1e6
    self.assertAlmostEqual(meter.dollars, small + large, places=12)
    self.assertEqual(meter.tokens, 1_800 + 3_000)
    self.assertEqual(meter.share(), 0.0)

  @parameterized.parameters(
      (dict(tokens=100), 0.5),
      (dict(dollars=2e-4), 0.25),
      (dict(tokens=100, dollars=2e-4), 0.5),
      (dict(tokens=1_000, dollars=1e-4), 0.5),
  )
  def test_the_nearer_ceiling_counts(self, limits, expected):
    meter = self._meter(**limits)
    meter.add(types.Usage(0, 0, 0, 50))
    self.assertAlmostEqual(meter.share(), expected)

  @parameterized.parameters('cancel_speculation', 'close')
  def test_wasted_tokens_count_once(self, end):
    meter = self._meter()
    engine = scripted.ScriptedEngine(
        's', 0, scripted.recite('ab\n\ncd'), num_ahead=1
    )
    resilient = _resilient(engine, meter=meter)

    async def run():
      async with resilient.open('q') as session:
        await session.write(engine_lib.Request(may_speculate=True))
        return [await getattr(session, end)() for _ in range(2)]

    self.assertEqual(
        asyncio.run(run()), [types.Usage(0, 0, 0, 1, 1.0, 5), None]
    )
    self.assertEqual(meter.tokens, 1 + 4 + 1)

  def test_wasted_tokens_count_after_an_error(self):
    meter = self._meter()
    engine = scripted.ScriptedEngine(
        's', 0, scripted.recite('ab\n\ncd'), num_ahead=1
    )
    resilient = _resilient(engine, meter=meter)

    async def run():
      async with resilient.open('q') as session:
        await session.write(engine_lib.Request(may_speculate=True))
        raise ValueError('a bug')

    with self.assertRaisesRegex(ValueError, 'a bug'):
      asyncio.run(run())
    self.assertEqual(meter.tokens, 1 + 4 + 1)
    self.assertEqual(engine.num_open, 0)

  def test_no_request_after_the_ceiling(self):
    limits = resilience.Limits(tokens=25)
    meter = resilience.Meter(scripted_pair.SPECS, limits)
    engine = _Troubled()
    resilient = _resilient(engine, meter=meter, tokens=25)
    with self.assertRaisesRegex(engine_lib.Stop, r'25 tokens were spent'):
      for _ in range(99):  # Each reads one letter and writes four.
        _write(resilient)
    self.assertLen(engine.requests, 5)


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
