"""The event loop of the service, and how it runs without long pauses.

Embedded models compute in the process that also decides and writes to clients.
Their batches end with many rows at once, so that many coroutines then want to
run while the other models compute on, and each answer waits for the loop
between two steps. Whatever holds up the loop holds up all of them.

Engines keep the priority that they have: with a lower one they would come after
every other program of the machine, and not only after the loop.
"""

import asyncio
from collections.abc import Coroutine
import gc
import sys
from typing import Any

# For how long a thread that runs Python keeps the interpreter when the loop
# wants it. Python's own 5 ms are more than the loop needs for a step.
_SWITCH_SECONDS = 0.0005
# How many collections of the middle generation come before one of all objects.
# Nearly all garbage is young; with Python's own 10, the loop would stand still
# for the rest of it many times a minute.
_MIDDLE_COLLECTIONS = 100
_KEPT_COLLECTIONS = 10  # Of all objects; the first one at the start.


def run(main: Coroutine[Any, Any, None]) -> None:
  """Runs a coroutine to its end, in the fastest event loop that is installed.

  uvicorn chooses likewise, but only where it starts the loop itself.
  """
  try:
    import uvloop
  except ImportError:  # Windows, or not all of the extra `serve`.
    factory = None
  else:
    factory = uvloop.new_event_loop
  with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(main)


def come_first() -> None:
  """Lets the loop have the interpreter soon, from now on in this process.

  Called once, when all that the service needs from the start is loaded. The
  collector is spared that: to look at all objects of jax takes it some tenths
  of a second, in which no answer goes on. Functions are compiled when they are
  first needed, so that what the next few full collections leave is kept too;
  not always, since a few objects of answers in progress are among it.
  """
  left = _KEPT_COLLECTIONS

  def after(phase: str, info: dict[str, int]) -> None:
    nonlocal left
    if phase == 'stop' and info['generation'] == 2:
      gc.freeze()
      left -= 1
      if not left:
        gc.callbacks.remove(after)

  sys.setswitchinterval(_SWITCH_SECONDS)
  gc.set_threshold(*gc.get_threshold()[:2], _MIDDLE_COLLECTIONS)
  gc.callbacks.append(after)
  gc.collect()
