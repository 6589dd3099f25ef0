"""The embedded pair as an engine: slots of KV cache, micro-batches of steps.

Requests wait in a queue; whenever the engine is idle it takes all that wait, up
to `max_batch`, and writes one step of each in one jitted call. If more wait, it
takes the oldest and those nearest to it in length, since a batch reads as many
keys for each row as for its longest. A request for a whole answer goes back to
the queue after each step, so early and late requests share batches. A slot of
the cache belongs to one session at a time and keeps its tokens, so the next
step of a trace reads only what is new.
"""

import asyncio
from collections.abc import Sequence
import concurrent.futures
import dataclasses
import functools
import itertools
import time

import jax
import numpy as np

from routing import types
from routing.engines import engine as engine_lib
from routing.engines import slots as slots_lib
from routing.lm import decoder
from routing.lm import sampler
from routing.lm import tokenizer as tokenizer_lib

# Each is compiled when first needed.
_BATCH_BUCKETS = (8, 32, 64, 128)
_PREFILL_BUCKETS = (32, 64, 128, 192)
_PAST_BUCKETS = (96, 128, 160)
# Fewer rows fit into the processor's caches, whatever is padded to them.
_MIN_ROWS_FOR_PAST = 64
_SEGMENT_TOKENS = 32  # A step is 22 tokens; a longer one takes two segments.
_TOP_K = 5


@dataclasses.dataclass
class _Job:
  """A request on its way: the tokens so far and the steps already written."""

  request: engine_lib.Request
  tokens: list[int]
  future: asyncio.Future
  budget: int  # New tokens still allowed.
  read: int = 0
  cached: int = 0
  slot: int = -1
  number: int = 0  # Of its turn in the queue.
  parts: list[dict[str, np.ndarray]] = dataclasses.field(default_factory=list)
  seconds: float = 0.0
  steps: list[types.Step] = dataclasses.field(default_factory=list)


