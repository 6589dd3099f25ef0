"""Tests of the spending ceiling: what is counted, and when a request waits."""

import asyncio
import dataclasses
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized

from routing import types
from routing.engines import engine as engine_lib
from routing.engines import meter as meter_lib
from routing.engines import resilience
from routing.engines import scripted
from tests import scripted_pair
from tests import sessions

# Each request reads one letter and writes four, and may write nine.
_REQUEST = sessions.ask('q', to_end=True, max_tokens=9)
_ACTUAL, _LARGEST = 1 + 4, 1 + 9


class _Engine(scripted.ScriptedEngine):
  """Writes 'abcd', or raises the next of its errors."""

  def __init__(self, *errors, **fields):
    super().__init__('t', 0, scripted.recite('abcd'), **fields)
    self.errors = list(errors)

  async def reply(self, session, request):
    if self.errors and (error := self.errors.pop(0)):
      raise error
    return await super().reply(session, request)


def _meter(**fields):
  return meter_lib.Meter(scripted_pair.SPECS, **fields)


def _resilient(engine, meter, **fields):
  limits = resilience.Limits(first_wait=0.0, **fields)
  return resilience.ResilientEngine(engine, limits, meter)


def _write(engine, count=1):
  """Makes requests concurrently; returns the steps or the error of each."""
  return asyncio.run(
      sessions.write_all(engine, [_REQUEST] * count, return_exceptions=True)
  )


class MeterTest(parameterized.TestCase):

  def test_says_dollars_only_where_a_route_has_a_price(self):
    usage = types.Usage(1, 1_000, 0, 200)
    free = [
        dataclasses.replace(
            spec, price_input=0.0, price_cached=0.0, price_output=0.0
        )
        for spec in scripted_pair.SPECS
    ]
    for specs, words in (
        (free, '1,200 tokens'),
        ((free[0], scripted_pair.SPECS[1]), '$0.0016 and 1,200 tokens'),
    ):
      meter = meter_lib.Meter(specs)
      meter.add(usage)
      self.assertEqual(str(meter), words)
      self.assertEqual(meter.written[:2], [0, 200])
    limited = meter_lib.Meter(free, tokens=10)
    with self.assertRaises(engine_lib.Stop) as caught:
      asyncio.run(limited.reserve(usage))
    self.assertNotIn('$', str(caught.exception))

  def test_adds_up_dollars_and_tokens(self):
    meter = _meter()
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
    self.assertFalse(meter.is_limited)

  @parameterized.parameters(
      (dict(tokens=100), 0.5),
      (dict(dollars=2e-4), 0.25),
      (dict(tokens=100, dollars=2e-4), 0.5),
      (dict(tokens=1_000, dollars=1e-4), 0.5),
  )
  def test_the_nearer_ceiling_counts(self, limits, expected):
    meter = _meter(**limits)
    meter.add(types.Usage(0, 0, 0, 50))
    self.assertAlmostEqual(meter.share(), expected)

  @parameterized.parameters('cancel_speculation', 'close')
  def test_wasted_tokens_count_once(self, end):
    meter = _meter()
    engine = scripted.ScriptedEngine(
        's', 0, scripted.recite('ab\n\ncd'), num_ahead=1
    )
    resilient = _resilient(engine, meter)

    async def run():
      async with resilient.open('q') as session:
        await session.write(engine_lib.Request(may_speculate=True))
        return [await getattr(session, end)() for _ in range(2)]

    self.assertEqual(
        asyncio.run(run()), [types.Usage(0, 0, 0, 1, 1.0, 5), None]
    )
    self.assertEqual(meter.tokens, 1 + 4 + 1)

  def test_wasted_tokens_count_after_an_error(self):
    meter = _meter()
    engine = scripted.ScriptedEngine(
        's', 0, scripted.recite('ab\n\ncd'), num_ahead=1
    )
    resilient = _resilient(engine, meter)

    async def run():
      async with resilient.open('q') as session:
        await session.write(engine_lib.Request(may_speculate=True))
        raise ValueError('a bug')

    with self.assertRaisesRegex(ValueError, 'a bug'):
      asyncio.run(run())
    self.assertEqual(meter.tokens, 1 + 4 + 1)
    self.assertEqual(engine.num_open, 0)


