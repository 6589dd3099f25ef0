"""Tests of what may still begin, and of how a collection comes to an end."""

import asyncio
import functools
import os
import pathlib
import signal

from absl.testing import absltest
from absl.testing import parameterized

from experiments import unattended_collection
from routing.engines import engine as engine_lib
from routing.engines import meter as meter_lib
from routing.engines import resilience
from routing.grading import equivalence
from routing.rollout import collect
from routing.rollout import step_requests
from routing.shards import reader
from routing.shards import writer as writer_lib
from tests import scripted_pair

_PROBLEMS = scripted_pair.make_problems(40)
_SHARD_SIZE = 5


class OvernightTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.create_tempdir().full_path) / 'train'

  def _collect(
      self, *, refuse=(), on_request=None, concurrency=4, engines=None, **limits
  ):
    """Collects what is missing; returns the engines."""
    engines = engines or scripted_pair.make_engines(2, delay=0.0005)
    for engine in engines:
      engine.reply = functools.partial(
          self._reply, engine.reply, set(refuse), on_request
      )
    with writer_lib.LadderWriter(
        self.directory, _PROBLEMS, {}, _SHARD_SIZE
    ) as writer:
      asyncio.run(
          unattended_collection.collect_missing(
              scripted_pair.collect_ladders,
              _PROBLEMS,
              engines,
              writer,
              specs=scripted_pair.SPECS,
              concurrency=concurrency,
              limits=resilience.Limits(**limits),
          )
      )
    return engines

  async def _reply(self, reply, refuse, on_request, session, request):
    index = int(request.question.split(':')[0]) - 10
    if on_request is not None:
      on_request(index)
    if index in refuse:
      raise engine_lib.Refused(f'no {index}')
    return await reply(session, request)

  def _on_disk(self):
    """Indices on the disk and among the failures; no problem is in both."""
    there = [
        int(ladder.problem.id.split('/')[1])
        for ladder in reader.read_ladders(self.directory, is_partial=True)
    ]
    failures = reader.read_manifest(self.directory).failures
    failed = [failure.index for failure in failures]
    self.assertLen({*there, *failed}, len(there) + len(failed))
    return there, failed

  def _check_complete(self, failed=()):
    there, found = self._on_disk()
    self.assertEqual(found, sorted(failed))
    self.assertEqual(there, [i for i in range(40) if i not in failed])

  def test_collects_all(self):
    self._collect()
    self._check_complete()

  @parameterized.parameters(1, 4, 40)
  def test_refused_problems_are_noted_and_not_asked_for_again(
      self, concurrency
  ):
    refuse = {0, 7, 8, 39, *range(20, 25)}
    self._collect(refuse=refuse, concurrency=concurrency)
    self._check_complete(refuse)
    manifest = reader.read_manifest(self.directory)
    self.assertEqual(manifest.failures[1].reason, 'no 7')
    self._collect()  # Nothing is missing.
    self._check_complete(refuse)

  def test_many_failures_in_a_row_are_the_back_ends_and_not_noted(self):
    refuse = {3, *range(12, 40)}
    with self.assertRaisesRegex(
        engine_lib.Stop, '6 problems failed in a row, the last with: no .*The '
    ):
      self._collect(refuse=refuse, failures=6, concurrency=1)
    there, failed = self._on_disk()
    self.assertEqual(failed, [3])
    self.assertEqual(there, [0, 1, 2, *range(4, 12)])
    self._collect()
    self._check_complete({3})

  def _outage(self, first, last):
    """Nothing works from the moment that problem `first` begins, to `last`."""
    state = {'is_out': False}

    def on_request(index):
      state['is_out'] = (state['is_out'] or index == first) and index != last
      if state['is_out']:
        raise engine_lib.Unavailable('HTTP 503: overloaded')

    return on_request

  @parameterized.parameters(1, 4)
  def test_an_outage_loses_no_problem_for_good(self, concurrency):
    with self.assertRaisesRegex(
        engine_lib.Stop,
        r'\d+ problems failed for a reason that may pass, the last with: '
        r'All 2 attempts of a request failed; the last: HTTP 503.* '
        r'\d\d of 40 problems are on disk. The same command continues',
    ):
      self._collect(
          on_request=self._outage(10, 19),
          concurrency=concurrency,
          attempts=2,
          first_wait=0.0,
      )
    there, failed = self._on_disk()
    self.assertEmpty(failed)
    self.assertNotIn(10, there)
    if concurrency == 1:
      self.assertEqual(there, [*range(10), *range(19, 40)])
    self.assertIn(39, there)  # It went on after the outage.
    with self.assertRaisesRegex(ValueError, 'holds .* of 40 problems'):
      reader.read_ladders(self.directory)
    engines = self._collect()
    self._check_complete()
    asked = {x.question for engine in engines for x in engine.requests}
    self.assertEqual(
        asked, {_PROBLEMS[i].question for i in range(40) if i not in there}
    )

  def test_a_long_outage_ends_the_run(self):
    with self.assertRaisesRegex(
        engine_lib.Stop, '7 problems failed in a row, .* 10 of 40 .* on disk'
    ):
      self._collect(
          on_request=self._outage(10, None),
          concurrency=1,
          attempts=1,
          failures=7,
      )
    self._collect()
    self._check_complete()

  def test_refusals_during_an_outage_are_not_noted(self):
    # A back end that is out of order may refuse as well.
    out = self._outage(10, None)
    with self.assertRaisesRegex(engine_lib.Stop, 'failed in a row'):
      self._collect(
          refuse={3, 11, 12},
          on_request=lambda i: i in (11, 12) or out(i),
          concurrency=1,
          attempts=1,
          failures=7,
      )
    self.assertEqual(self._on_disk()[1], [3])

  def test_refusals_in_an_outage_at_the_end_are_not_noted(self):
    with self.assertRaisesRegex(
        engine_lib.Stop, '1 problems failed for a reason that may pass.* 38 of'
    ):
      self._collect(
          refuse={39},
          on_request=self._outage(38, 39),
          concurrency=1,
          attempts=1,
      )
    self.assertEqual(self._on_disk(), (list(range(38)), []))
    self._collect(refuse={39})
    self._check_complete({39})

  def _signal(self, number, times):
    """Sends this process a signal when the 12th problem begins, and after."""
    left = [number] * times

    def on_request(index):
      if index >= 11 and left:
        os.kill(os.getpid(), left.pop())

    return on_request

  def test_says_how_long_it_took_how_fast_and_what_was_cut_off(self):
    with self.assertLogs(level='INFO') as logs:
      self._collect()
    ladders = reader.read_ladders(self.directory)
    written = sum(step.usage.written for x in ladders for step in x.steps)
    num_answers = sum(1 + len(x.completions) for x in ladders)
    lines = '\n'.join(logs.output)
    self.assertRegex(
        lines,
        r'collect: \d+ s and \$[\d.]+ and [\d,]+ tokens; '
        rf'small wrote {written:,} tokens, [\d,]+ a second',
    )
    self.assertIn(f'cut off 0 of {num_answers} answers, 0.0%.', lines)

  @parameterized.parameters(signal.SIGTERM, signal.SIGINT)
  def test_a_signal_completes_the_problems_under_way(self, number):
    # With 4 in flight, problems 8 to 14 are the most that can have begun.
    with self.assertRaisesRegex(
        engine_lib.Stop,
        f'Got {number.name}. 1[2-5] of 40 .* The same command continues',
    ):
      self._collect(on_request=self._signal(number, 1))
    there, failed = self._on_disk()
    self.assertEqual((there, failed), (list(range(len(there))), []))
    self._collect()
    self._check_complete()

  def test_a_signal_counts_even_if_all_problems_are_under_way(self):
    with self.assertRaisesRegex(
        engine_lib.Stop, 'Got SIGINT. 40 of 40 .* The same command continues'
    ):
      self._collect(on_request=self._signal(signal.SIGINT, 1), concurrency=40)
    self._check_complete()

  def test_a_second_signal_ends_it_at_once(self):
    with self.assertRaisesRegex(
        engine_lib.Stop, 'Got SIGTERM, and a second signal. ([89]|1[01]) of 40'
    ):
      self._collect(on_request=self._signal(signal.SIGTERM, 2))
    self._collect()
    self._check_complete()

  def test_signals_are_as_before_afterwards(self):
    before = signal.getsignal(signal.SIGTERM)
    self._collect()
    self.assertEqual(signal.getsignal(signal.SIGTERM), before)
    # Also where it is not Python's own.
    mine = lambda *_: None
    signal.signal(signal.SIGTERM, mine)
    self.addCleanup(signal.signal, signal.SIGTERM, before)
    self._collect()
    self.assertIs(signal.getsignal(signal.SIGTERM), mine)

  def _count_tokens(self):
    """Tokens that all problems take: a twin of the meter."""
    limits = resilience.Limits()
    meter = meter_lib.Meter(scripted_pair.SPECS)
    engines = [
        resilience.ResilientEngine(engine, limits, meter)
        for engine in scripted_pair.make_engines(2)
    ]
    asyncio.run(
        collect.collect_ladders(
            _PROBLEMS,
            engines,
            lambda index, ladder: None,
            plan=collect.Plan(step_requests.Sampling()),
            grade=equivalence.exact,
            concurrency=4,
        )
    )
    return meter

  @parameterized.product(
      name=('tokens', 'dollars'), part=(0.4, 0.8), concurrency=(1, 4, 40)
  )
  def test_near_a_ceiling_what_was_paid_is_on_disk(
      self, name, part, concurrency
  ):
    meter = self._count_tokens()
    total = getattr(meter, name)
    with self.assertRaisesRegex(
        engine_lib.Stop, 'might cost more than is left. .* of 40'
    ):
      self._collect(
          concurrency=concurrency, **{name: type(total)(total * part)}
      )
    there, _ = self._on_disk()
    # All that began were completed, and the ceiling was used.
    self.assertEqual(there, list(range(len(there))))
    self.assertBetween(len(there), 40 * (part - 0.25), 40 * part)
    engines = self._collect()
    self._check_complete()
    asked = {x.question for engine in engines for x in engine.requests}
    self.assertLen(asked, 40 - len(there))  # None is paid twice.

  def test_under_a_ceiling_few_begin_before_one_has_ended(self):
    under_way, seen = set(), []

    def on_request(index):
      under_way.add(index)
      seen.append(len(under_way))

    self._collect(on_request=on_request, concurrency=40, tokens=10**9)
    self._check_complete()
    # The first has two requests at least, all alone: the trace and an ending.
    self.assertEqual(seen[:2], [1, 1])

  def test_a_ceiling_holds_even_if_one_problem_costs_more(self):
    with self.assertRaisesRegex(
        engine_lib.Stop, r'ceiling is reached: \$.* and .* tokens were spent'
    ):
      self._collect(tokens=100)
    self.assertEqual(self._on_disk(), ([], []))

  def test_an_engine_that_is_dead_stops_it(self):
    def on_request(index):
      if index == 11:
        raise engine_lib.EngineDied('small has died.')

    with self.assertRaisesRegex(
        engine_lib.Stop, 'small has died. ([89]|1[01]) of 40 .* same command'
    ):
      self._collect(on_request=on_request)
    self._collect()
    self._check_complete()

  def test_troubles_that_pass_leave_no_trace(self):
    self._collect()
    calm = {p.name: p.read_bytes() for p in self.directory.iterdir()}
    self.directory = self.directory.with_name('troubled')
    seen = set()

    def on_request(index):
      if index not in seen:
        seen.add(index)
        raise engine_lib.Unavailable('busy')

    self._collect(on_request=on_request, first_wait=0.001)
    troubled = {p.name: p.read_bytes() for p in self.directory.iterdir()}
    self.assertEqual(troubled, calm)
    self.assertLen(seen, 40)


if __name__ == '__main__':
  absltest.main()