class EmbeddedEngine:
  """Writes steps with one of the embedded language models.

  Args:
    name: the model's name.
    route: its route index.
    config, params: the decoder, see `routing.lm.export.load_pretrained`.
    tokenizer: the tokeniser of the pair.
    max_batch: rows written at once.
    num_slots: traces whose cache is kept; at least the number of traces in
      flight, or prefixes are read again (and charged as read). A trace holds
      its slot, also while another model writes, until it is forgotten.
    max_length: tokens of question and answer together.
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
        num_log_probs=_TOP_K,
        hidden_size=2 * config.hidden_size,
        seeds=True,
        counts_tokens=True,
        reports_cached=True,
    )
    if not 1 <= max_batch <= _BATCH_BUCKETS[-1]:
      raise ValueError(
          f'max_batch is {max_batch}; allowed: 1 to {_BATCH_BUCKETS[-1]}.'
      )
    if num_slots < max_batch:
      raise ValueError(
          f'num_slots is {num_slots}; it must be at least max_batch, '
          f'{max_batch}.'
      )
    self._config = config
    self._params = params
    self._tokenizer = tokenizer
    self._max_batch = max_batch
    self._max_length = max_length
    self._slots = slots_lib.Slots(num_slots)
    # One row more than slots: padding rows of a batch write there.
    self._cache = decoder.init_cache(config, num_slots + 1, max_length)
    self._queue: list[_Job] = []  # Oldest first.
    self._numbers = itertools.count()
    self._worker: asyncio.Task | None = None
    self._executor = concurrent.futures.ThreadPoolExecutor(
        1, thread_name_prefix=f'engine-{name}'
    )

  def count_tokens(self, question: str, trace: str) -> int:
    """Prompt tokens of a request for `question`, continued after `trace`."""
    return len(self.encode(question, trace))

  def encode(self, question: str, trace: str) -> list[int]:
    """See `engine.Engine.encode`."""
    return self._tokenizer.encode(question + trace)

  async def write(self, request: engine_lib.Request) -> tuple[types.Step, ...]:
    """Writes one step, or all to the end; see `engine.Engine.write`.

    Raises:
      engine_lib.Refused: if the prompt leaves no room for a token, or holds a
        character that the model does not know.
    """
    try:
      tokens = self._tokenizer.encode(request.question + request.trace)
    except ValueError as error:
      raise engine_lib.Refused(str(error)) from error
    room = min(request.max_tokens, self._max_length - len(tokens))
    if room < 1:
      raise engine_lib.Refused(
          f'No room to write: the prompt has {len(tokens)} tokens, max_tokens '
          f'is {request.max_tokens}, and {self.name} holds {self._max_length}.'
      )
    loop = asyncio.get_running_loop()
    job = _Job(request, list(tokens), loop.create_future(), room)
    self._enqueue(job)
    if self._worker is None or self._worker.done():
      self._worker = loop.create_task(self._work())
    return await job.future

  async def cancel_speculation(self, session: str) -> None:
    """Nothing to do: only what is asked for is written."""

  def forget(self, session: str) -> None:
    """Frees the session's slot: the next session that needs one gets it."""
    self._slots.forget(session)

  async def close(self) -> None:
    """Waits for what is under way and frees the thread."""
    if self._worker is not None:
      await self._worker
    self._executor.shutdown()

  async def _work(self) -> None:
    """Writes batches until nothing waits."""
    loop = asyncio.get_running_loop()
    while True:
      await asyncio.sleep(0)  # Let everyone who is about to ask, ask.
      jobs = self._take()
      if not jobs:
        return
      try:
        rows = await loop.run_in_executor(
            self._executor, self._write_segment, jobs
        )
      except Exception as error:  # The callers hear of it, each by its future.
        for job in jobs:
          self._slots.clear(job.slot)
          if not job.future.cancelled():
            job.future.set_exception(error)
        continue
      for job, row in zip(jobs, rows, strict=True):
        self._advance(job, row)

  def _enqueue(self, job: _Job) -> None:
    """Puts a job at the end of the queue."""
    job.number = next(self._numbers)
    self._queue.append(job)

  def _take(self) -> list[_Job]:
    """Takes waiting jobs, a slot for each; the rest goes on waiting."""
    jobs, waiting = [], []
    length = len(self._queue[0].tokens) if self._queue else 0
    for job in sorted(self._queue, key=lambda j: abs(len(j.tokens) - length)):
      if len(jobs) == self._max_batch or not self._give_slot(job):
        waiting.append(job)
      else:
        jobs.append(job)
    self._queue = sorted(waiting, key=lambda job: job.number)
    return jobs

  def _give_slot(self, job: _Job) -> bool:
    """Whether the job has a slot by now."""
    if job.slot >= 0:
      return True
    lent = self._slots.lend(job.request.session, job.tokens)
    if lent is None:
      return False
    job.slot, job.cached = lent
    job.read = len(job.tokens) - job.cached
    return True

  def _write_segment(self, jobs: Sequence[_Job]) -> list[dict[str, np.ndarray]]:
    """Writes a step of each; the part that computes, and runs in the thread.

    Returns the rows' arrays, cut to their counts, with `stopped` and `seconds`.
    """
    start_time = time.perf_counter()
    self._read_new([job for job in jobs if self._num_new(job)])
    size = _bucket(_BATCH_BUCKETS, len(jobs))
    rows = sampler.Rows(
        last_token=_pad([job.tokens[-1] for job in jobs], size, 0),
        position=_pad([len(job.tokens) - 1 for job in jobs], size, 0),
        seed=_pad([job.request.seed for job in jobs], size, 0).astype(
            np.uint32
        ),
        temperature=_pad([job.request.temperature for job in jobs], size, 0.0),
        active=np.arange(size) < len(jobs),
        limit=_pad([min(j.budget, _SEGMENT_TOKENS) for j in jobs], size, 0),
        slots=_pad([job.slot for job in jobs], size, len(self._slots)),
    )
    stop_ids = self._tokenizer.delimiter_id, self._tokenizer.eos_id
    out, self._cache = _decode_slots(
        self._params,
        self._config,
        self._cache,
        rows,
        stop_ids,
        self._num_past(rows.position),
    )
    out = jax.device_get(out)
    seconds = (time.perf_counter() - start_time) / len(jobs)
    return [_row(out, i, seconds) for i in range(len(jobs))]

  def _num_new(self, job: _Job) -> int:
    """Tokens that need keys before decoding can start from the last one."""
    return max(len(job.tokens) - 1 - self._slots[job.slot].num_keys, 0)

  def _read_new(self, jobs: Sequence[_Job]) -> None:
    """One jitted prefill of all that is new to the slots of `jobs`."""
    if not jobs:
      return
    counts = [self._num_new(job) for job in jobs]
    size = _bucket(_BATCH_BUCKETS, len(jobs))
    tokens = np.zeros((size, _bucket(_PREFILL_BUCKETS, max(counts))), np.int32)
    starts = [
        len(job.tokens) - 1 - n for job, n in zip(jobs, counts, strict=True)
    ]
    for row, (job, start) in enumerate(zip(jobs, starts, strict=True)):
      new = job.tokens[start:-1]
      tokens[row, : len(new)] = new
    self._cache = _prefill_slots(
        self._params,
        self._config,
        self._cache,
        _pad([job.slot for job in jobs], size, len(self._slots)),
        tokens,
        _pad(starts, size, 0),
        _pad(counts, size, 0),
        self._max_length if any(starts) else 0,
    )

  def _num_past(self, positions: np.ndarray) -> int:
    """How many keys to look at for rows that begin at `positions`, `[B]`."""
    if len(positions) < _MIN_ROWS_FOR_PAST:
      return self._max_length
    buckets = *_PAST_BUCKETS, self._max_length
    return min(_bucket(buckets, int(positions.max())), self._max_length)

  def _advance(self, job: _Job, row: dict[str, np.ndarray]) -> None:
    """Books a written segment; answers the job or sends it round again."""
    ids = row['tokens'].tolist()
    job.tokens += ids
    job.budget -= len(ids)
    job.parts.append(row)
    job.seconds += float(row['seconds'])
    self._slots.update(job.slot, job.tokens)
    out_of_budget = job.budget == 0
    if row['stopped'] or out_of_budget:
      job.steps.append(self._step(job))
    is_final = bool(row['stopped']) and ids[-1] == self._tokenizer.eos_id
    if is_final or out_of_budget or (row['stopped'] and not job.request.to_end):
      self._slots[job.slot].is_busy = False
      if not job.future.cancelled():
        job.future.set_result(tuple(job.steps))
    else:
      self._enqueue(job)

  def _step(self, job: _Job) -> types.Step:
    """Joins the segments written since the last step into a step."""
    parts, job.parts = job.parts, []
    ids = tuple(int(i) for part in parts for i in part['tokens'])
    counts = np.array([len(part['tokens']) for part in parts], np.float32)
    means = np.stack([part['hidden_mean'] for part in parts])
    hidden = np.concatenate(
        [parts[-1]['hidden_last'], counts @ means / counts.sum()]
    )
    usage = types.Usage(
        route=self.route,
        read=0 if job.steps else job.read,
        cached=0 if job.steps else job.cached,
        written=len(ids),
        seconds=job.seconds,
        in_context=len(job.tokens) - len(ids) if job.steps else 0,
    )
    job.seconds = 0.0
    is_final = ids[-1] == self._tokenizer.eos_id
    return types.Step(
        text=self._tokenizer.decode(ids[:-1] if is_final else ids),
        token_ids=ids,
        log_probs=np.concatenate([part['log_probs'] for part in parts]),
        top_log_probs=np.concatenate([part['top_log_probs'] for part in parts]),
        is_final=is_final,
        usage=usage,
        hidden=hidden.astype(np.float32),
    )


