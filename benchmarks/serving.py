"""What serving takes: the time that it adds to a step, lost streams, memory.

Run:   python -m benchmarks.serving [--requests=20000] [--streams=1000]
Takes: about 40 ms of a processor per request, and half a minute to compile

`experiments.serve` runs as a process of its own on the shipped pair. A client
keeps `--streams` streams open at a time and compares every answer with the
driver's own. Measured are

- the time added to each step, as a share of the time that its back ends needed.
  Added is all that the service does for the step, on the clock and not on the
  processor: understanding the request, features, decision, accounting, writing
  chunks, and waiting for whatever else the event loop does meanwhile, for other
  answers too. Not counted are the queue, and the last chunk itself. The steps
  of one request for the rest of an answer share its time equally;
- the same with one stream at a time, where nothing is shared; and for half a
  minute with requests that come at random times, as many as are 70 % of what it
  can answer;
- streams that were lost, mixed up (another question's answer) or different in
  text; models round otherwise in batches of other sizes;
- the memory of the process, sampled four times a second;
- each model alone through the same service: what routing costs besides.

Where vLLM is installed, `benchmarks.serving_beside` follows. The last line is a
JSON object: `added_p50` and `added_p99` under load, the same for `added_alone`
and `added_coming`, `lost`, `peak_mib`, and more. If an answer was lost or mixed
up, the command then ends with an error.
"""

import asyncio
from collections.abc import Sequence
import dataclasses
import importlib.util
import itertools
import json
import math
import pathlib
import random
import tempfile
import time
from typing import Any

from absl import app
from absl import flags
from absl import logging
import ml_collections
import numpy as np
import psutil

from benchmarks import load_client
from benchmarks import served_answers
from benchmarks import servers
from configs import arithmetic
from experiments import builders
from experiments import records_on_disk
from routing.routers import learned

_POINT = 'loss<=0.1@0.9'
_SETTINGS = {'concurrency': 256, 'queue': 100_000}
_ALONE = 50  # Requests one at a time, at most.
# Where requests come at random times: the share of what it can do; how long.
_BUSY, _SECONDS = 0.7, 30.0


@dataclasses.dataclass
class Memory:
  """The memory of a process while something runs, in MiB.

  samples: (share of the requests that have ended, resident size).
  """

  samples: list[tuple[float, float]] = dataclasses.field(default_factory=list)

  async def watch(self, pid: int, counted: load_client.Count) -> None:
    """Samples until it is cancelled."""
    process = psutil.Process(pid)
    while True:
      size = process.memory_info().rss / 2**20
      self.samples.append((counted.share, size))
      await asyncio.sleep(0.25)

  def at(self, share: float) -> float:
    """Returns the size when this share of the requests had ended."""
    return next(
        (size for done, size in self.samples if done >= share),
        self.samples[-1][1],
    )

  def to_json(self) -> dict[str, float]:
    """Returns peak and course."""
    return {
        'peak_mib': round(max(size for _, size in self.samples), 1),
        'growth_mib': round(self.at(1.0) - self.at(0.5), 1),
    } | {
        f'mib_at_{share:.0%}': round(self.at(share), 1)
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    }


def added(replies: Sequence[load_client.Reply]) -> dict[str, float]:
  """Returns quantiles of the time added to a step, as a share and in ms."""
  rows = [row for reply in replies for row in reply.routing.get('steps', ())]
  rows = [row for row in rows if row['seconds'] > 0]
  ours = np.array([row['overhead_ms'] for row in rows])
  theirs = np.array([1_000 * row['seconds'] for row in rows])
  return {
      'p50': float(np.quantile(ours / theirs, 0.5)),
      'p99': float(np.quantile(ours / theirs, 0.99)),
      'ms_p50': float(np.quantile(ours, 0.5)),
      'ms_p99': float(np.quantile(ours, 0.99)),
      'step_ms_p50': float(np.quantile(theirs, 0.5)),
      # A quantile of ratios is large where steps are short. These compare the
      # largest times with a usual step.
      'ms_p99_by_median_step': float(
          np.quantile(ours, 0.99) / np.median(theirs)
      ),
      'ms_p99_by_mean_step': float(np.quantile(ours, 0.99) / np.mean(theirs)),
  }


