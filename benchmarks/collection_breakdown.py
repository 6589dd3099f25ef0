"""Where the speed of vLLM goes that a routed collection does not reach.

Run: python -m benchmarks.collection_breakdown [--problems=256] [--rounds=3]
One cause at a time is added to the plain batch of `benchmarks.collection`, or
taken from the routed collection. The first five variants ask vLLM alone for the
tokens that the routed collection has written; each adds to the one before:
- `in_turn`: at most 64 problems at a time, the large model after the small one,
  so that batches are as full as those of a collection;
- `textless`: vLLM makes no text;
- `streamed`: every token is sent when it is written, all tokens so far each
  time (CUMULATIVE);
- `deltas`: the same, the new tokens alone (DELTA);
- `by_step`: like `textless`, a request for each step of the small model.
The others are collections by the driver:
- `routed`: as in `benchmarks.collection`, by the policy that hands over half;
- `no_decisions`: the small model writes all, in one running request each;
- `few_log_probs`: `routed`, without log-probabilities of tokens not written;
- `twice`: `routed`, with 128 problems at a time and as many slots;
- `every_fourth`: `routed`, where vLLM sends every fourth token.
Each is compared, in the same round, with a plain batch of the tokens that it
has written; a ratio below 1 is slower. The last line is a JSON object of the
medians, with two shares that are counted: `wasted`, tokens that were cancelled,
of all that were written; and `read_again`, tokens of prompts that a request for
each step reads a second time, since the last block of a cached prefix is not
full, of all prompt tokens that it reads.
"""

import asyncio
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import itertools
import json
import statistics
import time

from absl import app
from absl import flags
from absl import logging
import ml_collections

from benchmarks import collection
from configs import arithmetic_vllm
from experiments import builders
from routing import types
from routing.engines import engine as engine_lib
from routing.rollout import collect
from routing.rollout import driver
from routing.rollout import steps as steps_lib
from routing.routers import fixed

# As the driver asks, but for the text.
_ASKED = dict(seed=0, logprobs=5, flat_logprobs=True)
_TEXTLESS = dict(**_ASKED, detokenize=False)
# Variants that vLLM alone writes: fields of its requests.
_ALONE = {
    'in_turn': _ASKED,
    'textless': _TEXTLESS,
    'streamed': dict(**_TEXTLESS, output_kind='CUMULATIVE'),
    'deltas': dict(**_TEXTLESS, output_kind='DELTA'),
    'by_step': _TEXTLESS,
}
# Variants of the driver: the policy, problems at a time, settings of engines.
_NUM = collection.CONCURRENCY
_DRIVEN = {
    'routed': (collection.ROUTER, _NUM, {}),
    'no_decisions': (fixed.SmallRouter(), _NUM, {}),
    'few_log_probs': (collection.ROUTER, _NUM, {'num_log_probs': 0}),
    'twice': (collection.ROUTER, 2 * _NUM, {'num_slots': 2 * _NUM}),
    'every_fourth': (collection.ROUTER, _NUM, {'stream_interval': 4}),
}


def requests(
    trajectory: types.Trajectory, by_step: bool
) -> list[tuple[int, str, int]]:
  """Returns (route, trace, tokens) of the requests of a trajectory, in order.

  Args:
    trajectory: as the driver has written it.
    by_step: a request for each step of the small model, instead of one for all.
  """
  found = collection.runs(trajectory)
  if not by_step:
    return found
  steps, trace = [], ''
  small = [x for x in trajectory.steps if x.route == 0]
  for step in (*small, *trajectory.discarded):
    steps.append((0, trace, steps_lib.count_tokens([step])))
    trace += step.text
  return [x for x in steps if x[-1]] + [x for x in found if x[0]]


async def alone(
    plain: collection.PlainBatches,
    trajectories: Sequence[types.Trajectory],
    name: str,
) -> float:
  """Returns the seconds that vLLM alone takes for a variant of `_ALONE`."""
  places = asyncio.Semaphore(collection.CONCURRENCY)
  tag = f'{name}-{time.monotonic_ns()}'  # No cache of a variant before.

  async def write(number: int, trajectory: types.Trajectory) -> None:
    async with places:
      for request in requests(trajectory, by_step=name == 'by_step'):
        await plain.write(
            trajectory.problem.question,
            *request,
            salt=f'{tag}-{number}-{request[0]}',
            **_ALONE[name],
        )

  start = time.perf_counter()
  await collect.together(itertools.starmap(write, enumerate(trajectories)))
  return time.perf_counter() - start


