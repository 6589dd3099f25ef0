"""Reads and writes single tokens with an embedded model, in batches.

Systems that decide about tokens need the distribution of every next token;
steps carry only the largest log-probabilities. See `token_session`.
"""

import asyncio
from collections.abc import Sequence
import concurrent.futures
import dataclasses
import time

import jax
import numpy as np

from routing.engines import engine as engine_lib
from routing.engines import jitted_batches
from routing.engines import slots as slots_lib
from routing.engines import token_session
from routing.lm import decoder
from routing.lm import tokenizer as tokenizer_lib

# Numbers of tokens per row are rounded up to one of these. To read: one token,
# the drafts that are verified at once, or a question. To write: some drafts, or
# as many as a segment of the engine has.
_READ_BUCKETS = (1, 8, 64, 192)
_WRITE_BUCKETS = (8, jitted_batches.SEGMENT_TOKENS)


@dataclasses.dataclass
class _Job:
  """One call in progress.

  tokens: the whole text, the question included.
  num_last: for how many of its last tokens distributions are wanted; 0 = none,
    the call writes.
  limit: number of tokens to write at most.
  """

  session: token_session.TokenSession
  tokens: list[int]
  future: asyncio.Future
  num_last: int = 0
  limit: int = 0
  temperature: float = 0.0
  seed: int = 0


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

  def open(self, question: str) -> token_session.TokenSession:
    """Opens a session about a question; it costs nothing until it is used."""
    return token_session.TokenSession(self, question)

  async def close(self) -> None:
    """Waits for calls in progress and ends the thread."""
    if self._worker is not None:
      await self._worker
    self._executor.shutdown()

  def release(self, session: token_session.TokenSession) -> None:
    """Frees the slot of a session that makes no further call."""
    self._slots.release(session)

  async def next_log_probs(
      self,
      session: token_session.TokenSession,
      tokens: Sequence[int],
      num_last: int,
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
    if not 1 <= num_last <= len(tokens):
      raise ValueError(
          f'num_last is {num_last}; allowed: 1 to {len(tokens)}, the length '
          'of the text.'
      )
    _, log_probs, seconds = await self._call(session, tokens, num_last=num_last)
    return log_probs, seconds

  async def write(
      self,
      session: token_session.TokenSession,
      tokens: Sequence[int],
      limit: int,
      temperature: float,
      seed: int,
  ) -> tuple[list[int], np.ndarray, float]:
    """Continues a text until the answer ends, by one segment at most.

    Args:
      session: whose text it is.
      tokens: the whole text, the question included; at least 2.
      limit: the largest number of new tokens, at least 1.
      temperature: 0 = greedy.
      seed: of the draws, in [0, 2^32).

    Returns:
      The ids of the n new tokens, `[n, V]` float64 log-probabilities at
      temperature 1, and the call's share of the seconds of its batch.

    Raises:
      engine_lib.Refused: if the text leaves no room for a token.
    """
    room = engine_lib.room(self.name, len(tokens), limit, self.max_length)
    return await self._call(
        session,
        tokens,
        limit=min(room, _WRITE_BUCKETS[-1]),
        temperature=temperature,
        seed=seed,
    )

  async def _call(self, session, tokens, **fields):
    """Enqueues a call and waits for its result."""
    if len(tokens) > self.max_length:
      raise engine_lib.Refused(
          f'The text has {len(tokens)} tokens; max_length of {self.name} is '
          f'{self.max_length}.'
      )
    loop = asyncio.get_running_loop()
    job = _Job(session, list(tokens), loop.create_future(), **fields)
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
      compute = self._read if jobs[0].num_last else self._write
      try:
        found = await loop.run_in_executor(self._executor, compute, jobs, rows)
      except Exception as error:
        for job, row in zip(jobs, rows, strict=True):
          self._slots.clear(row)
          if not job.future.cancelled():
            job.future.set_exception(error)
        continue
      for job, row, result in zip(jobs, rows, found, strict=True):
        # A written token has not passed through the model when the call ends;
        # the last one of a text that was read has.
        self._slots.update(row, [*job.tokens, *result[0]])
        if job.num_last:
          self._slots[row].num_keys = len(job.tokens)
        self._slots.give_back(row)
        if not job.future.cancelled():
          job.future.set_result(result)

  def _take(self) -> list[_Job]:
    """Removes the calls of the next batch from the queue and returns them."""
    waiting = [job for job in self._queue if not job.future.cancelled()]
    shapes = [self._shape(job) for job in waiting]
    jobs, self._queue = [], []
    for job, shape in zip(waiting, shapes, strict=True):
      # The oldest call decides how long the rows of the batch are: one question
      # among single tokens would make all rows as long as itself.
      if shape == shapes[0] and len(jobs) < self._max_batch:
        jobs.append(job)
      else:
        self._queue.append(job)
    return jobs

  def _shape(self, job: _Job) -> tuple[int, int]:
    """Returns the numbers of tokens to read and to write, rounded up."""
    # Not what the session knows: a memory may have told it, not this model.
    known = self._slots.num_kept(job.session, job.tokens)
    new = len(job.tokens) - known
    if job.num_last:
      read = jitted_batches.bucket(_READ_BUCKETS, max(new, job.num_last))
      return read, 0
    write = jitted_batches.bucket(_WRITE_BUCKETS, job.limit)
    # One token more or less that is new needs no call of its own.
    return (jitted_batches.bucket(_READ_BUCKETS, new) if new > 1 else 0), write

  def _read(self, jobs, rows) -> list[tuple]:
    """Passes the new tokens of a batch through the model, on its thread."""
    begun = time.perf_counter()
    starts = [
        min(self._slots[row].num_keys, len(job.tokens) - job.num_last)
        for job, row in zip(jobs, rows, strict=True)
    ]
    log_probs = self._pass([job.tokens for job in jobs], starts, rows)
    log_probs = np.asarray(log_probs, np.float64)
    seconds = (time.perf_counter() - begun) / len(jobs)
    ends = [
        len(x.tokens) - start for x, start in zip(jobs, starts, strict=True)
    ]
    return [
        ((), log_probs[i, end - job.num_last : end], seconds)
        for i, (job, end) in enumerate(zip(jobs, ends, strict=True))
    ]

  def _write(self, jobs, rows) -> list[tuple]:
    """Writes one segment of each text of a batch, on the model's thread."""
    begun = time.perf_counter()
    # The newest token is passed by the decoding itself, even if its keys are
    # known, as after going back in a text.
    starts = [
        min(self._slots[row].num_keys, len(job.tokens) - 1)
        for job, row in zip(jobs, rows, strict=True)
    ]
    if any(
        start < len(job.tokens) - 1
        for job, start in zip(jobs, starts, strict=True)
    ):
      self._pass([job.tokens[:-1] for job in jobs], starts, rows)
    size = jitted_batches.bucket(jitted_batches.BATCH_BUCKETS, len(jobs))
    state = jitted_batches.padded_rows(
        size,
        len(self._slots),
        last_token=[job.tokens[-1] for job in jobs],
        position=[len(job.tokens) - 1 for job in jobs],
        seed=[job.seed for job in jobs],
        temperature=[job.temperature for job in jobs],
        limit=[job.limit for job in jobs],
        slots=rows,
    )
    out, self._cache = jitted_batches.decode(
        self._params,
        self._config,
        self._cache,
        state,
        (self.tokenizer.eos_id,),
        jitted_batches.num_past(state.position, self.max_length),
        max_new=jitted_batches.bucket(
            _WRITE_BUCKETS, max(job.limit for job in jobs)
        ),
        top_k=None,
    )
    out = jax.device_get(out)
    seconds = (time.perf_counter() - begun) / len(jobs)
    return [
        (
            out.tokens[i, :count].tolist(),
            out.top_log_probs[i, :count].astype(np.float64),
            seconds,
        )
        for i, count in enumerate(out.count[: len(jobs)].tolist())
    ]

  def _pass(self, texts, starts, rows) -> jax.Array:
    """Passes texts through the model from `starts` on; fills the cache.

    Returns:
      `[B, C, V]` float32, log-probabilities after each passed token.
    """
    size = jitted_batches.bucket(jitted_batches.BATCH_BUCKETS, len(texts))
    counts = [
        len(text) - start for text, start in zip(texts, starts, strict=True)
    ]
    width = jitted_batches.bucket(_READ_BUCKETS, max(counts))
    tokens = np.zeros((size, width), np.int32)
    for row, text, start in zip(tokens, texts, starts, strict=False):
      row[: len(text) - start] = text[start:]
    starts = jitted_batches.pad(starts, size, 0)
    log_probs, self._cache = jitted_batches.read(
        self._params,
        self._config,
        self._cache,
        jitted_batches.pad(rows, size, len(self._slots)),
        tokens,
        starts,
        jitted_batches.pad(counts, size, 0),
        self.tokenizer.pad_id,
        # No cached token is attended to where every text is new.
        jitted_batches.num_past(starts, self.max_length) if starts.any() else 0,
    )
    return log_probs
