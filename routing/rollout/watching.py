"""What one who watches an answer being written is told by the driver."""

from collections.abc import Sequence

from routing import types


class Watcher:
  """Is told of decisions, calls and steps while an answer is written.

  Every method does nothing here; a watcher overrides those that it needs. They
  are called in the event loop, so they must be quick. An error that one raises
  ends the answer.
  """

  def asked(self, kind: str, route: int) -> None:
    """A call of this kind, one of `types.CALL_KINDS`, is about to be made."""

  def told(self, place: int, step: types.Step) -> None:
    """The call in progress has written a step; see `engine.Request.on_step`.

    It is not known yet whether the step becomes part of the answer.
    """

  def called(self, call: types.Call) -> None:
    """A call has ended, or text written ahead was discarded."""

  def decided(self, trace: types.Trace, decision: types.Decision) -> None:
    """The router has seen `trace` and decided."""

  def accepted(self, steps: Sequence[types.Step]) -> None:
    """These steps, one or more, are now part of the answer."""


NOBODY = Watcher()
