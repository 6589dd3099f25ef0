"""Next-token distributions of an embedded model, for systems of tokens.

A token session is one running text of one model. It reads tokens that others
wrote, gives the distribution of what follows, and writes tokens of its own. It
may go back: the text up to the first token that differs stays in its cache.

Concurrent calls are batched as those of the embedded engine are. Draws are made
outside the model, so that a system can compare the distributions of two models.
"""

import asyncio
from collections.abc import Sequence
import concurrent.futures
import dataclasses
import time

import numpy as np

from routing import types
from routing.engines import engine as engine_lib
from routing.engines import jitted_batches
from routing.engines import slots as slots_lib
from routing.lm import decoder
from routing.lm import draws
from routing.lm import generation
from routing.lm import tokenizer as tokenizer_lib

# New tokens per row, rounded up to one of these: a token at a time, the drafts
# that are verified at once, or a question.
_BUCKETS = (1, 8, 64, 192)


@dataclasses.dataclass(frozen=True)
class Written:
  """Tokens that a session wrote, or the distributions after given tokens.

  ids: the n tokens that the model wrote; empty if it only read.
  log_probs: `[n, V]` float64, log-probability of every token of the vocabulary
    at each place, at temperature 1.
  usage: what the call read and wrote. Tokens that the session has read or
    written before are `in_context`, as in a request that is still running.
  """

  ids: tuple[int, ...]
  log_probs: np.ndarray
  usage: types.Usage


@dataclasses.dataclass
class _Job:
  """One call in progress: a text, and how many distributions are wanted."""

  session: 'TokenSession'
  tokens: list[int]
  num_last: int
  future: asyncio.Future


