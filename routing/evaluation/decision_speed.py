"""Times the decisions of a router on what it might see of a few problems."""

from __future__ import annotations

from collections.abc import Sequence
import time
from typing import Any

from routing import types
from routing.evaluation import arena as arena_lib
from routing.evaluation import samples
from routing.routers import router as router_lib

_ROUNDS = 3  # The fastest counts.


def some_traces(
    method: router_lib.Method, router: Any, arena: arena_lib.Arena, seed: int
) -> Sequence[types.Trace]:
  """Returns what a router of a method might see on a few test problems.

  Records give the traces of `escalate` without an informant, and the driver all
  others, if models can be asked.
  """
  protocol = method.needs.protocol
  informant = getattr(router, 'informant', None)
  if protocol and protocol.name == 'escalate' and informant is None:
    return arena.traces(protocol)
  if protocol is None or arena.answering is None:
    return []
  return samples.driven_traces(
      arena.answering_of(seed, method),
      arena.alone['test'].first(arena.num_timed).problems,
      protocol,
      informant,
  )


def per_second(
    method: router_lib.Method, router: Any, arena: arena_lib.Arena, seed: int
) -> float:
  """Returns decisions per second, one after the other; NaN without any.

  What an informant takes to ask is not counted: that is time of models.
  """
  traces = some_traces(method, router, arena, seed)
  if not traces:
    return float('nan')
  seconds = []
  # The first round may compile; the fastest is the one that other work on the
  # machine disturbed least.
  for _ in range(_ROUNDS):
    start = time.perf_counter()
    for trace in traces:
      router.decide(trace)
    seconds.append(time.perf_counter() - start)
  return len(traces) / max(min(seconds), 1e-9)
