"""The event loop of the service, and what lets it run in time."""

import asyncio
import gc
import sys
from unittest import mock

from absl.testing import absltest

from routing.serving import event_loop


class EventLoopTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    # The settings concern the process, and so the tests that come after.
    self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())
    self.addCleanup(gc.set_threshold, *gc.get_threshold())
    self.addCleanup(gc.unfreeze)
    self.addCleanup(gc.callbacks.__setitem__, slice(None), gc.callbacks[:])

  def _kind(self):
    found = []

    async def main():
      found.append(type(asyncio.get_running_loop()).__module__)

    event_loop.run(main())
    return found[0]

  def test_the_faster_loop_is_taken_where_it_is_installed(self):
    self.assertStartsWith(self._kind(), 'uvloop')
    with mock.patch.dict(sys.modules, uvloop=None):
      self.assertStartsWith(self._kind(), 'asyncio')

  def test_an_error_is_passed_on(self):
    async def main():
      raise ValueError('no')

    with self.assertRaisesRegex(ValueError, 'no'):
      event_loop.run(main())

  def test_the_loop_gets_the_interpreter_sooner(self):
    before = sys.getswitchinterval()
    event_loop.come_first()
    self.assertLess(sys.getswitchinterval(), before)

  def test_the_collector_spares_what_is_there_and_what_comes_soon(self):
    class Thing:
      pass

    first = Thing()
    event_loop.come_first()
    self.assertNotIn(id(first), map(id, gc.get_objects()))
    later = Thing()
    gc.collect()
    self.assertNotIn(id(later), map(id, gc.get_objects()))
    for _ in range(20):  # But not for ever.
      gc.collect()
    last = Thing()
    last.itself = last
    gc.collect()
    self.assertIn(id(last), map(id, gc.get_objects()))


if __name__ == '__main__':
  absltest.main()
