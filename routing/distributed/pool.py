"""Hands problems to actors that come and go with the queue.

An actor that dies, alone or with its node, loses what it had not logged: its
problems are handed to others, and another actor takes its place. Actors are
started while the queue has work for them, and ended when it has none. So a
cluster that adds and removes nodes follows the queue.
"""

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Sequence
import math
from typing import Any

from absl import logging

from routing import types
from routing.distributed import cluster
from routing.engines import engine as engine_lib
from routing.rollout import collect as collect_lib
from routing.rollout import cut_answers

# Times that actors die, without an answer between, before the collection stops.
_MAX_DEATHS = 5
# Seconds until the first actor should be ready; later, the log says what it
# waits for.
_PATIENCE = 20.0

# Index of a problem in its split, and the problem.
Item = tuple[int, types.Problem]
# What an actor returns of a problem.
Told = cut_answers.Told | collect_lib.Failure


class Pool:
  """Actors that come and go with the queue, as one collector.

  Args:
    ray: the module, connected to a cluster.
    asked: how many actors, and what each needs.
    actor: class of the actors. `ready` returns once an actor can work, or
      raises what would be wrong with every actor,
      `collect` returns what became of each of some problems, `close` the tokens
      that each route has written.
    arguments: of `actor`.
    concurrency: problems in flight in each actor, at most.

  Attributes:
    written: for each actor that ended, the tokens that each route has written.
    num_deaths: how many actors died.
  """

  def __init__(
      self,
      ray: Any,
      asked: cluster.Cluster,
      actor: type,
      arguments: Sequence[Any],
      concurrency: int,
  ):
    self._ray, self._asked = ray, asked
    self._class, self._arguments = actor, arguments
    # Problems in a hand-out; `collect_each` refuses a concurrency below 1.
    self._size = max(min(asked.problems, concurrency), 1)
    # Problems in each of the hand-outs that an actor has at a time. They differ
    # by one where the concurrency is no multiple, so that their sum is exact.
    num = math.ceil(concurrency / self._size)
    self._lanes = [(concurrency + i) // num for i in range(num)]
    self._queue: list[tuple[Item, asyncio.Future]] = []
    # Problems that have not ended; those that have begun; those that may be
    # under way at a time.
    self._num_left = self._num_under_way = self._capacity = 0
    self._num_actors = self._deaths_in_a_row = self.num_deaths = 0
    self._is_over, self._error = False, None
    self._is_said = False  # What the first actor waits for.
    self._changed = asyncio.Event()
    self.written: list[list[int]] = []

  async def collect(
      self,
      problems: Sequence[types.Problem],
      indices: Sequence[int],
      sink: Callable[[int, cut_answers.Told], None],
      *,
      may_begin: Callable[[int], Awaitable[bool]],
      stopped: asyncio.Event | None = None,
      **loop: Any,
  ) -> None:
    """Collects problems, as `collect.collect_ladders` and its like do.

    Args:
      problems: the problems.
      indices: of the problems in their split.
      sink: called with the place of a problem and what its actor tells.
      may_begin, stopped: see `collect.collect_each`.
      **loop: its other arguments.

    Raises:
      engine_lib.Stop: if actors die one after the other.
      Exception: as `collect_each` does.
    """
    stopped = stopped or asyncio.Event()
    index = {p.id: i for i, p in zip(indices, problems, strict=True)}
    self._num_left = len(problems)

    async def begins(place: int) -> bool:
      # What has begun is completed after a signal: wait until there is room.
      while self._num_under_way >= self._capacity and not stopped.is_set():
        await self._changed.wait()
      self._num_under_way += 1
      if await may_begin(place):
        return True
      self._end_one()
      return False

    async def collect_one(problem: types.Problem) -> cut_answers.Told:
      told = asyncio.get_running_loop().create_future()
      self._queue.append(((index[problem.id], problem), told))
      self._wake()
      try:
        return await told
      finally:
        self._end_one()

    async def collect_all() -> None:
      loop['concurrency'] *= self._asked.actors
      try:
        await collect_lib.collect_each(
            problems, collect_one, sink, may_begin=begins, **loop
        )
      finally:
        self._end()

    heeding = asyncio.ensure_future(self._heed(stopped))
    try:
      await collect_lib.together([collect_all(), self._keep_actors()])
    finally:
      heeding.cancel()

  async def _heed(self, stopped: asyncio.Event) -> None:
    """Lets all that wait look again once nothing further may begin."""
    await stopped.wait()
    self._wake()

  def _wake(self) -> None:
    """Lets all that wait look again."""
    self._changed.set()
    self._changed = asyncio.Event()

  def _end_one(self) -> None:
    """Counts a problem that ended."""
    self._num_under_way -= 1
    self._num_left -= 1
    self._wake()

  def _end(self, error: Exception | None = None) -> None:
    """Ends all actors, the first time with the error that is raised."""
    self._error = self._error or (None if self._is_over else error)
    self._is_over = True
    self._wake()

  def _is_surplus(self) -> bool:
    """Returns whether the queue has no work for one of the actors."""
    return self._is_over or (
        self._num_left == self._num_under_way
        and not self._queue
        and self._num_actors > self._num_wanted()
    )

  def _num_wanted(self) -> int:
    """Returns how many actors the problems that are left keep busy."""
    return min(self._asked.actors, math.ceil(self._num_left / self._size))

  async def _keep_actors(self) -> None:
    """Starts actors while the queue has work for them, and awaits their end."""
    async with asyncio.TaskGroup() as group:
      while not self._is_over:
        for _ in range(self._num_wanted() - self._num_actors):
          self._num_actors += 1
          group.create_task(self._employ())
        await self._changed.wait()
    if self._error is not None:
      raise self._error

  async def _employ(self) -> None:
    """Hands problems to one actor, until it dies or has no more work."""
    actor = (
        self._ray.remote(self._class)
        .options(
            num_cpus=self._asked.cpus,
            num_gpus=self._asked.gpus,
            max_concurrency=len(self._lanes) + 1,
        )
        .remote(*self._arguments)
    )
    room, before = 0, self._deaths_in_a_row
    try:
      if await self._is_ready(actor):
        room = sum(self._lanes)
        self._capacity += room
        self._wake()
        await collect_lib.together(
            self._hand_out(actor, size) for size in self._lanes
        )
        self.written.append(await actor.close.remote())
    except cluster.deaths(self._ray) as error:
      self._bury(error, before)
    except self._ray.exceptions.RayTaskError as error:
      if isinstance(error.cause, engine_lib.EngineDied):
        self._bury(error.cause, before)  # Others have engines of their own.
      else:
        self._end(error.cause)  # Which does not depend on the node.
    except Exception as error:
      self._end(error)
    finally:
      self._capacity -= room
      self._num_actors -= 1
      self._ray.kill(actor)
      self._wake()

  async def _is_ready(self, actor: Any) -> bool:
    """Waits until an actor can work; False if it is not needed before."""
    ready = asyncio.ensure_future(actor.ready.remote())
    late = asyncio.get_running_loop().call_later(_PATIENCE, self._say_waiting)
    try:
      while not ready.done() and not self._is_surplus():
        change = asyncio.ensure_future(self._changed.wait())
        await asyncio.wait({ready, change}, return_when='FIRST_COMPLETED')
        change.cancel()
    finally:
      late.cancel()
    if not ready.done():
      ready.cancel()
      return False
    await ready  # Raises what went wrong.
    return True

  def _say_waiting(self) -> None:
    """Says, once, what an actor that is not ready waits for."""
    if self._is_said or self._capacity:
      return
    self._is_said = True
    fits, state = cluster.room(self._ray, self._asked)
    if fits:
      logging.info(
          'After %.0f s no actor is ready. It loads its engines, or waits for '
          'others to leave. %s',
          _PATIENCE,
          state,
      )
    else:
      logging.warning(
          'After %.0f s no actor has started, since no node is large enough. %s'
          ' Waiting for such a node. Add one, or ask for less; Ctrl-C ends.',
          _PATIENCE,
          state,
      )

  def _bury(self, error: Exception, before: int) -> None:
    """Counts an actor that died; ends all if too many died in a row.

    Args:
      error: what it died of.
      before: `_deaths_in_a_row` when the actor was started. All actors of a
        node die with it: those that were started before the first of these
        deaths count no more.
    """
    self.num_deaths += 1
    logging.warning('A collecting actor died; another takes over. %s', error)
    if before < self._deaths_in_a_row:
      return
    self._deaths_in_a_row += 1
    if self._deaths_in_a_row >= _MAX_DEATHS:
      self._end(
          engine_lib.Stop(
              f'Actors died {_MAX_DEATHS} times in a row, the last with: '
              f'{error}'
          )
      )

  async def _hand_out(self, actor: Any, size: int) -> None:
    """Hands batches of at most `size` problems to an actor, in turn."""
    while True:
      while not self._queue:
        if self._is_surplus():
          return
        await self._changed.wait()
      handed, self._queue = self._queue[:size], self._queue[size:]
      try:
        found = await actor.collect.remote([item for item, _ in handed])
      except BaseException:
        # Somebody else answers them: first, since they have waited longest.
        self._queue = handed + self._queue
        self._wake()
        raise
      self._deaths_in_a_row = 0
      for (_, told), result in zip(handed, found, strict=True):
        if told.done():  # The collection was cancelled.
          continue
        if isinstance(result, Exception):
          told.set_exception(result)
        else:
          told.set_result(result)
