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
from routing.engines import resilience
from routing.grading import equivalence
from routing.rollout import collect
from routing.rollout import driver
from routing.shards import reader
from routing.shards import writer as writer_lib
from tests import scripted_pair

_PROBLEMS = scripted_pair.make_problems(40)
_SHARD_SIZE = 5


class OvernightTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.create_tempdir().full_path) / 'train'

  def _collect(self, *, refuse=(), on_request=None, concurrency=4, **limits):
    """Collects what is missing; returns the engines."""
    engines = scripted_pair.make_engines(2, delay=0.0005)
    for engine in engines:
      engine.reply = functools.partial(
          self._reply, engine.reply, set(refuse), on_request
      )
    writer = writer_lib.LadderWriter(self.directory, _PROBLEMS, {}, _SHARD_SIZE)
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
    """Indices in shards and among the failures; no problem is in both."""
    manifest = reader.read_manifest(self.directory)
    there = [
        int(ladder.problem.id.split('/')[1])
        for entry in manifest.shards
        for ladder in reader.read_shard(
            self.directory, entry, writer_lib.LadderWriter.kind
        )
    ]
    failed = [failure.index for failure in manifest.failures]
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
    self.assertEqual(there, [0, 1, 2, 4, 5, 6, 7, 8, 9])
    self._collect()
    self._check_complete({3})

  def _signal(self, number, times):
    """Sends this process a signal when the 12th problem begins, and after."""
    left = [number] * times

    def on_request(index):
      if index >= 11 and left:
        os.kill(os.getpid(), left.pop())

    return on_request

  @parameterized.parameters(signal.SIGTERM, signal.SIGINT)
  def test_a_signal_completes_the_shards_under_way(self, number):
    # With 4 in flight, problems 8 to 14 are the most that can have begun.
    with self.assertRaisesRegex(
        engine_lib.Stop,
        f'Got {number.name}. 15 of 40 .* The same command continues',
    ):
      self._collect(on_request=self._signal(number, 1))
    self.assertEqual(self._on_disk(), (list(range(15)), []))
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
        engine_lib.Stop, 'Got SIGTERM, and a second signal. (5|10) of 40'
    ):
      self._collect(on_request=self._signal(signal.SIGTERM, 2))
    self._collect()
    self._check_complete()

  def test_signals_are_as_before_afterwards(self):
    before = signal.getsignal(signal.SIGTERM)
    self._collect()
    self.assertEqual(signal.getsignal(signal.SIGTERM), before)

  def _count_tokens(self):
    """Tokens that all problems take: a twin of the meter."""
    limits = resilience.Limits()
    meter = resilience.Meter(scripted_pair.SPECS, limits)
    engines = [
        resilience.ResilientEngine(engine, limits, meter)
        for engine in scripted_pair.make_engines(2)
    ]
    asyncio.run(
        collect.collect_ladders(
            _PROBLEMS,
            engines,
            lambda index, ladder: None,
            plan=collect.Plan(driver.Sampling()),
            grade=equivalence.exact,
            concurrency=4,
        )
    )
    return meter

  @parameterized.parameters('tokens', 'dollars')
  def test_below_a_ceiling_whole_shards_are_written(self, name):
    total = getattr(self._count_tokens(), name)
    with self.assertRaisesRegex(
        engine_lib.Stop, 'might cost more than is left. .* of 40'
    ):
      self._collect(**{name: type(total)(total / 2)})
    there, _ = self._on_disk()
    self.assertEqual(there, list(range(len(there))))
    self.assertBetween(len(there), 10, 20)
    self._collect()
    self._check_complete()

  def test_a_ceiling_holds_even_if_a_shard_costs_more(self):
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
        engine_lib.Stop, 'small has died. 1?[05] of 40 .* same command'
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
