"""What every router is: one function from a trace to a decision."""

from typing import Protocol

from routing import types


class Router(Protocol):
  """Anything that decides at step boundaries.

  A router sees the trace and nothing else, and must not remember earlier calls:
  the driver runs many traces at once, in any order.
  """

  def decide(self, trace: types.Trace) -> types.Decision:
    """The route that writes the next step, and the score behind it."""
    ...
