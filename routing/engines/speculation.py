"""One request under way, taken piece by piece.

A model that runs on past the end of a step, while the policy decides, spares
the request for the next one, whose prompt would be what it has just read and
written. What it has written when the answer is to leave is wasted.
"""

from collections.abc import AsyncIterator
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Any

from absl import logging
import numpy as np

from routing import types
from routing.engines import engine as engine_lib
from routing.engines import prompts
from routing.engines import segmentation
from routing.engines import shared_time

# How far back a tokenizer looks, in characters; its words are shorter.
_NUM_BEFORE = 32


class Run:
  """What vLLM writes for one request, and how much of it was taken.

  What is taken first carries what was read. What is taken later has read
  nothing anew and nothing from a cache, since nothing was asked again: that is
  what a run saves; it holds what came before. Each carries its own tokens and
  its share of the seconds.

  Args:
    outputs: vLLM's, each with all tokens so far; the next one is asked for only
      while somebody waits to take.
    abort: has vLLM end the request, so that `outputs` come to their end.
    prompter: of the model.
    request: what was asked for, but for where it ends.
    prompt: the ids that it reads.
    route: who writes.
    time: of the back end.
  """

  def __init__(
      self,
      outputs: AsyncIterator[Any],
      abort: Callable[[], Awaitable[None]],
      prompter: prompts.Prompter,
      request: engine_lib.Request,
      prompt: Sequence[int],
      route: int,
      time: shared_time.SharedTime,
  ):
    self._outputs, self._abort, self._prompter = outputs, abort, prompter
    self._decode_tokens = prompter.incremental_decoder(prompt)
    self._num_read, self._route = len(prompt), route
    self._time, self._start = time, time.enter()
    self._last: Any = None  # Of `outputs`.
    self._num_come = 0  # Tokens of it.
    self._num_taken = 0
    self._max_tokens = request.max_tokens
    self._trace = request.trace  # Up to and with what was taken,
    text = prompter.text(request.question, request.trace)
    self._before = text[-_NUM_BEFORE:]
    self._newest, self._newest_ids = '', []  # and the end of it.

  @property
  def is_over(self) -> bool:
    """Nothing follows what was taken."""
    return self._has_ended and not self._num_left

  def may_speculate(self, request: engine_lib.Request) -> bool:
    """Whether `request` would bring what follows here.

    It would if it were greedy and read what was read and taken here, token by
    token. It would not where a token spelled the end of a step and more, or
    where the model wrote in other tokens than its tokenizer reads.
    """
    return (
        request.temperature == 0
        and request.trace == self._trace
        and request.max_tokens <= self._max_tokens - self._num_taken
        and self._prompter.reads(self._newest_ids, self._before, self._newest)
    )

  async def take(
      self, stop: str | None, room: int
  ) -> tuple[segmentation.Written, types.Usage]:
    """The next tokens: up to and with `stop`, or to the end, at most `room`.

    Raises:
      RuntimeError: if vLLM gave the request up.
      Exception: whatever `outputs` raises. The run is over then.
    """
    try:
      pieces, has_stopped = await self._decode_until(stop, room)
    except BaseException:
      self._time.leave(self._start)
      raise
    output = self._last.outputs[0]
    start, end = self._num_taken, self._num_taken + len(pieces)
    ids = list(output.token_ids[start:end])
    # A row: the token that was written, then the k most likely ones.
    width = len(output.logprobs.logprobs) // len(output.logprobs)
    table = np.array(
        output.logprobs.logprobs[start * width : end * width], np.float32
    ).reshape(-1, width)
    self._num_taken = end
    self._note(''.join(pieces), ids)
    is_at_end = self.is_over and not has_stopped
    written = segmentation.Written(
        pieces=pieces,
        token_ids=ids,
        log_probs=table[:, 0],
        top_log_probs=table[:, 1:],
        is_final=is_at_end and output.finish_reason == 'stop',
    )
    return written, self._usage(start, end, self.is_over)

  async def end(self) -> types.Usage:
    """Ends the run; returns what it has written and nobody took.

    Something must have been taken before: else it would be the first to read.
    What vLLM writes until it hears of it is not known, and in no usage.
    """
    try:
      await self._abort()
      while not self._has_ended:
        await self._wait()
    except Exception as error:  # Its process died: it has ended, too.
      logging.warning('A run that was cut off had failed: %s', error)
    finally:
      usage = self._usage(self._num_taken, self._num_come, is_last=True)
    return usage

  @property
  def _num_left(self) -> int:
    """Tokens that have come and were not taken."""
    return self._num_come - self._num_taken

  @property
  def _has_ended(self) -> bool:
    return self._last is not None and self._last.finished

  def _note(self, text: str, ids: list[int]) -> None:
    """Notes what was taken."""
    self._trace += text
    self._before = (self._before + self._newest)[-_NUM_BEFORE:]
    self._newest, self._newest_ids = text, ids

  async def _wait(self) -> None:
    """Waits for more tokens, or for the end."""
    self._last = await anext(self._outputs)
    # vLLM's list may grow before the output that tells of it is here.
    self._num_come = len(self._last.outputs[0].token_ids)

  async def _decode_until(
      self, stop: str | None, room: int
  ) -> tuple[list[str], bool]:
    """What each of the next tokens spells, and whether `stop` came."""
    pieces, text = [], ''
    while len(pieces) < room:
      if len(pieces) == self._num_left:
        if self._has_ended:
          break
        await self._wait()
        continue
      index = self._num_taken + len(pieces)
      piece = self._decode_tokens(self._last.outputs[0].token_ids[index])
      pieces.append(piece)
      text += piece
      if stop is None or not piece:
        continue
      # Only what is new can have completed it.
      at = text.find(stop, max(len(text) - len(piece) - len(stop) + 1, 0))
      if at >= 0:
        # The last token may spell more than the string that it completes.
        pieces[-1] = piece[: len(piece) - (len(text) - at - len(stop))]
        return pieces, True
    reason = self._last.outputs[0].finish_reason
    if reason not in (None, 'stop', 'length'):
      raise RuntimeError(f'vLLM gave up a request: {reason!r}.')
    return pieces, False

  def _usage(self, start: int, end: int, is_last: bool) -> types.Usage:
    """What the tokens from `start` up to `end` consumed."""
    tell = self._time.leave if is_last else self._time.since
    seconds = tell(self._start)
    self._start += seconds
    usage = types.Usage(self._route, 0, 0, end - start, seconds)
    if start:
      return dataclasses.replace(usage, in_context=self._num_read + start)
    cached = self._last.num_cached_tokens or 0
    return dataclasses.replace(
        usage, read=self._num_read - cached, cached=cached
    )
