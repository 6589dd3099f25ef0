"""Whether what is served equals what was evaluated, problem by problem.

Run: python -m benchmarks.served_answers --config=configs/arithmetic.py

Test problems are answered twice at an operating point: by the driver, as live
evaluation does, and over HTTP by the service. Prints JSON last: the number of
problems, and of those with another text, another decision or another cost; and
the largest difference of a score: models and policy round otherwise in batches
of other sizes.
"""

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Sequence
import contextlib
import json
import time
from typing import Any

from absl import flags
import httpx
import ml_collections
import uvicorn

from experiments import builders
from experiments import command_line
from experiments import records_on_disk
from experiments import serve
from routing import costs
from routing import types
from routing.outcomes import live_answers
from routing.rollout import driver
from routing.routers import learned
from routing.serving import answering
from routing.serving import app as app_lib
from routing.serving import keys as keys_lib
from routing.serving import monitoring

# Latency is measured, and no two answers take equally long.
_METRICS = tuple(x for x in costs.COST_METRICS if x != 'latency')


async def evaluated(
    answering_: live_answers.Answering,
    router: driver.Router,
    problems: Sequence[types.Problem],
) -> list[types.Trajectory]:
  """Returns the trajectories of the problems, as live evaluation makes them."""
  engines = answering_.make_engines()
  turns = asyncio.Semaphore(answering_.concurrency)

  async def answer(problem):
    async with turns:
      return await driver.answer(
          problem,
          router,
          engines,
          protocol=answering_.protocol,
          accounting=answering_.accounting,
          grade=answering_.grade,
          seed=answering_.seed,
          sampling=answering_.sampling,
      )

  try:
    return await asyncio.gather(*map(answer, problems))
  finally:
    for engine in engines:
      await engine.close()


@contextlib.asynccontextmanager
async def listening(service: answering.Service) -> AsyncIterator[str]:
  """Serves over HTTP in this event loop; yields the address."""
  listener = serve.bind('127.0.0.1', 0)
  app = app_lib.create(service, keys_lib.Keyring())
  server = uvicorn.Server(
      uvicorn.Config(app, log_config=None, access_log=False, lifespan='off')
  )
  task = asyncio.create_task(server.serve(sockets=[listener]))
  try:
    yield f'http://127.0.0.1:{listener.getsockname()[1]}'
  finally:
    server.should_exit = True
    await task


async def served(
    service: answering.Service, point: str, problems: Sequence[types.Problem]
) -> list[dict[str, Any]]:
  """Returns the bodies of the responses to the problems, over HTTP."""
  turns = asyncio.Semaphore(service.settings.concurrency)
  async with listening(service) as url:
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:

      async def ask(problem):
        body = {
            'model': f'router@{point}',
            'messages': [{'role': 'user', 'content': problem.question}],
        }
        async with turns:
          response = await client.post('/v1/chat/completions', json=body)
        return response.raise_for_status().json()

      return await asyncio.gather(*map(ask, problems))


def differences(
    trajectory: types.Trajectory,
    response: dict[str, Any],
    specs: Sequence[costs.RouteSpec],
) -> dict[str, Any]:
  """Returns which of text, decisions and costs differ, and the scores' most."""
  routing = response['routing']
  rows = routing['steps']
  decided = [row for row in rows if row['score'] is not None]
  writers = [specs[step.route].name for step in trajectory.steps]
  cost = {
      metric: costs.total_cost(trajectory.calls, specs, metric)
      for metric in _METRICS
  }
  return {
      'text': trajectory.text != response['choices'][0]['message']['content'],
      'decisions': [row['model'] for row in rows] != writers
      or [specs[x.route].name for x in trajectory.decisions]
      != [row['model'] for row in decided],
      'cost': any(cost[x] != routing['cost'][x] for x in _METRICS),
      'score': max(
          (
              abs(x.score - row['score'])
              for x, row in zip(trajectory.decisions, decided, strict=False)
          ),
          default=0.0,
      ),
  }


def compare(
    config: ml_collections.ConfigDict,
    router: learned.LearnedRouter,
    point: str,
    count: int,
) -> dict[str, Any]:
  """Returns the figures that are printed, for the first `count` problems."""
  problems = builders.problems(config, 'test')[:count]
  answering_ = records_on_disk.answering(config, router.card)

  async def both():
    wanted = await evaluated(answering_, router.at(point), problems)
    start = time.perf_counter()
    async with serve.open_service(config, router, None) as service:
      found = await served(service, point, problems)
    return wanted, found, time.perf_counter() - start

  wanted, found, seconds = asyncio.run(both())
  rows = [
      differences(x, y, router.card.specs)
      for x, y in zip(wanted, found, strict=True)
  ]
  return {
      'point': point,
      'problems': len(rows),
      'handed_over': sum(
          any(x.route for x in trajectory.steps) for trajectory in wanted
      ),
      **{
          f'{what}_differs': sum(row[what] for row in rows)
          for what in ('text', 'decisions', 'cost')
      },
      'max_score_difference': max(row['score'] for row in rows),
      'seconds_served': round(seconds, 2),
  }


def main(
    config: ml_collections.ConfigDict, router: str, problems: int, point: str
) -> None:
  """Prints the comparison."""
  monitoring.LOG.setLevel('WARNING')  # Or there is a line per request.
  print(json.dumps(compare(config, learned.load(router), point, problems)))


if __name__ == '__main__':
  flags.DEFINE_string('router', 'shipped', "A directory, or 'shipped'.")
  flags.DEFINE_integer('problems', 200, 'Number of test problems.')
  flags.DEFINE_string('point', 'loss<=0.1@0.9', 'Operating point.')
  command_line.run(main, 'config', 'router', 'problems', 'point')
