"""Shadows: what the largest model alone answers to a question as well.

They are written in the background, and no client sees them. Together with
feedback they tell a loss from an error that the largest model makes too; see
`feedback`.
"""

import asyncio
import dataclasses
import random
from typing import Any

from routing.serving import back_ends
from routing.serving import keys as keys_lib
from routing.serving import monitoring
from routing.serving import points as points_lib
from routing.serving import record as record_lib
from routing.serving import writing as writing_lib


class Shadows:
  """Draws which answers have a shadow, and writes the shadows.

  Args:
    service: an `answering.Service`, whose models write.
    rng: draws.
  """

  def __init__(self, service: Any, rng: random.Random):
    self._service, self._rng = service, rng
    self._tasks: set[asyncio.Task] = set()

  def draw(self, choice: points_lib.Choice) -> bool:
    """Returns whether an answer by this choice has a shadow."""
    return (
        choice.alone is None
        # Under load fewer have one: that says nothing of how good they are.
        and self._service.room.has_spare
        and self._rng.random() < self._service.settings.shadow_share
    )

  def begin(self, question: writing_lib.Question) -> None:
    """Lets the shadow of an answer be written in the background."""
    task = asyncio.get_running_loop().create_task(self._write(question))
    self._tasks.add(task)
    task.add_done_callback(self._tasks.discard)

  async def wait(self) -> None:
    """Waits until all are written."""
    await asyncio.gather(*self._tasks, return_exceptions=True)

  def give_up(self) -> None:
    """Ends those in progress, which nobody is told of."""
    for task in self._tasks:
      task.cancel()

  async def _write(self, question: writing_lib.Question) -> None:
    """Has the largest model alone answer a question."""
    service = self._service
    question = dataclasses.replace(question, owner=keys_lib.SHADOW)
    choice = service.points.alone(len(service.specs) - 1)
    record = record_lib.Record(
        service.specs,
        choice.threshold_at,
        pay=lambda usage: service.pay(question.owner, usage),
    )
    try:
      with service.room.admitted(1):
        async with service.room.turn():
          # Its failure would keep a back end that is down from clients longer.
          if not service.health.may_ask(choice.alone, record):
            raise back_ends.BackEndDown(choice.alone, choice.name)
          await service.write_answer(question, choice, record)
    except asyncio.CancelledError:
      service.pay_given_up(question, record)
      raise
    except Exception as error:  # It is nobody's answer, so nobody is told.
      monitoring.log(
          'shadow_failed',
          level='WARNING',
          id=question.id,
          reason=type(error).__name__,
      )
      return
    finally:
      service.health.leave(record)
      record.close()
    service.metrics.shadows.inc()
    service.store.add_shadow(question.id, record.text)