def make_engines(
    config: ml_collections.ConfigDict, settings: Mapping[str, int]
) -> list[engine_lib.Engine]:
  """Returns engines with other settings, or arguments of vLLM's."""
  settings = dict(settings)
  config = config.copy_and_resolve_references()
  if interval := settings.pop('stream_interval', 0):
    for route in config.routes:
      route['settings']['extra']['stream_interval'] = interval
  return collection.make_engines(config, speculates=True, **settings)


async def measure_driven(
    config: ml_collections.ConfigDict,
    problems: Sequence[types.Problem],
    engines: Sequence[engine_lib.Engine],
    plain: collection.PlainBatches,
    variant: tuple[driver.Router, int, Mapping[str, int]],
) -> tuple[float, list[types.Trajectory]]:
  """Returns the ratio to the plain batch of a variant, and its answers."""
  router, concurrency, _ = variant
  found, seconds = await collection.answer_all(
      config, problems, engines, router, concurrency
  )
  return await plain.seconds(found, **_ASKED) / seconds, found


def wasted(trajectories: Sequence[types.Trajectory]) -> float:
  """Returns the share of the written tokens that were cancelled."""
  written = sum(call.written for x in trajectories for call in x.calls)
  return 1.0 - collection.count_tokens(trajectories) / written


def read_again(trajectories: Sequence[types.Trajectory]) -> float:
  """Returns the share of prompt tokens that are read a second time.

  Args:
    trajectories: written by a request for each step.
  """
  read = again = 0
  for trajectory in trajectories:
    # What the model had read or written itself before a step of it, by route.
    known: dict[int, int] = {}
    for call in trajectory.calls:
      total = call.read + call.cached
      before = min(known.get(call.route, 0), total)
      read += call.read
      again += max(before - call.cached, 0)
      known[call.route] = total + call.written
  return again / read if read else 0.0


async def measure_rounds(
    config: ml_collections.ConfigDict,
    problems: Sequence[types.Problem],
    num_rounds: int,
) -> list[dict[str, float]]:
  """Returns the ratios and shares of each round."""
  plain = collection.PlainBatches(config)
  rounds = []
  async with contextlib.AsyncExitStack() as stack:
    stack.callback(plain.close)
    engines = {
        name: make_engines(config, settings)
        for name, (_, _, settings) in _DRIVEN.items()
    }
    engines['by_step'] = collection.make_engines(config, speculates=False)
    for engine in itertools.chain(*engines.values()):
      stack.push_async_callback(engine.close)
    for index in range(num_rounds + 1):
      row = {}
      for name, variant in _DRIVEN.items():
        row[name], found = await measure_driven(
            config, problems, engines[name], plain, variant
        )
        if name == 'routed':
          routed = found
      batch = await plain.seconds(routed, **_ASKED)
      for name in _ALONE:
        row[name] = batch / await alone(plain, routed, name)
      row['wasted'] = wasted(routed)
      found, _ = await collection.answer_all(
          config, problems, engines['by_step'], collection.ROUTER
      )
      row['read_again'] = read_again(found)
      if index:  # The first warms everything up.
        rounds.append(row)
        print(', '.join(f'{k} {x:.3f}' for k, x in row.items()), flush=True)
  return rounds


def main(argv: Sequence[str]) -> None:
  """Prints a line a round, then the JSON line."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  logging.set_verbosity(logging.WARNING)  # Or every call would be a line.
  config = arithmetic_vllm.get_config()
  builders.set_environment(config)
  problems = builders.problems(config, 'train')[: flags.FLAGS.problems]
  rounds = asyncio.run(measure_rounds(config, problems, flags.FLAGS.rounds))
  figures = {
      name: round(statistics.median(row[name] for row in rounds), 3)
      for name in rounds[0]
  }
  print(json.dumps({'problems': len(problems), **figures}))


if __name__ == '__main__':
  flags.DEFINE_integer('problems', 256, 'Answers per round.')
  flags.DEFINE_integer('rounds', 3, 'Rounds, after one that is not counted.')
  app.run(main)