class TokenModel:
  """A model whose next-token distributions are computed in batches.

  Args:
    name: the model's name.
    route: its route index.
    config, params: the decoder, see `routing.lm.export.load_pretrained`.
    tokenizer: the tokenizer of the embedded models.
    max_batch: maximum number of texts in one forward pass.
    num_slots: number of texts whose keys are kept, at least `max_batch`. If
      there are more sessions, texts are computed again; this is not charged.
    max_length: maximum number of tokens of a text.
  """

  def __init__(
      self,
      name: str,
      route: int,
      config: decoder.DecoderConfig,
      params,
      tokenizer: tokenizer_lib.Tokenizer,
      *,
      max_batch: int,
      num_slots: int,
      max_length: int,
  ):
    self.name, self.route = name, route
    self.tokenizer = tokenizer
    self.max_length = max_length
    self._config, self._params = config, params
    self._max_batch = max_batch
    self._slots = slots_lib.Slots(num_slots)
    # The row after the last slot is that of padding, see `EmbeddedEngine`.
    self._cache = decoder.init_cache(config, num_slots + 1, max_length)
    self._queue: list[_Job] = []
    self._worker: asyncio.Task | None = None
    self._executor = concurrent.futures.ThreadPoolExecutor(
        1, thread_name_prefix=f'tokens-{name}'
    )

  def open(self, question: str) -> 'TokenSession':
    """Opens a session about a question; it costs nothing until it is used."""
    return TokenSession(self, question)

  async def close(self) -> None:
    """Waits for calls in progress and ends the thread."""
    if self._worker is not None:
      await self._worker
    self._executor.shutdown()

  def release(self, session: 'TokenSession') -> None:
    """Frees the slot of a session that makes no further call."""
    self._slots.release(session)

  async def next_log_probs(
      self, session: 'TokenSession', tokens: Sequence[int], num_last: int
  ) -> tuple[np.ndarray, float]:
    """Returns what follows each of the last tokens of a text.

    Args:
      session: whose text it is.
      tokens: the whole text, the question included.
      num_last: n, for how many of the last tokens; 1 to all of them.

    Returns:
      `[n, V]` float64 log-probabilities at temperature 1, the padding token
      left out; and the call's share of the seconds of its batch.

    Raises:
      engine_lib.Refused: if the text is longer than `max_length`.
      ValueError: if `num_last` is out of range.
    """
    if len(tokens) > self.max_length:
      raise engine_lib.Refused(
          f'The text has {len(tokens)} tokens; max_length of {self.name} is '
          f'{self.max_length}.'
      )
    if not 1 <= num_last <= len(tokens):
      raise ValueError(
          f'num_last is {num_last}; allowed: 1 to {len(tokens)}, the length '
          'of the text.'
      )
    loop = asyncio.get_running_loop()
    job = _Job(session, list(tokens), num_last, loop.create_future())
    self._queue.append(job)
    if self._worker is None or self._worker.done():
      self._worker = loop.create_task(self._work())
    return await job.future

  async def _work(self) -> None:
    """Computes batches until the queue is empty."""
    loop = asyncio.get_running_loop()
    while True:
      await asyncio.sleep(0)  # Coroutines that are ready add their calls.
      jobs = self._take()
      if not jobs:
        return
      rows = [self._slots.lend(job.session, job.tokens)[0] for job in jobs]
      try:
        found = await loop.run_in_executor(
            self._executor, self._compute, jobs, rows
        )
      except Exception as error:
        for job, row in zip(jobs, rows, strict=True):
          self._slots.clear(row)
          if not job.future.cancelled():
            job.future.set_exception(error)
        continue
      for job, row, result in zip(jobs, rows, found, strict=True):
        self._slots.update(row, job.tokens)
        # Here the newest token has passed through the model as well.
        self._slots[row].num_keys = len(job.tokens)
        self._slots.give_back(row)
        if not job.future.cancelled():
          job.future.set_result(result)

  def _take(self) -> list[_Job]:
    """Removes the calls of the next batch from the queue and returns them."""
    waiting = [job for job in self._queue if not job.future.cancelled()]
    widths = [self._width(job) for job in waiting]
    jobs, self._queue = [], []
    for job, width in zip(waiting, widths, strict=True):
      # The oldest call decides how long the rows of the batch are: one question
      # among single tokens would make all rows as long as itself.
      if width == widths[0] and len(jobs) < self._max_batch:
        jobs.append(job)
      else:
        self._queue.append(job)
    return jobs

  def _width(self, job: _Job) -> int:
    """Returns the number of new tokens of a call, rounded up to a bucket."""
    known = min(job.session.num_known(job.tokens), len(job.tokens) - 1)
    new = max(len(job.tokens) - known, job.num_last)
    return jitted_batches.bucket(_BUCKETS, new)

  def _compute(
      self, jobs: Sequence[_Job], rows: Sequence[int]
  ) -> list[tuple[np.ndarray, float]]:
    """Passes the new tokens of a batch through the model, on its thread."""
    begun = time.perf_counter()
    size = jitted_batches.bucket(jitted_batches.BATCH_BUCKETS, len(jobs))
    starts = [
        min(self._slots[row].num_keys, len(job.tokens) - job.num_last)
        for job, row in zip(jobs, rows, strict=True)
    ]
    counts = [
        len(job.tokens) - start for job, start in zip(jobs, starts, strict=True)
    ]
    tokens = np.zeros(
        (size, jitted_batches.bucket(_BUCKETS, max(counts))), np.int32
    )
    for row, job, start in zip(tokens, jobs, starts, strict=False):
      row[: len(job.tokens) - start] = job.tokens[start:]
    log_probs, self._cache = jitted_batches.read(
        self._params,
        self._config,
        self._cache,
        jitted_batches.pad(rows, size, len(self._slots)),
        tokens,
        jitted_batches.pad(starts, size, 0),
        jitted_batches.pad(counts, size, 0),
        self.tokenizer.pad_id,
        self.max_length,
    )
    log_probs = np.asarray(log_probs, np.float64)
    seconds = (time.perf_counter() - begun) / len(jobs)
    return [
        (log_probs[i, count - job.num_last : count], seconds)
        for i, (job, count) in enumerate(zip(jobs, counts, strict=True))
    ]