class CeilingTest(parameterized.TestCase):

  def test_not_even_the_first_request_is_sent_if_it_might_not_fit(self):
    engine, meter = _Engine(), _meter(tokens=_LARGEST - 1)
    (error,) = _write(_resilient(engine, meter))
    self.assertRegex(
        str(error),
        'ceiling is reached: .* 0 tokens were spent of 9 tokens, and the next '
        r'request may take up to \$.* and 10 tokens',
    )
    self.assertIsInstance(error, engine_lib.Stop)
    self.assertEmpty(engine.requests)

  @parameterized.parameters(10, 14, 15, 49, 50, 99)
  def test_never_more_than_the_ceiling_is_spent(self, ceiling):
    for delay in (0.0, 0.001):
      engine, meter = _Engine(delay=delay), _meter(tokens=ceiling)
      results = _write(_resilient(engine, meter), count=30)
      # One after the other, each starts if 5 (of those before) + 10 fit. At
      # once, those that fit only if all others take less must wait.
      num_fitting = (ceiling - _LARGEST) // _ACTUAL + 1
      done = [x for x in results if not isinstance(x, engine_lib.Stop)]
      self.assertLen(done, num_fitting)
      self.assertEqual(meter.tokens, num_fitting * _ACTUAL)
      self.assertLessEqual(engine.max_in_flight, ceiling // _LARGEST)

  def test_a_waiting_request_goes_on_when_there_is_room(self):
    engine, meter = _Engine(delay=0.001), _meter(tokens=3 * _LARGEST)
    results = _write(_resilient(engine, meter), count=5)
    self.assertEqual([type(x) for x in results], [tuple] * 5)
    self.assertEqual(engine.max_in_flight, 3)

  def test_dollars_are_reserved_at_the_price_of_the_route(self):
    # Up to 1 token read at 0.2 and 9 written at 1 dollar per million: 9.2e-6.
    # The first takes 4.2e-6, the others, whose letter is cached, 4.02e-6. So
    # the third starts with 8.22e-6 spent, and the fourth would with 12.24e-6.
    for ceiling, expected in ((17.5e-6, 12.24e-6), (17.4e-6, 8.22e-6)):
      meter = _meter(dollars=ceiling)
      _write(_resilient(_Engine(), meter), count=9)
      self.assertAlmostEqual(meter.dollars, expected, places=12)

  def test_without_a_tokenizer_a_token_is_a_byte(self):
    request = sessions.ask('é?', trace='abc', max_tokens=9)
    engine, meter = _Engine(), _meter(tokens=5 + 3 + 9 - 1)
    resilient = _resilient(engine, meter)
    resilient.capabilities = mock.Mock(counts_tokens=False)
    with self.assertRaisesRegex(engine_lib.Stop, 'up to .* 15 tokens'):
      meter.add(types.Usage(0, 0, 0, 2))
      asyncio.run(sessions.write_all(resilient, [request]))
    self.assertEqual(meter.tokens, 2)


class FailedRequestTest(parameterized.TestCase):

  def _spend(self, *errors, **fields):
    meter = _meter(**fields)
    _write(_resilient(_Engine(*errors), meter, attempts=2))
    return meter

  def _refused(self, *billed):
    error = engine_lib.Refused('withheld')
    error.billed = billed
    return error

  def test_what_was_not_billed_is_not_counted(self):
    self.assertEqual(self._spend(self._refused()).tokens, 0)
    self.assertEqual(self._spend(engine_lib.Stop('401')).tokens, 0)
    meter = self._spend(engine_lib.Unavailable('429'))
    self.assertEqual(meter.tokens, _ACTUAL)  # The second attempt's.

  def test_known_usage_of_a_failed_request_counts(self):
    meter = self._spend(
        self._refused(types.Usage(0, 1, 0, 3), types.Usage(0, 4, 0, 2))
    )
    self.assertEqual((meter.tokens, meter.unsure_tokens), (10, 0))

  def test_a_time_out_counts_as_if_all_had_been_written(self):
    late = [
        engine_lib.Unavailable('late', may_be_billed=True) for _ in range(2)
    ]
    meter = self._spend(*late)
    self.assertEqual(meter.tokens, 2 * _LARGEST)
    self.assertEqual(meter.unsure_tokens, 2 * _LARGEST)
    self.assertRegex(str(meter), r'20 tokens \(20 of them of failed requests')
    # So an outage cannot spend more than the ceiling allows.
    meter = self._spend(*late, tokens=2 * _LARGEST - 1)
    self.assertEqual(meter.tokens, _LARGEST)

  @parameterized.parameters(ValueError('a bug'), engine_lib.EngineDied('died'))
  def test_what_was_in_flight_counts(self, error):
    self.assertEqual(self._spend(error).unsure_tokens, _LARGEST)

  def test_a_cancelled_request_counts_and_frees_its_reservation(self):
    meter = _meter(tokens=2 * _LARGEST)
    resilient = _resilient(_Engine(delay=60.0), meter)
    quick = _resilient(_Engine(), meter)

    async def run():
      tasks = [
          asyncio.create_task(sessions.write_all(resilient, [_REQUEST]))
          for _ in 'ab'
      ]
      await asyncio.sleep(0.01)
      tasks[0].cancel()
      tasks[1].cancel()
      await asyncio.gather(*tasks, return_exceptions=True)
      self.assertEqual(meter.tokens, 2 * _LARGEST)
      with self.assertRaises(engine_lib.Stop):  # Not a wait without an end.
        await sessions.write_all(quick, [_REQUEST])

    asyncio.run(run())


if __name__ == '__main__':
  absltest.main()