def faults(found: dict[str, Any]) -> dict[str, int]:
  """Returns what may never happen, and did: name -> how often."""
  counts = {name: found[name] for name in ('lost', 'mixed_up')}
  for name, side in found.get('beside', {}).items():
    counts[f'lost by {name}'] = side['lost']
  return {name: count for name, count in counts.items() if count}


def compared(
    asked: Sequence[int],
    replies: Sequence[load_client.Reply],
    wanted: Sequence[str],
) -> dict[str, int]:
  """Returns how many replies are lost, mixed up, or differ otherwise.

  Args:
    asked: for each reply, the index of its question.
    replies: the replies.
    wanted: the driver's answer to each question.
  """
  owners = {}
  for index, text in enumerate(wanted):
    owners.setdefault(text, set()).add(index)
  counts = dict(lost=0, mixed_up=0, other_text=0)
  for index, reply in zip(asked, replies, strict=True):
    if not reply.is_whole:
      counts['lost'] += 1
    elif reply.text != wanted[index]:
      is_of_another = bool(owners.get(reply.text, set()) - {index})
      counts['mixed_up' if is_of_another else 'other_text'] += 1
  return counts


class Side:
  """One server under measurement.

  Args:
    running: the server.
    questions: that are asked, in turn.
    streams: of requests at a time.
  """

  def __init__(
      self, running: servers.Running, questions: Sequence[str], streams: int
  ):
    self._running, self._questions = running, questions
    self._streams = streams
    self._process = psutil.Process(running.process.pid)

  def ask(
      self, model: str, asked: Sequence[int], streams: int | None = None
  ) -> tuple[list[load_client.Reply], dict[str, float], Memory]:
    """Asks a model; returns the replies, rates, and the server's memory."""
    bodies = self._bodies(model, asked)
    memory, count = Memory(), load_client.Count(len(bodies))

    async def run():
      watching = asyncio.create_task(
          memory.watch(self._running.process.pid, count)
      )
      replies = await load_client.ask_all(
          self._running.url + load_client.CHAT,
          bodies,
          streams=streams or self._streams,
          count=count,
      )
      watching.cancel()
      return replies

    busy, start = self._busy(), time.perf_counter()
    replies = asyncio.run(run())
    seconds = time.perf_counter() - start
    rates = {
        'answers_per_second': len(asked) / seconds,
        'processor_ms_per_answer': 1_000 * (self._busy() - busy) / len(asked),
        'latency_p50': float(np.median([x.seconds for x in replies])),
        'first_text_p50': float(np.median([x.first for x in replies])),
    }
    memory.samples.append((1.0, self._process.memory_info().rss / 2**20))
    return replies, rates, memory

  def ask_as_they_come(
      self, model: str, asked: Sequence[int], rate: float
  ) -> tuple[list[load_client.Reply], float]:
    """Asks a model at random times; see `load_client.ask_as_they_come`."""
    return asyncio.run(
        load_client.ask_as_they_come(
            self._running.url + load_client.CHAT,
            self._bodies(model, asked),
            rate,
            random.Random(0),
        )
    )

  def _bodies(self, model: str, asked: Sequence[int]) -> list[dict[str, Any]]:
    """Returns the requests for some questions."""
    return [load_client.chat(model, self._questions[i]) for i in asked]

  def _busy(self) -> float:
    """Returns the processor seconds of the server so far."""
    times = self._process.cpu_times()
    return times.user + times.system


def drivers_answers(
    config: ml_collections.ConfigDict, router: learned.LearnedRouter, count: int
) -> tuple[list[str], list[str]]:
  """Returns `count` questions, and the driver's answer to each."""
  config.problems.test = count
  problems = builders.problems(config, 'test')
  trajectories = asyncio.run(
      served_answers.evaluated(
          records_on_disk.answering(config, router.card),
          router.at(_POINT),
          problems,
      )
  )
  return [x.question for x in problems], [x.text for x in trajectories]


