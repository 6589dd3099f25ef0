"""Ends work for a client that goes away while it waits."""

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from typing import Any


class ClientGone(Exception):
  """The client has closed its connection."""


async def unless_gone(receive: Callable, work: Awaitable) -> Any:
  """Returns the result of `work`, which ends when the client goes away.

  Args:
    receive: of the ASGI standard; tells that the client has gone.
    work: what the client waits for.

  Raises:
    ClientGone: if the client has gone, once `work` has ended.
  """
  # In this task, and not in one of its own: that would begin only when all
  # others that are ready have run.
  task, is_over, has_given_up = asyncio.current_task(), False, False

  def give_up(gone: asyncio.Future) -> None:
    nonlocal has_given_up
    if not (is_over or gone.cancelled()):
      has_given_up = True
      task.cancel()

  gone = asyncio.ensure_future(_gone(receive))
  gone.add_done_callback(give_up)
  try:
    return await work
  except asyncio.CancelledError:
    # What was being written is given up by now.
    if has_given_up and not task.uncancel():
      raise ClientGone from gone.exception()
    raise
  finally:
    is_over = True
    gone.cancel()


async def _gone(receive: Callable) -> None:
  """Returns when the client has closed its connection."""
  while (await receive())['type'] != 'http.disconnect':
    pass
