"""Which event loop the service runs in."""

import asyncio
from collections.abc import Coroutine
from typing import Any


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
