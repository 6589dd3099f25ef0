"""What keys have used is not lost where the store fails."""

import asyncio
import sqlite3
from unittest import mock

from absl.testing import absltest

from routing import types
from routing.serving import ledger as ledger_lib
from routing.serving import store as store_lib
from tests import scripted_pair


class FailingStoreTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    store = store_lib.Store(None)
    self.addCleanup(store.close)
    self.ledger = ledger_lib.Ledger(store, scripted_pair.SPECS)
    self.full = mock.patch.object(
        store, 'add_usages', side_effect=sqlite3.OperationalError('full')
    )

  def read(self):
    """Returns how many tokens the store says that the small model has read."""
    return self.ledger._store.usage('alice')[0]['read']

  def test_what_was_paid_is_kept_and_written_with_the_next(self):
    async def run():
      told = []
      loop = asyncio.get_running_loop()
      loop.set_exception_handler(lambda _, context: told.append(context))
      with self.full:
        self.ledger.pay('alice', types.Usage(0, 5, 0, 1))
        await asyncio.sleep(0)
      # The operator is told, and the next call tries again by itself.
      self.assertIsInstance(told[0]['exception'], sqlite3.OperationalError)
      self.ledger.pay('alice', types.Usage(0, 7, 0, 1))
      await asyncio.sleep(0)
      self.assertEqual(self.read(), 12)

    asyncio.run(run())

  def test_a_request_that_fails_to_write_loses_nothing(self):
    async def run():
      self.ledger.pay('alice', types.Usage(0, 5, 0, 1))
      with self.full, self.assertRaises(sqlite3.OperationalError):
        self.ledger.used('alice')
      self.assertEqual(self.ledger.used('alice')['small']['read'], 5)
      await asyncio.sleep(0)  # Once.
      self.assertEqual(self.read(), 5)

    asyncio.run(run())

  def test_outside_an_event_loop(self):
    with self.full, self.assertRaises(sqlite3.OperationalError):
      self.ledger.pay('alice', types.Usage(0, 5, 0, 1))
    self.ledger.pay('alice', types.Usage(0, 7, 0, 1))
    self.assertEqual(self.read(), 12)


if __name__ == '__main__':
  absltest.main()
