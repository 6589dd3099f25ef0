"""Takes the tokens of a running vLLM request step by step.

A request may continue speculatively past the end of a step while the policy
decides which model writes next. If the policy keeps the same model, the next
step needs no new request: the running request has already read the prompt of
that step. If the policy hands over, the speculative tokens are wasted.
"""

import asyncio
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

# Number of characters before new text that a tokenizer is given with it. How
# new text is split depends at most on the word before, which is shorter.
_NUM_BEFORE = 32


class Run:
  """A running vLLM request, whose tokens `take` returns in several parts.

  The usage of the first part includes the prompt tokens, read anew or from the
  cache. Later parts read no prompt, because no new request was made; this is
  what a run saves. Instead, all tokens before such a part are in its context.
  Each part is charged with its own written tokens and its share of the seconds.

  Args:
    outputs: vLLM's outputs, each with all tokens so far. The next output is
      requested only while a caller waits for tokens.
    abort: coroutine function that makes vLLM end the request and `outputs`.
    prompter: the model's prompter.
    question: the question of the session.
    request: the request with which the run begins. Where a step stops
      is an argument of `take`.
    prompt: token ids of the prompt.
    route: route index of the model.
    time: the clock of the back end.
  """

  def __init__(
      self,
      outputs: AsyncIterator[Any],
      abort: Callable[[], Awaitable[None]],
      prompter: prompts.Prompter,
      question: str,
      request: engine_lib.Request,
      prompt: Sequence[int],
      route: int,
      time: shared_time.SharedTime,
  ):
    self._outputs, self._abort, self._prompter = outputs, abort, prompter
    self._decode_tokens = prompter.incremental_decoder(prompt)
    self._num_read, self._route = len(prompt), route
    self._time, self._start = time, time.enter()
    self._last: Any = None  # The latest output received.
    self._num_received = 0  # Number of tokens in the latest output.
    self._num_taken = 0
    self._max_tokens = request.max_tokens
    # Extended by the text of every taken token.
    self._trace = request.trace or prompter.opening
    # `_newest` is the text of the last part taken, and `_before` is the end of
    # the text before that part.
    text = prompter.text(question, request.trace)
    self._before = text[-_NUM_BEFORE:]
    self._newest, self._newest_ids = '', []
    self._pieces: list[str] = []  # Of the part that is being taken.

  @property
  def is_over(self) -> bool:
    """True if the request has ended and all its tokens were taken."""
    return self._has_ended and not self._num_left

  def can_serve(self, request: engine_lib.Request) -> bool:
    """Checks whether the run's next tokens are those that `request` would get.

    This is so if the request is greedy and its prompt has exactly the token ids
    that the run has read and taken. The ids differ if the last token taken had
    text beyond the end of its step, or if the model wrote other tokens than its
    tokenizer makes of the same text.
    """
    return (
        request.temperature == 0
        and request.trace == self._trace
        # The run stops at its own token limit, which must not come before the
        # limit of the request.
        and request.max_tokens <= self._max_tokens - self._num_taken
        and self._prompter.reads(self._newest_ids, self._before, self._newest)
    )

  async def take(
      self,
      stop: str | None,
      room: int,
      look: Callable[[str], None] = lambda piece: None,
  ) -> tuple[segmentation.Written, types.Usage]:
    """Takes the next tokens, up to and including the string `stop`.

    Args:
      stop: the string after which to stop; None = the end of the answer.
      room: maximum number of tokens to take.
      look: called with the text of each token, once it has come.

    Returns:
      The tokens and their usage.

    Raises:
      RuntimeError: if vLLM ended the request with an error.
      Exception: any error of `outputs`. After an error the run is unusable.
    """
    try:
      pieces, has_stopped = await self._decode_until(stop, room, look)
    # BaseException includes cancellation. A run that failed without leaving the
    # clock would be charged a share of all later seconds.
    except BaseException as error:
      self._time.leave(self._start)
      # vLLM ends a request of which nobody reads the outputs, but only if the
      # cancellation interrupted the reading. The shield lets the abort finish
      # if the caller is cancelled again.
      if isinstance(error, asyncio.CancelledError):
        await asyncio.shield(self._abort())
      raise
    written = self._written(pieces)
    start, end = self._num_taken, self._num_taken + len(pieces)
    self._num_taken = end
    self._advance(''.join(pieces), list(written.token_ids))
    # A request that does not speculate ends at `stop` as well. Such an end is
    # the end of the step, not of the answer.
    is_at_end = self.is_over and not has_stopped
    reason = self._last.outputs[0].finish_reason
    written = dataclasses.replace(
        written, is_final=is_at_end and reason == 'stop'
    )
    return written, self._usage(start, end, self.is_over)

  def so_far(self) -> tuple[segmentation.Written, types.Usage] | None:
    """Returns the part that is being taken, as `take` would return it now.

    The result is None before vLLM's first output: the prompt may not be read.
    """
    if self._last is None:
      return None
    start, end = self._num_taken, self._num_taken + len(self._pieces)
    seconds = self._time.since(self._start)
    return self._written(self._pieces), self._counts(start, end, seconds)

  def _written(self, pieces: list[str]) -> segmentation.Written:
    """Returns the next tokens, whose texts are these pieces."""
    output = self._last.outputs[0]
    start, end = self._num_taken, self._num_taken + len(pieces)
    # vLLM's flat log-probabilities have shape [n * width] with width = k + 1.
    # For each token they list the written token, then the k most likely tokens.
    width = len(output.logprobs.logprobs) // max(len(output.logprobs), 1)
    table = np.array(
        output.logprobs.logprobs[start * width : end * width], np.float32
    ).reshape(-1, max(width, 1))
    return segmentation.Written(
        pieces=list(pieces),
        token_ids=list(output.token_ids[start:end]),
        log_probs=table[:, 0],
        top_log_probs=table[:, 1:],
        is_final=False,
    )

  async def end(self) -> types.Usage:
    """Cancels the run; returns the usage of the tokens that were not taken.

    It may be called only after `take`, because the first part taken is charged
    with the prompt. vLLM does not report tokens that it writes between its last
    output and the abort, so these tokens are not charged.
    """
    try:
      await self._abort()
      # The remaining outputs may contain further tokens. They are wasted, and
      # charged as such.
      while not self._has_ended:
        await self._wait()
    # If the process has died, the request has ended as well, but its tokens
    # must still be charged.
    except Exception as error:
      logging.warning(
          'A request that was being cancelled had already failed: %s. The '
          'tokens that it wrote before are charged.',
          error,
      )
    finally:
      usage = self._usage(self._num_taken, self._num_received, is_last=True)
    return usage

  @property
  def _num_left(self) -> int:
    """The number of tokens that were received but not yet taken."""
    return self._num_received - self._num_taken

  @property
  def _has_ended(self) -> bool:
    """True if vLLM has sent the last output of the request."""
    return self._last is not None and self._last.finished

  def _advance(self, text: str, ids: list[int]) -> None:
    """Records a taken part, which extends the trace.

    Args:
      text: the text of the part.
      ids: the token ids of the part.
    """
    self._trace += text
    self._before = (self._before + self._newest)[-_NUM_BEFORE:]
    self._newest, self._newest_ids = text, ids

  async def _wait(self) -> None:
    """Waits for vLLM's next output, with more tokens or the request's end."""
    self._last = await anext(self._outputs)
    # The tokens are counted at once, because vLLM may append to this list
    # before it delivers the output that reports the appended tokens.
    self._num_received = len(self._last.outputs[0].token_ids)

  async def _decode_until(
      self, stop: str | None, room: int, look: Callable[[str], None]
  ) -> tuple[list[str], bool]:
    """Decodes the next tokens, up to and including the string `stop`.

    Args:
      stop: the string after which to stop; None = the end of the answer.
      room: maximum number of tokens.
      look: see `take`.

    Returns:
      The text that each token adds, and whether `stop` was found.
    """
    pieces, text = [], ''
    self._pieces = pieces
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
      look(piece)
      if stop is None or not piece:
        continue
      # Only an occurrence of `stop` that ends within the new piece can be new,
      # so the search begins len(stop) - 1 characters before the piece.
      at = text.find(stop, max(len(text) - len(piece) - len(stop) + 1, 0))
      if at >= 0:
        # The text of the last token after `stop` is cut off and lost. The run
        # cannot serve the next step then: `can_serve` finds that the token's
        # text and id differ.
        pieces[-1] = piece[: len(piece) - (len(text) - at - len(stop))]
        return pieces, True
    reason = self._last.outputs[0].finish_reason
    if reason not in (None, 'stop', 'length'):
      raise RuntimeError(
          f'vLLM ended a request with finish reason {reason!r}; allowed: '
          "'stop', 'length'. See the log of the vLLM process."
      )
    return pieces, False

  def _usage(self, start: int, end: int, is_last: bool) -> types.Usage:
    """Returns the usage of the tokens with indices from `start` up to `end`.

    Args:
      start, end: bounds of the part among the tokens that the run wrote.
      is_last: no further part follows, so the run leaves the clock.
    """
    measure = self._time.leave if is_last else self._time.since
    seconds = measure(self._start)
    self._start += seconds  # Charged seconds must not be charged again.
    return self._counts(start, end, seconds)

  def _counts(self, start: int, end: int, seconds: float) -> types.Usage:
    """Returns the usage of a part of the tokens that took some seconds."""
    usage = types.Usage(self._route, 0, 0, end - start, seconds)
    # A part that is not the first has the prompt, already paid for, in context.
    if start:
      return dataclasses.replace(usage, in_context=self._num_read + start)
    cached = self._last.num_cached_tokens or 0
    return dataclasses.replace(
        usage, read=self._num_read - cached, cached=cached
    )
