"""Tests of who is handed which problems, on a stand-in for Ray."""

import asyncio
import types

from absl.testing import absltest

from routing.distributed import cluster as cluster_lib
from routing.distributed import pool as pool_lib
from routing.engines import engine as engine_lib
from routing.rollout import cut_answers
from tests import scripted_pair


class _Died(Exception):
  """What Ray raises where an actor is dead."""


class _Failed(Exception):
  """What Ray raises where a method raised."""


class _Method:
  """A method of an actor, called with `remote`."""

  def __init__(self, method):
    self.remote = method


class Ray:
  """Actors in this process; notes who started, ended, and answered what.

  Args:
    answer: coroutine function of (number of the actor, index of the problem).
  """

  def __init__(self, answer):
    self.exceptions = types.SimpleNamespace(
        RayActorError=_Died, RayTaskError=_Failed
    )
    self.started, self.ended, self.handed = [], [], []
    self._answer = answer

  def remote(self, cls):
    """Returns what starts actors."""
    del cls
    return types.SimpleNamespace(
        options=lambda **needs: types.SimpleNamespace(remote=self._start)
    )

  def kill(self, actor):
    """Notes the end of an actor."""
    self.ended.append(actor.number)

  def _start(self):
    number = len(self.started)
    self.started.append(number)

    async def ready():
      await asyncio.sleep(0)

    async def collect(items):
      self.handed.append([index for index, _ in items])
      return [await self._answer(number, index) for index, _ in items]

    async def close():
      return [1, 2]

    return types.SimpleNamespace(
        number=number,
        ready=_Method(ready),
        collect=_Method(collect),
        close=_Method(close),
    )


async def _at_once(number, index):
  del number
  await asyncio.sleep(0)
  return cut_answers.Told((index % 2 == 0,))


def _collect(ray, count, *, may_begin=None, concurrency=2, **asked):
  """Collects `count` problems; returns what is told of each, and the pool."""
  problems = scripted_pair.make_problems(count)
  pool = pool_lib.Pool(
      ray, cluster_lib.Cluster(**asked), object, (), concurrency
  )
  told, failed = {}, {}

  async def always(place):
    del place
    return True

  async def run():
    await asyncio.wait_for(
        pool.collect(
            problems,
            [10 * i for i in range(count)],
            told.__setitem__,
            concurrency=concurrency,
            on_failed=failed.__setitem__,
            may_begin=may_begin or always,
        ),
        timeout=30,
    )

  asyncio.run(run())
  return told, failed, pool


class PoolTest(absltest.TestCase):

  def test_each_problem_is_told_once(self):
    ray = Ray(_at_once)
    told, failed, pool = _collect(ray, 20, actors=3, problems=2)
    self.assertEqual(told, {i: cut_answers.Told((True,)) for i in range(20)})
    self.assertEmpty(failed)
    handed = sorted(sum(ray.handed, []))
    self.assertEqual(handed, [10 * i for i in range(20)])
    self.assertLessEqual(max(map(len, ray.handed)), 2)
    self.assertCountEqual(ray.ended, ray.started)
    self.assertEqual(pool.written, [[1, 2]] * len(ray.started))

  def test_the_queue_decides_how_many_actors_there_are(self):
    for count, expected in ((1, 1), (2, 1), (3, 2), (5, 3), (50, 4)):
      ray = Ray(_at_once)
      _collect(ray, count, actors=4, problems=2)
      self.assertLen(ray.started, expected, count)

  def test_an_actor_without_work_leaves_before_the_last_problem_ends(self):
    def is_alone():
      return len(ray.ended) == 2

    async def answer(number, index):
      if index == 0:  # The last to end.
        while not is_alone():
          await asyncio.sleep(0.01)
      return await _at_once(number, index)

    ray = Ray(answer)
    told, _, _ = _collect(ray, 12, actors=3, problems=1, concurrency=1)
    self.assertLen(told, 12)
    self.assertLen(ray.started, 3)

  def test_what_a_dead_actor_was_handed_is_handed_to_others(self):
    async def answer(number, index):
      if number in (0, 2):
        raise _Died('node lost')
      return await _at_once(number, index)

    ray = Ray(answer)
    told, failed, pool = _collect(ray, 12, actors=2, problems=2)
    self.assertLen(told, 12)
    self.assertEmpty(failed)
    self.assertGreaterEqual(pool.num_deaths, 1)

  def test_deaths_without_an_answer_end_the_collection(self):
    async def answer(number, index):
      raise _Died('node lost')

    with self.assertRaisesRegex(engine_lib.Stop, '5 actors died in a row'):
      _collect(Ray(answer), 12, actors=2, problems=2)

  def test_a_failed_problem_is_told_as_such(self):
    async def answer(number, index):
      if index == 30:
        return engine_lib.Refused('too long')
      return await _at_once(number, index)

    told, failed, _ = _collect(Ray(answer), 6, actors=2, problems=2)
    self.assertEqual(sorted(told), [0, 1, 2, 4, 5])
    self.assertEqual(str(failed[3]), 'too long')

  def test_nothing_begins_after_a_stop(self):
    begun = []

    async def may_begin(place):
      begun.append(place)
      return len(begun) <= 3

    ray = Ray(_at_once)
    told, _, _ = _collect(ray, 12, actors=2, problems=2, may_begin=may_begin)
    self.assertEqual(sorted(told), [0, 1, 2])
    self.assertLen(sum(ray.handed, []), 3)


if __name__ == '__main__':
  absltest.main()
