"""Writes the steps of one request, and tells who listens while they come.

Back ends that write tokens share this: what was written so far is cut into
steps by the rules by which the whole text is cut in the end. So what was told
is what is returned.
"""

import asyncio
from collections.abc import Callable
from collections.abc import Sequence
import dataclasses

import numpy as np

from routing import types
from routing.engines import engine as engine_lib
from routing.engines import openai_responses
from routing.engines import segmentation

# Returns the tokens that the call in progress has written, and its usage; None
# if it may not have begun.
SoFar = Callable[[], tuple[segmentation.Written, types.Usage] | None]

# What a call has written before its first token.
NOTHING = segmentation.Written(
    [], [], np.zeros(0, np.float32), np.zeros((0, 0), np.float32), False
)


class Teller:
  """Writes the steps of one request.

  Args:
    request: the request; its `on_step` is told.
    num_equal: see `repetition.truncate_repetition`.
    opening: see `segmentation.write_steps`.
    knows_prompt: whether the usage of a call in progress says how many tokens
      of its prompt were cached. Otherwise no step that is told has any of the
      prompt, until the request is given up.
  """

  def __init__(
      self,
      request: engine_lib.Request,
      num_equal: int,
      opening: str = '',
      *,
      knows_prompt: bool = True,
  ):
    self._request, self._num_equal = request, num_equal
    self._opening, self._knows_prompt = opening, knows_prompt
    # Of the calls that have ended.
    self._parts: list[segmentation.Written] = []
    self._usages: list[types.Usage] = []
    self._so_far: SoFar | None = None  # Of the call in progress.
    self._told: list[types.Step] = []
    self._is_over = not self.is_heard

  @property
  def is_heard(self) -> bool:
    """Whether anybody listens."""
    return self._request.on_step is not None

  @property
  def is_shown(self) -> bool:
    """Whether steps are told as they come: they may be part of the answer.

    Where a pattern or a length ends steps, more text may move an end.
    """
    request = self._request
    return self.is_heard and request.to_end and request.delimiter.is_text

  async def write(
      self, call: segmentation.Call, *, to_end: bool
  ) -> tuple[types.Step, ...]:
    """Returns the steps, charged with all that was written.

    Args:
      call: see `segmentation.write_steps`; it reports to `begin` and `look`.
      to_end: whether it is asked for all steps; the first is kept if the
        request is for one.
    """

    async def counted(text: str, stop: str | None, max_tokens: int):
      part, usage = await call(text, stop, max_tokens)
      self._so_far = None
      self._parts.append(part)
      self._usages.append(usage)
      return part, usage

    request = self._request
    try:
      steps = await segmentation.write_steps(
          counted,
          to_end=to_end,
          max_tokens=request.max_tokens,
          opening=self._opening,
          delimiter=request.delimiter,
      )
    except asyncio.CancelledError:
      self._give_up()
      raise
    return openai_responses.kept_steps(
        steps,
        request,
        sum(usage.written for usage in self._usages),
        self._num_equal,
    )

  def begin(self, so_far: SoFar) -> None:
    """Notes that a call begins, and how to learn what it has written."""
    self._so_far = so_far

  def look(self, piece: str) -> None:
    """Tells the steps that the newest text has completed.

    Args:
      piece: the newest text. Only where it has the last character of a
        delimiter, a step can have ended.
    """
    end = self._request.delimiter.text[-1]
    if self._is_over or not self.is_shown or end not in piece:
      return
    steps = [x for x in self._steps() if x.is_complete]
    if not steps:
      return
    kept = openai_responses.kept_steps(
        steps,
        self._request,
        sum(step.usage.written for step in steps),
        self._num_equal,
    )
    for step in kept[len(self._told) :]:
      self._tell(step)
    # The answer has ended in a repetition. What follows is dropped.
    self._is_over = kept[-1].is_final

  def _steps(self) -> tuple[types.Step, ...]:
    """Returns the steps so far; the last may be incomplete."""
    written, usage = self._now()
    if not written.pieces:
      return ()
    if not self._knows_prompt:
      usage = dataclasses.replace(usage, read=0, cached=0)
    return segmentation.to_steps(
        written, usage, self._request.delimiter, self._opening
    )

  def _now(self) -> tuple[segmentation.Written, types.Usage]:
    """Returns all tokens so far, and the usage of all calls so far."""
    found = self._so_far() if self._so_far else None
    parts, usages = list(self._parts), list(self._usages)
    if found is not None:
      parts += [found[0]] if found[0].pieces else []
      usages.append(found[1])
    usage = segmentation.total(usages) if usages else types.Usage(0, 0, 0, 0)
    if not parts:
      return NOTHING, usage
    if self._opening and parts[0].pieces:
      first, *others = parts[0].pieces
      pieces = [self._opening + first, *others]
      parts[0] = dataclasses.replace(parts[0], pieces=pieces)
    return segmentation.joined(parts), usage

  def _tell(self, step: types.Step) -> None:
    self._request.on_step(len(self._told), step)
    self._told.append(step)

  def _give_up(self) -> None:
    """Tells what was paid and is not told: text, and perhaps the prompt."""
    if not self.is_heard:
      return
    written, usage = self._now()
    rest = self._rest(written, usage)
    if rest.usage.read + rest.usage.cached + rest.usage.written > 0:
      self._tell(rest)

  def _rest(
      self, written: segmentation.Written, usage: types.Usage
  ) -> types.Step:
    """Returns all that was not told as one step, which may have no token."""

    def left(name):
      told = sum(getattr(step.usage, name) for step in self._told)
      return max(getattr(usage, name) - told, 0)

    start = sum(step.num_tokens for step in self._told)
    told = ''.join(step.text for step in self._told)
    counts = {name: left(name) for name in ('read', 'cached', 'written')}
    prompt = usage.read + usage.cached + usage.in_context
    return types.Step(
        text=''.join(written.pieces)[len(told) :],
        token_ids=tuple(written.token_ids[start:]),
        log_probs=written.log_probs[start:],
        top_log_probs=written.top_log_probs[start:],
        is_final=False,
        is_complete=False,
        usage=dataclasses.replace(
            usage,
            **counts,
            seconds=left('seconds'),
            in_context=prompt + start if start else usage.in_context,
        ),
    )


def charged_alone(
    tell: Callable[[int, types.Step], None],
    charge: Callable[[Sequence[types.Step]], Sequence[types.Step]],
) -> Callable[[int, types.Step], None]:
  """Returns an `on_step` that charges steps anew before it tells them.

  Args:
    tell: the `on_step` of the request.
    charge: from the steps of the call so far to the same with other usages.
  """
  steps: list[types.Step] = []

  def on_step(place: int, step: types.Step) -> None:
    steps[place:] = [step]
    tell(place, charge(steps)[place])

  return on_step
