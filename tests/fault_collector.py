"""Collects from two servers, as a process that may be killed: for tests.

Run: python -m tests.fault_collector DIRECTORY SMALL_URL LARGE_URL
"""

import asyncio
import functools
import sys

from experiments import unattended_collection
from routing import types
from routing.engines import endpoint as endpoint_lib
from routing.engines import engine as engine_lib
from routing.engines import openai
from routing.engines import resilience
from routing.grading import equivalence
from routing.rollout import collect
from routing.rollout import step_requests
from routing.shards import writer as writer_lib
from routing.tasks import prompt as prompt_lib
from tests import scripted_pair

NUM_PROBLEMS, SHARD_SIZE = 500, 10
COLLECT = functools.partial(
    collect.collect_ladders,
    plan=collect.Plan(step_requests.Sampling()),
    grade=equivalence.exact,
)


class Letters:
  """A prompter of which a token is a letter, as in the scripted engine."""

  prompt = prompt_lib.Prompt()
  opening = ''

  def ids(self, question: str, trace: str = '') -> list[int]:
    """The letters."""
    return list(map(ord, question + trace))

  def decode_tokens(self, prompt, ids) -> list[str]:
    """The letters again."""
    del prompt
    return list(map(chr, ids))


def make_problems() -> list[types.Problem]:
  """Problems of 1 or 2 steps."""
  problems = scripted_pair.make_problems(3 * NUM_PROBLEMS)
  return [p for i, p in enumerate(problems) if i % 5 < 2][:NUM_PROBLEMS]


def collect_all(directory: str, urls: list[str]) -> None:
  """Collects what is missing."""
  problems = make_problems()
  engines = [
      openai.OpenAIEngine(
          name,
          route,
          endpoint_lib.Endpoint(
              url, 'm', is_vllm=True, num_log_probs=2, timeout=3.0
          ),
          prompter=Letters(),
      )
      for route, (name, url) in enumerate(zip(('s', 'l'), urls, strict=True))
  ]
  limits = resilience.Limits(
      requests=16, attempts=50, first_wait=0.01, longest_wait=0.1
  )
  with writer_lib.LadderWriter(directory, problems, {}, SHARD_SIZE) as writer:
    asyncio.run(
        unattended_collection.collect_missing(
            COLLECT,
            problems,
            engines,
            writer,
            specs=scripted_pair.SPECS,
            concurrency=32,
            limits=limits,
        )
    )


if __name__ == '__main__':
  try:
    collect_all(sys.argv[1], sys.argv[2:])
  except engine_lib.Stop as error:
    sys.exit(str(error))