def _bucket(buckets: Sequence[int], count: int) -> int:
  """The smallest bucket that holds `count`, else `count` itself."""
  return next((bucket for bucket in buckets if bucket >= count), count)


def _pad(values: Sequence, size: int, fill) -> np.ndarray:
  """`values` as a `[size]` array, int32 or float32, filled up with `fill`."""
  kind = np.float32 if isinstance(fill, float) else np.int32
  return np.array([*values, *[fill] * (size - len(values))], kind)


def _row(out: sampler.Decoded, i: int, seconds: float) -> dict[str, np.ndarray]:
  """Row `i` of a decoded batch, cut to the tokens that it wrote."""
  count = int(out.count[i])
  return {
      'tokens': out.tokens[i, :count],
      'log_probs': out.log_probs[i, :count],
      'top_log_probs': out.top_log_probs[i, :count],
      'hidden_last': out.hidden_last[i],
      'hidden_mean': out.hidden_mean[i],
      'stopped': out.stopped[i],
      'seconds': np.float64(seconds),
  }


@functools.partial(jax.jit, static_argnums=(1, 7), donate_argnums=2)
def _prefill_slots(
    params, config, cache, slots, tokens, start, count, num_past
):
  return sampler.prefill(
      params, config, cache, tokens, start, count, slots, num_past
  )


@functools.partial(jax.jit, static_argnums=(1, 4, 5), donate_argnums=2)
def _decode_slots(params, config, cache, rows, stop_ids, num_past):
  return sampler.decode(
      params,
      config,
      cache,
      rows,
      max_new=_SEGMENT_TOKENS,
      stop_ids=stop_ids,
      top_k=_TOP_K,
      num_past=num_past,
  )
