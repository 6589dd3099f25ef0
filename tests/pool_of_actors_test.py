"""Tests of who is handed which problems, on a stand-in for Ray."""

import asyncio
import types
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized

from routing.distributed import cluster as cluster_lib
from routing.distributed import pool as pool_lib
from routing.engines import engine as engine_lib
from routing.rollout import cut_answers
from tests import scripted_pair


class _Died(Exception):
  """What Ray raises where an actor is dead."""


class _OutOfMemory(Exception):
  """What Ray raises where its monitor ended an actor."""


class _Failed(Exception):
  """What Ray raises where a method raised `cause`."""

  def __init__(self, cause):
    super().__init__(str(cause))
    self.cause = cause


class _Method:
  """A method of an actor, called with `remote`."""

  def __init__(self, method):
    self.remote = method


class Ray:
  """Actors in this process; notes who started, ended, and answered what.

  Args:
    answer: coroutine function of (number of the actor, index of the problem).
    ready: coroutine function; an actor is ready once it returns.
    gpus: of the one node.
  """

  def __init__(self, answer, ready=lambda: asyncio.sleep(0), gpus=0.0):
    self.exceptions = types.SimpleNamespace(
        RayActorError=_Died,
        RayTaskError=_Failed,
        OutOfMemoryError=_OutOfMemory,
        NodeDiedError=_Died,
        WorkerCrashedError=_Died,
        ObjectLostError=_Died,
    )
    self.started, self.ended, self.handed = [], [], []
    self._answer, self._ready, self._gpus = answer, ready, gpus

  def nodes(self):
    """Returns the nodes as Ray describes them."""
    return [{'Alive': True, 'Resources': {'CPU': 2.0, 'GPU': self._gpus}}]

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

    async def collect(items):
      self.handed.append([index for index, _ in items])
      return [await self._answer(number, index) for index, _ in items]

    async def close():
      return [1, 2]

    return types.SimpleNamespace(
        number=number,
        ready=_Method(self._ready),
        collect=_Method(collect),
        close=_Method(close),
    )


async def _at_once(number, index):
  del number
  await asyncio.sleep(0)
  return cut_answers.Told((index % 2 == 0,))


def _collect(
    ray, count, *, may_begin=None, stopped=None, concurrency=2, **asked
):
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
            stopped=stopped,
        ),
        timeout=30,
    )

  asyncio.run(run())
  return told, failed, pool


class PoolTest(parameterized.TestCase):

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

  @parameterized.parameters(
      (_Died('node lost'),),
      (_OutOfMemory('memory is low'),),
      # Another process than the actor's, e.g. that of vLLM.
      (_Failed(engine_lib.EngineDied('died a second time')),),
  )
  def test_what_a_dead_actor_was_handed_is_handed_to_others(self, error):
    async def answer(number, index):
      if number in (0, 2):
        raise error
      return await _at_once(number, index)

    ray = Ray(answer)
    told, failed, pool = _collect(ray, 12, actors=2, problems=2)
    self.assertLen(told, 12)
    self.assertEmpty(failed)
    self.assertGreaterEqual(pool.num_deaths, 1)

  def test_deaths_without_an_answer_end_the_collection(self):
    async def answer(number, index):
      raise _Died('node lost')

    ray = Ray(answer)
    with self.assertRaisesRegex(engine_lib.Stop, 'Actors died 5 times in a ro'):
      _collect(ray, 12, actors=2, problems=2)
    self.assertLess(len(ray.started), 12)

  def test_actors_that_die_together_count_once(self):
    num = 8  # All on one node.
    met = asyncio.Event()

    async def answer(number, index):
      if number >= num:
        return await _at_once(number, index)
      if len(ray.handed) == num:
        met.set()
      await met.wait()
      raise _Died('node lost')

    ray = Ray(answer)
    told, _, pool = _collect(
        ray, 2 * num, actors=num, problems=1, concurrency=1
    )
    self.assertLen(told, 2 * num)
    self.assertEqual(pool.num_deaths, num)

  def test_an_actor_has_no_more_problems_than_it_may_have_nor_fewer(self):
    running, most = set(), 0

    async def answer(number, index):
      nonlocal most
      running.add(index)
      most = max(most, len(running))
      await asyncio.sleep(0.001)
      running.discard(index)
      return await _at_once(number, index)

    class All(Ray):
      """Answers the problems of a hand-out at once."""

      def _start(self):
        actor = super()._start()

        async def collect(items):
          return await asyncio.gather(*(answer(0, i) for i, _ in items))

        actor.collect = _Method(collect)
        return actor

    _collect(All(answer), 30, actors=1, problems=4, concurrency=6)
    self.assertEqual(most, 6)

  @parameterized.parameters((0.0, 'WARNING'), (1.0, 'INFO'))
  def test_what_no_node_has_is_said_and_the_wait_ends_with_a_stop(
      self, gpus, level
  ):
    stopped, asked = asyncio.Event(), []

    async def may_begin(place):
      asked.append(place)
      return False

    async def ready():
      await asyncio.sleep(0.05)
      stopped.set()
      await asyncio.Event().wait()  # Placed nowhere.

    ray = Ray(_at_once, ready, gpus)
    with (
        mock.patch.object(pool_lib, '_PATIENCE', 0.01),
        self.assertLogs('absl', level) as logs,
    ):
      told, _, _ = _collect(
          ray, 3, actors=1, may_begin=may_begin, stopped=stopped, gpus=1
      )
    self.assertEmpty(told)
    self.assertCountEqual(asked, [0, 1, 2])
    (line,) = [x for x in logs.output if 'needs 1 cores and 1 GPUs' in x]
    self.assertIn(f'The nodes of the cluster have: 2 and {gpus:g}.', line)
    self.assertEqual('no node is large enough' in line, not gpus)

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
