"""How fast ladders are collected, and what makes it fast.

Run: python -m benchmarks.ladders [--problems=1000]
Times, on the shipped pair: micro-batched collection with reuse of known
completions, the same without reuse, and one problem at a time. The last line is
a JSON object: `seconds_per_1000`, `ratio_to_no_reuse`, `ratio_to_sequential`.
"""

import asyncio
from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import json
import time

from absl import app
from absl import flags

from configs import arithmetic
from experiments import builders
from routing import types
from routing.rollout import collect

_SEQUENTIAL_SHARE = 20  # One problem at a time is slow: a twentieth will do.


def seconds_per_problem(
    problems: Sequence[types.Problem],
    *,
    reuse: bool,
    concurrency: int,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
  """Collects the ladders of `problems` and throws them away."""
  config = arithmetic.get_config()
  plan = dataclasses.replace(builders.plan(config), reuse=reuse)

  async def run() -> float:
    engines = builders.engines(config)

    async def pass_over(some: Sequence[types.Problem], at_once: int) -> float:
      start = clock()
      await collect.collect_ladders(
          some,
          engines,
          lambda index, ladder: None,
          plan=plan,
          grade=builders.grader(config),
          concurrency=at_once,
      )
      return (clock() - start) / len(some)

    try:
      warm_up = problems[: 2 * concurrency]  # Compiles every shape.
      await pass_over(warm_up, concurrency)
      return await pass_over(problems, concurrency)
    finally:
      for engine in engines:
        await engine.close()

  return asyncio.run(run())


def measure(
    num_problems: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
  """The figures of the last line; `clock` gives seconds."""
  config = arithmetic.get_config()
  problems = builders.problems(config, 'train')[:num_problems]
  concurrency = config.collect.concurrency
  batched = seconds_per_problem(
      problems, reuse=True, concurrency=concurrency, clock=clock
  )
  print(f'batched, with reuse  {batched:.4f} s per problem')
  plain = seconds_per_problem(
      problems, reuse=False, concurrency=concurrency, clock=clock
  )
  print(f'batched, no reuse    {plain:.4f} s per problem')
  few = problems[: max(num_problems // _SEQUENTIAL_SHARE, 1)]
  single = seconds_per_problem(few, reuse=True, concurrency=1, clock=clock)
  print(f'one at a time        {single:.4f} s per problem')
  return {
      'problems': len(problems),
      'seconds_per_1000': round(1_000 * batched, 1),
      'ratio_to_no_reuse': round(plain / batched, 2),
      'ratio_to_sequential': round(single / batched, 2),
  }


def main(argv: Sequence[str]) -> None:
  """Prints the table, then the JSON line."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  print(json.dumps(measure(flags.FLAGS.problems)))


if __name__ == '__main__':
  flags.DEFINE_integer('problems', 1_000, 'Ladders per measurement.')
  app.run(main)