def measure(
    num_requests: int, num_questions: int, streams: int, log: pathlib.Path
) -> dict[str, Any]:
  """Measures the shipped pair; returns what is printed."""
  config = arithmetic.get_config()
  questions, wanted = drivers_answers(
      config, learned.load('shipped'), num_questions
  )
  asked = [i % num_questions for i in range(num_requests)]
  random.Random(0).shuffle(asked)
  path = pathlib.Path(arithmetic.__file__)
  words = [f'--config={path}'] + [
      f'--config.serving.{name}={value}' for name, value in _SETTINGS.items()
  ]
  with servers.serve_router(words, log) as running:
    side, model = Side(running, questions, streams), f'router@{_POINT}'
    some = asked[: max(num_requests // 10, 1)]
    for name in (model, 'small', 'large'):  # Compiles all sizes of batches.
      side.ask(name, (asked * 256)[: min(256, 2 * num_requests)])
    alone, _, _ = side.ask(model, some[:_ALONE], streams=1)
    replies, rates, memory = side.ask(model, asked)
    rate = _BUSY * rates['answers_per_second']
    number = math.ceil(_SECONDS * rate)
    others = list(itertools.islice(itertools.cycle(asked), number))
    coming, rate = side.ask_as_they_come(model, others, rate)
    plain = {name: side.ask(name, some)[1] for name in ('small', 'large')}
  under_load, without, as_they_come = map(added, (replies, alone, coming))
  return {
      'added_p50': under_load['p50'],
      'added_p99': under_load['p99'],
      'added_alone_p50': without['p50'],
      'added_alone_p99': without['p99'],
      'added_coming_p50': as_they_come['p50'],
      'added_coming_p99': as_they_come['p99'],
      **compared([*asked, *others], [*replies, *coming], wanted),
      **memory.to_json(),
      'requests': num_requests,
      'streams': streams,
      'questions': num_questions,
      'distinct_answers': len(set(wanted)),
      'under_load': under_load,
      'alone': without,
      'coming': as_they_come | {'requests_per_second': rate},
      'router': rates,
      **plain,
  }


def rounded(value: Any) -> Any:
  """Returns JSON-like content with four significant digits."""
  if isinstance(value, dict):
    return {name: rounded(x) for name, x in value.items()}
  return float(f'{value:.4g}') if isinstance(value, float) else value


def main(argv: Sequence[str]) -> None:
  """Measures, and prints JSON last; raises ValueError if answers were lost."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  logging.set_verbosity(logging.ERROR)
  num_requests, streams = flags.FLAGS.requests, flags.FLAGS.streams
  num_questions = flags.FLAGS.questions or max(num_requests // 5, 1)
  with tempfile.TemporaryDirectory() as home:
    log = pathlib.Path(home) / 'log'
    found = measure(num_requests, num_questions, streams, log)
    if importlib.util.find_spec('vllm') is not None:
      from benchmarks import serving_beside

      found['beside'] = serving_beside.measure(
          flags.FLAGS.beside,
          flags.FLAGS.litellm,
          pathlib.Path(home),
          is_apart=flags.FLAGS.apart,
      )
  print(json.dumps(rounded(found)))
  if wrong := faults(found):
    raise ValueError(f'Of the answers some were not right: {wrong}.')


if __name__ == '__main__':
  flags.DEFINE_integer('requests', 20_000, 'Number of requests.', 1)
  flags.DEFINE_integer('streams', 1_000, 'Streams open at a time.', 1)
  flags.DEFINE_integer('questions', 0, 'Different ones; 0 = a fifth.', 0)
  flags.DEFINE_integer('beside', 200, 'Requests to each side of vLLM.', 1)
  flags.DEFINE_string(
      'litellm', '', "Path of the command 'litellm'; '' = without its proxy."
  )
  flags.DEFINE_bool(
      'apart', False, 'Whether vLLM, if there, has a core of its own.'
  )
  app.run(main)
