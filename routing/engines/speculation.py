"""One vLLM request under way, whose tokens are taken step by step.

A request may continue speculatively past the end of a step while the policy
decides. If the policy keeps this model, the next step needs no new request: its
prompt would be what the request has just read and written. If the policy hands
over, the speculative tokens are wasted.
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

# Characters of left context that decide how a tokenizer splits new text; its
# words are shorter than this.
_NUM_BEFORE = 32


class Run:
  """A vLLM request, and how many of its tokens were taken.

  The usage of the first tokens taken has the tokens that the request read anew
  or from the cache. Later ones read nothing, because no new request was made:
  that is what a run saves. Their context has all tokens before them. Each usage
  has its own written tokens and its share of the seconds.

  Args:
    outputs: vLLM's outputs, each with all tokens so far. The next output is
      requested only while a caller waits for tokens.
    abort: makes vLLM end the request, so that `outputs` ends.
    prompter: the model's prompter.
    request: the request; each `take` says where to stop, not the request.
    prompt: the prompt's ids.
    route: the model's route.
    time: the clock of the back end.
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
    self._last: Any = None  # The latest of `outputs`.
    self._num_received = 0  # Tokens in it.
    self._num_taken = 0
    self._max_tokens = request.max_tokens
    self._trace = request.trace  # Including the tokens taken.
    # The trace ends in `_newest`, taken last; `_before` is the text before it.
    text = prompter.text(request.question, request.trace)
    self._before = text[-_NUM_BEFORE:]
    self._newest, self._newest_ids = '', []

  @property
  def is_over(self) -> bool:
    """Whether the request has ended and all its tokens were taken."""
    return self._has_ended and not self._num_left

  def can_serve(self, request: engine_lib.Request) -> bool:
    """Checks whether a new request would get the tokens that follow here.

    It would if it is greedy and its prompt has exactly the tokens that were
    read and taken here. It would not if a token spelled the end of a step and
    more, or if the model wrote other tokens than its tokenizer makes of the
    text.
    """
    return (
        request.temperature == 0
        and request.trace == self._trace
        # The run stops at its own limit, which must not be the earlier one.
        and request.max_tokens <= self._max_tokens - self._num_taken
        and self._prompter.reads(self._newest_ids, self._before, self._newest)
    )

  async def take(
      self, stop: str | None, room: int
  ) -> tuple[segmentation.Written, types.Usage]:
    """Takes the next tokens, up to and including the string `stop`.

    Args:
      stop: where to stop; None = the end of the answer.
      room: maximum number of tokens.

    Returns:
      The tokens and their usage.

    Raises:
      RuntimeError: if vLLM ended the request with an error.
      Exception: any error of `outputs`; the run is over then.
    """
    try:
      pieces, has_stopped = await self._decode_until(stop, room)
    # Also on cancellation, which is no Exception: a run that never leaves would
    # take its share of all later seconds.
    except BaseException:
      self._time.leave(self._start)
      raise
    output = self._last.outputs[0]
    start, end = self._num_taken, self._num_taken + len(pieces)
    ids = list(output.token_ids[start:end])
    # vLLM's flat log-probabilities: [n * width], a row of width k + 1 for each
    # token: the token that was written, then the k most likely ones.
    width = len(output.logprobs.logprobs) // len(output.logprobs)
    table = np.array(
        output.logprobs.logprobs[start * width : end * width], np.float32
    ).reshape(-1, width)
    self._num_taken = end
    self._advance(''.join(pieces), ids)
    # A request that does not speculate also ends at `stop`; that is the end of
    # the step, not of the answer.
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
    """Cancels the run; returns the usage of the tokens that were not taken.

    Call it only after `take`, whose first usage has the tokens read. Tokens
    that vLLM writes between its last output and the abort are not reported, so
    they are in no usage.
    """
    try:
      await self._abort()
      # Outputs under way still bring tokens, which are wasted and charged.
      while not self._has_ended:
        await self._wait()
    # If the process died, the request has ended as well, and its tokens are
    # still to be charged.
    except Exception as error:
      logging.warning(
          'A request that was being cancelled had already failed: %s; its '
          'tokens so far are charged.',
          error,
      )
    finally:
      usage = self._usage(self._num_taken, self._num_received, is_last=True)
    return usage

  @property
  def _num_left(self) -> int:
    """Number of tokens received but not taken."""
    return self._num_received - self._num_taken

  @property
  def _has_ended(self) -> bool:
    """Whether the last output was received."""
    return self._last is not None and self._last.finished

  def _advance(self, text: str, ids: list[int]) -> None:
    """Adds taken tokens to the trace."""
    self._trace += text
    self._before = (self._before + self._newest)[-_NUM_BEFORE:]
    self._newest, self._newest_ids = text, ids

  async def _wait(self) -> None:
    """Waits for more tokens, or for the end."""
    self._last = await anext(self._outputs)
    # Counted now, because vLLM may extend this list before it delivers the
    # output that reports the new tokens.
    self._num_received = len(self._last.outputs[0].token_ids)

  async def _decode_until(
      self, stop: str | None, room: int
  ) -> tuple[list[str], bool]:
    """Returns the text of each next token, and whether `stop` was found."""
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
      # Search only where the new piece can have completed `stop`, not the whole
      # text again for each token.
      at = text.find(stop, max(len(text) - len(piece) - len(stop) + 1, 0))
      if at >= 0:
        # Cut what the last token spells after `stop`. The next step does not
        # get it: `can_serve` then finds that text and ids differ.
        pieces[-1] = piece[: len(piece) - (len(text) - at - len(stop))]
        return pieces, True
    reason = self._last.outputs[0].finish_reason
    if reason not in (None, 'stop', 'length'):
      raise RuntimeError(
          f'vLLM ended a request with finish reason {reason!r}; allowed: '
          "'stop', 'length'. See its log."
      )
    return pieces, False

  def _usage(self, start: int, end: int, is_last: bool) -> types.Usage:
    """Returns the usage of the tokens from `start` up to `end`."""
    measure = self._time.leave if is_last else self._time.since
    seconds = measure(self._start)
    self._start += seconds  # The next usage counts from here.
    usage = types.Usage(self._route, 0, 0, end - start, seconds)
    # Later tokens of the same request: the prompt is paid for already.
    if start:
      return dataclasses.replace(usage, in_context=self._num_read + start)
    cached = self._last.num_cached_tokens or 0
    return dataclasses.replace(
        usage, read=self._num_read - cached, cached=cached
    )
