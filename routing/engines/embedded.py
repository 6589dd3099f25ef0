"""Defines the engine of the embedded models, which batches concurrent requests.

Requests wait in a queue. Whenever the engine is idle, it takes up to
`max_batch` requests and writes one step of each in one jitted call. A request
for a whole answer returns to the queue after each step, so early and late
requests share batches.

If more than `max_batch` requests wait, the engine takes the oldest request and
those nearest to it in length. Every row of a batch attends to as many keys as
the longest row, so a batch of similar lengths wastes least.

Each row (slot) of the KV cache belongs to one session at a time and keeps the
keys of the session's tokens. The next step of a trace reads only new tokens.
"""

import asyncio
from collections.abc import Sequence
import concurrent.futures
import itertools
import time

from absl import logging
import jax
import numpy as np

from routing import types
from routing.engines import embedded_jobs as jobs_lib
from routing.engines import embedded_tokens
from routing.engines import engine as engine_lib
from routing.engines import jitted_batches
from routing.engines import slots as slots_lib
from routing.engines import token_session
from routing.lm import decoder
from routing.lm import tokenizer as tokenizer_lib
from routing.tasks import delimiter as delimiter_lib


class EmbeddedEngine:
  """An engine that writes steps with one of the embedded language models.

  Args:
    name: the model's name.
    route: its route index.
    config, params: the decoder, as `routing.lm.export.load_pretrained` returns.
    tokenizer: the tokenizer of the embedded models.
    max_batch: maximum number of rows written at once. On a CPU, fewer are, see
      `jitted_batches.CPU_ROWS`.
    num_slots: number of rows in the KV cache. If there are more concurrent
      sessions than slots, prefixes are evicted, read again and charged again. A
      session keeps its slot until it closes, also while another model writes.
    max_length: maximum number of tokens of question and answer together.

  Raises:
    ValueError: if `max_batch` or `num_slots` is out of range.
  """

  def __init__(
      self,
      name: str,
      route: int,
      config: decoder.DecoderConfig,
      params,
      tokenizer: tokenizer_lib.Tokenizer,
      *,
      max_batch: int = 128,
      num_slots: int = 256,
      max_length: int = 224,
  ):
    self.name = name
    self.route = route
    self.capabilities = engine_lib.Capabilities(
        continues_prefix=True,
        num_log_probs=jitted_batches.TOP_K,
        hidden_size=2 * config.hidden_size,
        seeds=True,
        counts_tokens=True,
        reports_cached=True,
        tells_steps=True,
        names_tokens=True,
    )
    largest = jitted_batches.BATCH_BUCKETS[-1]
    if not 1 <= max_batch <= largest:
      raise ValueError(
          f'max_batch is {max_batch}; allowed: 1 to {largest} rows.'
      )
    if num_slots < max_batch:
      raise ValueError(
          f'num_slots is {num_slots}; allowed: at least max_batch, which is '
          f'{max_batch}.'
      )
    self._config = config
    self._params = params
    self._tokenizer = tokenizer
    self._stop_ids = tokenizer.delimiter_id, tokenizer.eos_id
    self._max_batch = jitted_batches.rows_at_once(max_batch)
    self._max_length = max_length
    self._slots = slots_lib.Slots(num_slots)
    # The cache has one row more than there are slots. The padding rows of a
    # batch write into that row, so they never overwrite the keys of a session.
    self._cache = decoder.init_cache(config, num_slots + 1, max_length)
    self._queue: list[jobs_lib.Job] = []  # Oldest first.
    self._numbers = itertools.count()
    self._worker: asyncio.Task | None = None
    self._tokens: embedded_tokens.TokenModel | None = None
    self._ahead: concurrent.futures.Future[None] | None = None
    self._is_closing = False
    # Computing in a thread keeps the event loop free for the other engine. One
    # thread only: each call donates the cache that the call before returned.
    self._executor = concurrent.futures.ThreadPoolExecutor(
        1, thread_name_prefix=f'engine-{name}'
    )

  def count_tokens(self, question: str, trace: str) -> int:
    """Counts prompt tokens; see `engine.Engine.count_tokens`."""
    return len(self.encode(question, trace))

  def encode(self, question: str, trace: str) -> list[int]:
    """Returns the prompt's token ids; see `engine.Engine.encode`."""
    return self._tokenizer.encode(question + trace)

  def pieces(self, ids: Sequence[int]) -> list[str]:
    """Returns the text of each token; see `engine.pieces`."""
    return [self._tokenizer.decode([i]) for i in ids]

  def open(self, question: str) -> 'EmbeddedSession':
    """Opens a session about a question; see `engine.Engine.open`."""
    return EmbeddedSession(self, question)

  def open_tokens(self, question: str) -> token_session.TokenSession:
    """Opens a session of single tokens; no other engine has such sessions."""
    if self._tokens is None:  # Its cache is as large as the engine's own.
      self._tokens = embedded_tokens.TokenModel(
          self.name,
          self.route,
          self._config,
          self._params,
          self._tokenizer,
          max_batch=self._max_batch,
          num_slots=len(self._slots),
          max_length=self._max_length,
      )
    return self._tokens.open(question)

  def prepare(self, num_requests: int) -> None:
    """Compiles for full batches, beside other models; see `engine.prepare`."""
    if num_requests >= self._max_batch and self._ahead is None:
      self._ahead = self._executor.submit(self._compile)

  def _compile(self) -> None:
    caches = jitted_batches.compile_ahead(
        self._params,
        self._config,
        self._cache,
        self._stop_ids,
        len(self._slots),
        self._max_batch,
        # The smallest reads others' text only where control returns to it.
        reads_on=self.route > 0,
    )
    for cache in caches:
      self._cache = cache
      if self._is_closing:
        return

  async def close(self) -> None:
    """Waits for requests in progress and ends the threads."""
    self._is_closing = True
    if self._worker is not None:
      await self._worker
    self._executor.shutdown()
    if self._tokens is not None:
      await self._tokens.close()

  async def reply(
      self, session: 'EmbeddedSession', request: engine_lib.Request
  ) -> tuple[types.Step, ...]:
    """Writes the steps that a session requests; see `engine.Session.write`.

    Raises:
      engine_lib.Refused: if the prompt leaves no room for a token, or contains
        text that is not in the vocabulary, or steps are to end otherwise than
        with a blank line.
    """
    if request.delimiter != delimiter_lib.BLANK_LINE:
      raise engine_lib.Refused(
          f'{self.name} writes steps that end with a blank line only.'
      )
    try:
      tokens = self.encode(session.question, request.trace)
    except ValueError as error:
      raise engine_lib.Refused(str(error)) from error
    room = engine_lib.room(
        self.name, len(tokens), request.max_tokens, self._max_length
    )
    loop = asyncio.get_running_loop()
    job = jobs_lib.Job(
        session, request, list(tokens), loop.create_future(), room
    )
    self._enqueue(job)
    # The worker task ends when the queue is empty and is started again here, so
    # that an idle engine leaves no task behind when its event loop closes.
    if self._worker is None or self._worker.done():
      self._worker = loop.create_task(self._work())
    return await job.future

  def release(self, session: 'EmbeddedSession') -> None:
    """Frees the slots of a session that makes no further request."""
    self._slots.release(session)

  async def _work(self) -> None:
    """Writes batches until the queue is empty."""
    loop = asyncio.get_running_loop()
    while True:
      # Yields to all coroutines that are ready, so that they add their requests
      # before the next batch is formed.
      await asyncio.sleep(0)
      jobs = self._take()
      if not jobs:
        return
      try:
        rows = await loop.run_in_executor(
            self._executor, self._write_segment, jobs
        )
      # The callers get the error, and the worker continues with the next batch.
      # The slots of the failed batch have unknown contents, so they are freed.
      except Exception as error:
        for job in jobs:
          self._slots.clear(job.slot)
          if not job.future.done():
            job.future.set_exception(error)
        continue
      for job, row in zip(jobs, rows, strict=True):
        self._advance(job, row)

  def _enqueue(self, job: jobs_lib.Job) -> None:
    """Appends a job to the end of the queue."""
    job.number = next(self._numbers)
    self._queue.append(job)

  def _take(self) -> list[jobs_lib.Job]:
    """Removes the jobs of the next batch from the queue and returns them.

    These are up to `max_batch` jobs to which a slot is or can be assigned.
    """
    jobs, waiting = [], []
    for job in [job for job in self._queue if job.future.done()]:
      self._queue.remove(job)
      self._end(job)
    # Jobs are taken in order of their difference in length from the oldest job.
    # The oldest itself comes first, so no job waits for ever.
    length = len(self._queue[0].tokens) if self._queue else 0
    for job in sorted(self._queue, key=lambda j: abs(len(j.tokens) - length)):
      if len(jobs) == self._max_batch or not self._assign_slot(job):
        waiting.append(job)
      else:
        jobs.append(job)
    self._queue = sorted(waiting, key=lambda job: job.number)
    return jobs

  def _end(self, job: jobs_lib.Job) -> None:
    """Gives back the slot of a job that writes nothing more, if it has one."""
    if job.parts:  # Of a caller that has given up, and still pays for this.
      self._finish_step(job)
    if job.slot >= 0:
      self._slots.give_back(job.slot)

  def _assign_slot(self, job: jobs_lib.Job) -> bool:
    """Assigns a slot to the job if needed; returns False if all are busy."""
    if job.slot >= 0:
      return True
    found = self._slots.lend(job.session, job.tokens)
    if found is None:
      return False
    job.slot, job.cached = found
    job.read = len(job.tokens) - job.cached
    return True

  def _write_segment(
      self, jobs: Sequence[jobs_lib.Job]
  ) -> list[dict[str, np.ndarray]]:
    """Writes one segment for each job, on the engine's thread.

    A segment ends with the step, or at a limit on its number of tokens.

    Returns:
      The results for each job; see `jitted_batches.row`.
    """
    if self._ahead is not None and self._ahead.done():
      self._ahead.result()  # An error in it has left no cache to go on with.
    start_time = time.perf_counter()
    self._read_new([job for job in jobs if self._num_new(job)])
    size = jitted_batches.bucket(jitted_batches.BATCH_BUCKETS, len(jobs))
    rows = jitted_batches.padded_rows(
        size,
        len(self._slots),
        last_token=[job.tokens[-1] for job in jobs],
        position=[len(job.tokens) - 1 for job in jobs],
        seed=[job.request.seed for job in jobs],
        temperature=[job.request.temperature for job in jobs],
        limit=[min(j.budget, jitted_batches.SEGMENT_TOKENS) for j in jobs],
        slots=[job.slot for job in jobs],
    )
    out, self._cache = jitted_batches.decode(
        self._params,
        self._config,
        self._cache,
        rows,
        self._stop_ids,
        jitted_batches.num_past(rows.position, self._max_length),
    )
    # JAX dispatches asynchronously. device_get waits for the result, so that
    # `seconds` includes the computation.
    out = jax.device_get(out)
    seconds = (time.perf_counter() - start_time) / len(jobs)
    return [jitted_batches.row(out, i, seconds) for i in range(len(jobs))]

  def _num_new(self, job: jobs_lib.Job) -> int:
    """Returns how many of the job's tokens are not yet in the KV cache.

    The last token is not counted: the first decoding step feeds it.
    """
    return max(len(job.tokens) - 1 - self._slots[job.slot].num_keys, 0)

  def _read_new(self, jobs: Sequence[jobs_lib.Job]) -> None:
    """Prefills the KV cache with all tokens that `_num_new` counts."""
    parts = []
    for job in jobs:
      start = len(job.tokens) - 1 - self._num_new(job)
      parts.append((job.slot, start, job.tokens[start:-1]))
    caches = jitted_batches.fill(
        self._params, self._config, self._cache, parts, len(self._slots)
    )
    for cache in caches:
      self._cache = cache

  def _advance(self, job: jobs_lib.Job, row: dict[str, np.ndarray]) -> None:
    """Adds a segment to its job; then completes the job or enqueues it again.

    Args:
      job: the job whose segment was written.
      row: the result of `_write_segment` for this job.
    """
    ids = row['tokens'].tolist()
    job.tokens += ids
    job.budget -= len(ids)
    job.parts.append(row)
    job.seconds += float(row['seconds'])
    # All tokens but the last are in the KV cache: the last token was sampled
    # and has not passed through the model yet.
    self._slots.update(job.slot, job.tokens)
    out_of_budget = job.budget == 0
    is_given_up = job.future.done()
    if not is_given_up and (row['stopped'] or out_of_budget):
      self._finish_step(job)
    if job.future.done():  # The caller has given up, or its listener failed.
      self._end(job)
      return
    is_final = bool(row['stopped']) and ids[-1] == self._tokenizer.eos_id
    if is_final or out_of_budget or (row['stopped'] and not job.request.to_end):
      self._end(job)
      job.future.set_result(tuple(job.steps))
    else:
      self._enqueue(job)

  def _finish_step(self, job: jobs_lib.Job) -> None:
    """Ends the current step of a job, and tells who listens."""
    job.steps.append(jobs_lib.finish_step(job, self.route, self._tokenizer))
    if job.request.on_step is None:
      return
    try:
      job.request.on_step(len(job.steps) - 1, job.steps[-1])
    except Exception as error:  # It ends this request, and no other.
      if job.future.done():
        logging.exception('Nobody waits any more for this error.')
      else:
        job.future.set_exception(error)


class EmbeddedSession(engine_lib.Session):
  """A session of an embedded engine; it owns slots of the engine's KV cache."""

  def __init__(self, engine: EmbeddedEngine, question: str):
    super().__init__(question, engine.route)
    self._engine = engine

  async def write(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """Writes the requested steps; see `EmbeddedEngine.reply`."""
    return await self._engine.reply(self, request)

  async def close(self) -> None:
    """Frees the session's slots; see `engine.Session.close`."""
    self._engine.release(self)