class TokenSession:
  """One running text of one model; makes one call at a time.

  Attributes:
    question: token ids of the question.
    route: the route index of the model.
    eos_id: the token that ends an answer.
  """

  def __init__(self, model: TokenModel, question: str):
    self._model = model
    self.route = model.route
    self.eos_id = model.tokenizer.eos_id
    try:
      self.question = tuple(model.tokenizer.encode(question))
    except ValueError as error:
      raise engine_lib.Refused(str(error)) from error
    # All that the model has read or written, to the newest token.
    self._known: list[int] = []

  def num_known(self, tokens: Sequence[int]) -> int:
    """Returns how many of the first tokens of a text are in the context."""
    return slots_lib.common_prefix(self._known, tokens)

  async def read(self, answer: Sequence[int], num_last: int = 1) -> Written:
    """Reads an answer so far; returns what follows its last tokens.

    Args:
      answer: token ids, the question not included.
      num_last: for how many of the last tokens of question and answer.
    """
    tokens = [*self.question, *answer]
    in_context = self.num_known(tokens)
    log_probs, seconds = await self._model.next_log_probs(
        self, tokens, num_last
    )
    self._known = tokens
    usage = types.Usage(
        route=self.route,
        read=len(tokens) - in_context,
        cached=0,
        written=0,
        seconds=seconds,
        in_context=in_context,
    )
    return Written((), log_probs, usage)

  def append(self, token: int) -> None:
    """Records that the model wrote a token, so that it need not read it."""
    self._known.append(token)

  async def write(
      self,
      answer: Sequence[int],
      max_tokens: int,
      *,
      temperature: float,
      rng: np.random.Generator,
  ) -> Written:
    """Continues an answer until it ends, or by `max_tokens` tokens.

    Args:
      answer: token ids of the answer so far, the question not included.
      max_tokens: the largest number of new tokens.
      temperature: 0 = greedy.
      rng: the source of randomness; one draw for each token.
    """
    ids, rows, calls = [], [], []
    while len(ids) < max_tokens and self.eos_id not in ids[-1:]:
      found = await self.read([*answer, *ids])
      rows.append(found.log_probs[0])
      calls.append(found.usage)
      ids.append(draws.draw(rows[-1], temperature, rng))
      self.append(ids[-1])
    usage = types.Usage(
        route=self.route,
        # Only the first token's call reads something new.
        read=sum(call.read for call in calls),
        cached=0,
        written=len(ids),
        seconds=sum(call.seconds for call in calls),
        in_context=calls[0].in_context if calls else 0,
    )
    return Written(tuple(ids), np.array(rows), usage)

  async def __aenter__(self) -> 'TokenSession':
    return self

  async def __aexit__(self, *error) -> None:
    self._model.release(self)


def to_steps(
    ids: Sequence[int],
    log_probs: np.ndarray,
    route: int,
    tokenizer: tokenizer_lib.Tokenizer,
) -> tuple[types.Step, ...]:
  """Cuts the tokens of an answer into steps.

  The usage of a step counts its own tokens as written by `route`; what was paid
  for them is in the calls of the trajectory.

  Args:
    ids: the n tokens of the answer.
    log_probs: `[n, V]` float64, log-probabilities of all tokens at each place.
    route: the route that the steps are ascribed to.
    tokenizer: the tokenizer of the embedded models.
  """
  bounds = [0, *generation.step_ends(ids, tokenizer.delimiter_id), len(ids)]
  steps = []
  for start, stop in zip(bounds, bounds[1:], strict=False):
    own = tuple(ids[start:stop])
    if not own:
      continue
    is_final = own[-1] == tokenizer.eos_id
    rows = log_probs[start:stop]
    steps.append(
        types.Step(
            text=tokenizer.decode(own[:-1] if is_final else own),
            token_ids=own,
            log_probs=rows[np.arange(len(own)), list(own)].astype(np.float32),
            top_log_probs=-np.sort(-rows)[:, : jitted_batches.TOP_K].astype(
                np.float32
            ),
            is_final=is_final,
            usage=types.Usage(route, 0, 0, len(own), in_context=start),
        )
    )
  return tuple(steps)
