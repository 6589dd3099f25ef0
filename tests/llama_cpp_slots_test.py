"""Which slot of llama.cpp a request gets, and what waits for one."""

import asyncio
import contextlib

from absl.testing import absltest

from routing.engines import llama_cpp_slots


class PoolTest(absltest.TestCase):

  def test_the_slot_with_the_longest_common_prefix_is_lent(self):
    async def run():
      pool = llama_cpp_slots.Pool(range(4, 6))
      lent = []
      for ids in ([1, 2], [5, 6], [5, 6, 7], [1, 2, 3], [9], [8]):
        async with pool.lend(ids) as index:
          lent.append(index)
      return lent

    # [9] shares nothing and displaces [5, 6, 7], the less recently used one;
    # [8] then displaces [1, 2, 3].
    self.assertEqual(asyncio.run(run()), [4, 5, 5, 4, 5, 4])

  def test_a_slot_in_use_is_not_lent_again(self):
    async def enter(pool):
      async with pool.lend([1]) as index:
        return index

    async def run():
      pool = llama_cpp_slots.Pool(range(1, 3))
      async with contextlib.AsyncExitStack() as stack:
        lend = lambda: stack.enter_async_context(pool.lend([1]))
        both = [await lend(), await lend()]
        third = asyncio.create_task(enter(pool))
        await asyncio.sleep(0)
        self.assertFalse(third.done())
      return both, await third

    both, third = asyncio.run(run())
    self.assertCountEqual(both, [1, 2])
    self.assertIn(third, both)

  def test_an_error_gives_the_slot_back(self):
    async def run():
      pool = llama_cpp_slots.Pool(range(1))
      with self.assertRaises(KeyError):
        async with pool.lend([1]):
          raise KeyError
      async with asyncio.timeout(60), pool.lend([1]) as index:
        return index

    self.assertEqual(asyncio.run(run()), 0)


class SlotsTest(absltest.TestCase):

  def _lend_two_of_each(self, num_asides):
    """Returns the fields of two answers and two asides, one after another."""

    async def run():
      slots = llama_cpp_slots.Slots(2, num_asides)
      found = []
      for is_aside in (False, True, False, True):
        async with slots.lend([1 + len(found)], is_aside) as fields:
          found.append(fields)
      return found

    return asyncio.run(run())

  def test_asides_have_slots_of_their_own(self):
    self.assertEqual(
        [x['id_slot'] for x in self._lend_two_of_each(2)], [0, 2, 1, 3]
    )

  def test_without_them_the_server_chooses(self):
    self.assertEqual(self._lend_two_of_each(0), [{}] * 4)


if __name__ == '__main__':
  absltest.main()
