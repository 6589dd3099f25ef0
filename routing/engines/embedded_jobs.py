"""Keeps track of the requests that the embedded engine is writing."""

import asyncio
import dataclasses

import numpy as np

from routing import types
from routing.engines import engine as engine_lib
from routing.lm import tokenizer as tokenizer_lib


@dataclasses.dataclass
class Job:
  """A request in progress: its tokens so far and the steps already written.

  session: the session that makes the request.
  tokens: the prompt's token ids, followed by those written so far.
  budget: number of new tokens that the request may still write.
  read, cached: prompt tokens read anew and found in the slot.
  slot: index of the job's row of the KV cache; -1 = none assigned yet.
  number: place in the queue, renewed whenever the job returns to the queue.
  parts: results of the segments of the current, unfinished step.
  seconds: computing time charged to the current step so far.
  """

  session: engine_lib.Session
  request: engine_lib.Request
  tokens: list[int]
  future: asyncio.Future
  budget: int
  read: int = 0
  cached: int = 0
  slot: int = -1
  number: int = 0
  parts: list[dict[str, np.ndarray]] = dataclasses.field(default_factory=list)
  seconds: float = 0.0
  steps: list[types.Step] = dataclasses.field(default_factory=list)


def finish_step(
    job: Job, route: int, tokenizer: tokenizer_lib.Tokenizer
) -> types.Step:
  """Returns the step that the segments of a job make; the next step may follow.

  The hidden state of the step, `[2 D]`, consists of the hidden state of its
  last token and the mean hidden state of its tokens.

  Args:
    job: the job; all segments of its current step are written.
    route: route index of the engine.
    tokenizer: the tokenizer of the embedded models.
  """
  parts, job.parts = job.parts, []
  ids = tuple(int(i) for part in parts for i in part['tokens'])
  counts = np.array([len(part['tokens']) for part in parts], np.float32)
  # The mean over the step is the mean over its segments, weighted by length.
  means = np.stack([part['hidden_mean'] for part in parts])
  hidden = np.concatenate(
      [parts[-1]['hidden_last'], counts @ means / counts.sum()]
  )
  usage = types.Usage(
      route=route,
      read=0 if job.steps else job.read,
      cached=0 if job.steps else job.cached,
      written=len(ids),
      seconds=job.seconds,
      # From the second step of a request on, all tokens before the step are
      # in the request's context; the first step pays for the prompt instead.
      in_context=len(job.tokens) - len(ids) if job.steps else 0,
  )
  job.seconds = 0.0
  is_final = ids[-1] == tokenizer.eos_id
  return types.Step(
      # End-of-sequence is a token of the step but adds no text.
      text=tokenizer.decode(ids[:-1] if is_final else ids),
      token_ids=ids,
      log_probs=np.concatenate([part['log_probs'] for part in parts]),
      top_log_probs=np.concatenate([part['top_log_probs'] for part in parts]),
      is_final=is_final,
      usage=usage,
      hidden=hidden.astype(np.float32),
  )
