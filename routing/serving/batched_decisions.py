"""Evaluates the policy for all decisions that wait, in one jitted call."""

import asyncio
from collections.abc import Callable
import dataclasses

import numpy as np

from routing import types
from routing.routers import card as card_lib
from routing.routers import learned

# Sizes to which a batch is padded; each is compiled once, at the start. The
# embedded models write 32 answers at once on a CPU.
SIZES = (8, 32, 64)
# Probabilities of a batch differ from those of one decision by some 1e-6.
_ROUNDING = 1e-4


@dataclasses.dataclass
class _Waiting:
  """A decision that waits for its turn."""

  router: learned.LearnedRouter
  trace: types.Trace
  features: np.ndarray
  future: asyncio.Future


class BatchedDecisions:
  """Collects the decisions of many answers, and makes them together.

  A decision is the one that the router alone would make: where rounding could
  change it, the router makes it alone. Scores differ by rounding. All methods
  run in one event loop.

  Args:
    router: its policies decide; the points of `at` are copies of it.
    on_batch: called with the number of decisions of each batch.
    is_alone: whether a single answer is being written, which has no decision to
      add; one is then made at once.
  """

  def __init__(
      self,
      router: learned.LearnedRouter,
      on_batch: Callable[[int], None] = lambda count: None,
      is_alone: Callable[[], bool] = lambda: False,
  ):
    self._router, self._on_batch = router, on_batch
    self._is_alone = is_alone
    self._waiting: list[_Waiting] = []

  def warm_up(self) -> None:
    """Compiles the calls of all sizes, and that of one decision."""
    config = self._router.card.features
    self._router.probabilities(
        np.zeros((config.max_decisions, config.size), np.float32)[
            slice(None) if self._router.has_memory else 0
        ]
    )
    shape = (config.size,)
    if self._router.has_memory:
      shape = (config.max_decisions, config.size)
    for size in SIZES:
      features = np.zeros((size, *shape), np.float32)
      self._router.probabilities(features)
      self._router.probabilities_of_each(
          features,
          np.zeros(size, np.int32),
          np.full(size, self._router.level, np.float32),
      )

  def at(self, router: learned.LearnedRouter) -> 'AtPoint':
    """Returns what the driver asks, for a copy of the router at a point."""
    return AtPoint(self, router)

  async def decide(
      self, router: learned.LearnedRouter, trace: types.Trace
  ) -> types.Decision:
    """Returns the decision at a trace, once its batch is computed.

    Raises:
      ValueError: see `LearnedRouter.decide`.
    """
    # Before it waits, so that a trace with a fault fails alone.
    features = router.observations(trace)
    if self._is_alone():
      self._on_batch(1)
      return _made_alone(router, trace, features)
    loop = asyncio.get_running_loop()
    if not self._waiting:
      # All coroutines that are ready now run first, and may add decisions.
      loop.call_soon(self._flush)
    found = _Waiting(router, trace, features, loop.create_future())
    self._waiting.append(found)
    return await found.future

  def _flush(self) -> None:
    """Makes all decisions that wait."""
    waiting, self._waiting = self._waiting, []
    for start in range(0, len(waiting), SIZES[-1]):
      batch = waiting[start : start + SIZES[-1]]
      self._on_batch(len(batch))
      try:
        rows = self._probabilities(batch) if len(batch) > 1 else [None]
      except Exception as error:  # The callers get it, each in its answer.
        for each in batch:
          _settle(each.future, error)
        continue
      for each, row in zip(batch, rows, strict=True):
        try:
          _settle(each.future, _decision(each, row))
        # It concerns this decision alone; the others must not wait for ever.
        except Exception as error:
          _settle(each.future, error)

  def _probabilities(self, batch: list[_Waiting]) -> list[np.ndarray]:
    """Returns the `[A]` action probabilities of each decision of a batch."""
    size = next(x for x in SIZES if x >= len(batch))
    padded = [*batch, *[batch[0]] * (size - len(batch))]
    features = np.stack([x.features for x in padded])
    policies = [(x.router.policy_index, x.router.level) for x in padded]
    if len(set(policies)) == 1:  # Mostly so; K policies take K times as long.
      found = batch[0].router.probabilities(features)
    else:
      rows, levels = zip(*policies, strict=True)
      found = self._router.probabilities_of_each(
          features, np.array(rows, np.int32), np.array(levels, np.float32)
      )
    if not self._router.has_memory:
      return list(found[: len(batch)])
    # With memory there is a row for each decision of the answer so far.
    return [
        rows[len(x.trace.steps)] for x, rows in zip(batch, found, strict=False)
    ]


def _settle(future: asyncio.Future, result: types.Decision | Exception) -> None:
  """Gives a caller its decision, or an error, unless it has given up."""
  if future.done():
    return
  if isinstance(result, Exception):
    future.set_exception(result)
  else:
    future.set_result(result)


def _decision(
    waiting: _Waiting, probabilities: np.ndarray | None
) -> types.Decision:
  """Returns a decision, from its row of a batch where that is exact enough."""
  router, trace = waiting.router, waiting.trace
  if probabilities is None or _is_close(waiting, probabilities):
    return _made_alone(router, trace, waiting.features)
  return router.decide_from(probabilities, trace)


def _made_alone(
    router: learned.LearnedRouter, trace: types.Trace, features: np.ndarray
) -> types.Decision:
  """Returns what `router.decide` does, from the observation at the trace."""
  probabilities = router.probabilities(features)
  if router.has_memory:
    probabilities = probabilities[len(trace.steps)]
  return router.decide_from(probabilities, trace)


def _is_close(waiting: _Waiting, probabilities: np.ndarray) -> bool:
  """Returns whether rounding could change a decision."""
  threshold = card_lib.threshold_at(
      waiting.router.threshold, len(waiting.trace.steps)
  )
  if abs(probabilities[1:].sum() - threshold) < _ROUNDING:
    return True
  # The likeliest of the larger routes is chosen.
  *_, second, first = np.sort([-1.0, *probabilities[1:]])
  return first - second < _ROUNDING


@dataclasses.dataclass(frozen=True)
class AtPoint:
  """A router at a point, whose decisions are made in batches.

  batches: makes them.
  router: the router at its point.
  """

  batches: BatchedDecisions
  router: learned.LearnedRouter

  async def decide(self, trace: types.Trace) -> types.Decision:
    """Returns the decision at a trace; see `driver.Router`."""
    return await self.batches.decide(self.router, trace)
