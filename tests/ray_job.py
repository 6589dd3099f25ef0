"""What actors collect in tests: ladders of the scripted pair."""

import asyncio
import os
import types

from routing.shards import writer as writer_lib
from tests import scripted_pair


def make_job(seconds=0.0, is_broken=False, is_deadly=False):
  """The collector of the scripted pair, which takes a while."""
  if is_broken:
    raise ValueError('no weights here')

  if is_deadly:
    os._exit(1)

  async def collect(problems, engines, sink, **loop):
    await asyncio.sleep(seconds)
    await scripted_pair.collect_ladders(problems, engines, sink, **loop)

  return types.SimpleNamespace(
      writer=writer_lib.LadderWriter,
      settings={},
      collect=collect,
      make_engines=scripted_pair.make_engines,
  )
