"""Replies on the disk: the same text and cost as without, in later runs too."""

import asyncio
import dataclasses
import os
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.engines import engine as engine_lib
from routing.engines import memoized
from routing.engines import resilience
from routing.shards import reply_memory
from tests import scripted_pair
from tests import token_models

_REQUESTS = (
    engine_lib.Request(),
    engine_lib.Request(to_end=True),
    engine_lib.Request(trace='12\n\n'),  # The small model's first step.
    engine_lib.Request(max_tokens=1),  # A probe: cut short.
    engine_lib.Request(to_end=True, temperature=1.0, seed=3),
    engine_lib.Request(to_end=True, temperature=1.0, seed=4),
    engine_lib.Request(to_end=True, temperature=0.5, seed=3),
)


def _ask(engine, requests=_REQUESTS):
  async def ask():
    found = []
    for request in requests:  # Sessions of their own: no cache is shared.
      async with engine.open('10:4\n') as session:
        found.append(await session.write(request))
    await engine.close()
    return found

  return asyncio.run(ask())


class ReplyMemoryTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.path = pathlib.Path(self.create_tempdir().full_path) / 'replies.log'

  def _wrapped(self, **changes):
    engine, *_ = scripted_pair.make_engines(2, **changes)
    return engine, memoized.MemoizedEngine(
        engine, reply_memory.DiskMemory(self.path)
    )

  def test_a_second_run_asks_nothing_and_gets_the_same(self):
    plain, _ = self._wrapped()
    expected = _ask(plain)
    first, wrapped = self._wrapped()
    self.assertEqual(
        scripted_pair.plain(tuple(_ask(wrapped))),
        scripted_pair.plain(tuple(expected)),
    )
    # The first request is the beginning of the second, which goes on; the
    # third is in the second's reply.
    self.assertLen(first.requests, len(_REQUESTS) - 1)
    second, wrapped = self._wrapped()
    self.assertEqual(
        scripted_pair.plain(tuple(_ask(wrapped))),
        scripted_pair.plain(tuple(expected)),
    )
    self.assertEmpty(second.requests)

  @parameterized.parameters(
      dict(seed=5), dict(temperature=0.7), dict(max_tokens=9), dict(trace='7')
  )
  def test_a_sampled_reply_is_found_by_the_same_request_only(self, **changes):
    request = _REQUESTS[4]
    _, wrapped = self._wrapped()
    _ask(wrapped, [request])
    engine, wrapped = self._wrapped()
    _ask(wrapped, [request, dataclasses.replace(request, **changes)])
    self.assertLen(engine.requests, 1)

  def test_an_engine_without_seeds_is_asked_again(self):
    engine, wrapped = self._wrapped()
    wrapped.capabilities = dataclasses.replace(
        wrapped.capabilities, seeds=False
    )
    _ask(wrapped, [_REQUESTS[4]] * 2)
    self.assertLen(engine.requests, 2)

  def test_token_sessions_are_those_of_the_engine(self):
    engine, wrapped = self._wrapped()
    outer = resilience.ResilientEngine(wrapped, resilience.Limits(), None)
    # What asks by `hasattr` sees no difference to the engine itself.
    self.assertFalse(hasattr(outer, 'open_tokens'))
    table = token_models.Table(0, lambda text: np.zeros(41))
    engine.open_tokens = table.open_tokens
    self.assertEqual(outer.open_tokens('P=2').text, 'P=2')

  def test_an_unfinished_record_is_dropped(self):
    _, wrapped = self._wrapped()
    _ask(wrapped)
    self.path.write_bytes(self.path.read_bytes()[:-3])
    engine, wrapped = self._wrapped()
    _ask(wrapped)
    self.assertNotEmpty(engine.requests)
    self.assertNotEmpty(reply_memory.DiskMemory(self.path))

  def test_slow_replies_are_in_the_file_before_a_block_is_full(self):
    now = 0.0
    memory = reply_memory.DiskMemory(self.path, clock=lambda: now)
    _, wrapped = self._wrapped()
    step = _ask(wrapped, _REQUESTS[:1])[0][0]
    os.remove(self.path)  # Asking for the step has written it.
    for now, num_kept in ((0.0, 0), (19.0, 0), (21.0, 3), (30.0, 3)):
      memory.store(f'{now}', '', '', [step], 1)
      self.assertLen(reply_memory.DiskMemory(self.path), num_kept)


if __name__ == '__main__':
  absltest.main()
