"""Whether a service keeps its promise of loss, and notices when it cannot.

Run: python -m benchmarks.served_promise --config=configs/arithmetic.py

Questions that nothing was fitted to are drawn with replacement from a pool, and
asked over HTTP; every answer gets its feedback, which is the right answer. The
largest model alone answers each question as well, in the background, so that
losses are known: an answer is lost if it is wrong and that model's is right.

1. `router@online` answers a stream, and the mean loss is compared with alpha.
2. An operating point with a promised loss answers a quiet stream; its drift
   alarm should stay silent. Then the questions become harder: those that are
   lost at this point are drawn `--harder` times as often, which breaks the
   promise. Counted are the answers until the alarm.
3. `router@online` goes on with the harder questions; again the mean loss of its
   whole stream is compared with alpha.

Greedy replies are remembered, so that only the first time that a model sees a
text takes its computing time. Prints JSON last.
"""

import asyncio
from collections.abc import Sequence
import dataclasses
import json
import random
import time
from typing import Any

from absl import flags
import aiohttp
import ml_collections

from benchmarks import load_client
from benchmarks import served_answers
from experiments import builders
from experiments import command_line
from experiments import records_on_disk
from experiments import serve
from routing import types
from routing.engines import memoized
from routing.grading import equivalence
from routing.routers import learned
from routing.serving import answering
from routing.serving import monitoring
from routing.serving import points as points_lib
from routing.serving import store as store_lib

_BLOCK = 16  # Answers asked for at once; their feedback comes after the last.


@dataclasses.dataclass
class Pool:
  """The questions of a stream.

  problems: the problems.
  is_right: name -> for each problem, whether what is called so is right: a
    model alone, or an operating point.
  """

  problems: Sequence[types.Problem]
  is_right: dict[str, list[bool]] = dataclasses.field(default_factory=dict)

  def draw(
      self,
      rng: random.Random,
      count: int,
      names: tuple[str, str],
      harder: float,
  ) -> list[int]:
    """Returns indices of problems, drawn with replacement.

    Args:
      rng: draws.
      count: number of draws.
      names: of an operating point, and of the largest model.
      harder: how many times as often problems are drawn that the point gets
        wrong and this model right.
    """
    point, large = (self.is_right[name] for name in names)
    weights = [
        harder if other and not one else 1.0
        for one, other in zip(point, large, strict=True)
    ]
    return rng.choices(range(len(self.problems)), weights, k=count)


class Client:
  """Asks a service, grades its answers and gives feedback.

  Args:
    session: of the client.
    url: of the service.
    service: the service; its answers in the background are waited for.
    pool: the problems.
    grade: the task's grader.
  """

  def __init__(
      self,
      session: aiohttp.ClientSession,
      url: str,
      service: answering.Service,
      pool: Pool,
      grade: equivalence.Grader,
  ):
    self._session, self._url = session, url
    self._service, self._pool, self._grade = service, pool, grade
    self.names = [spec.name for spec in service.specs]

  async def ask_pool(self, model: str) -> None:
    """Has the whole pool answered, and notes where the answers are right."""
    indices = range(len(self._pool.problems))
    replies = await self._ask(model, indices)
    self._pool.is_right[model] = [
        self._is_right(i, reply)
        for i, reply in zip(indices, replies, strict=True)
    ]

  async def stream(
      self, model: str, indices: Sequence[int], until_alarm: str | None = None
  ) -> list[bool]:
    """Asks for answers to problems, with feedback; returns which were lost.

    Args:
      model: that answers.
      indices: of the problems.
      until_alarm: a point; the stream ends when its drift alarm is raised.
    """
    lost = []
    large = self._pool.is_right[self.names[-1]]
    for start in range(0, len(indices), _BLOCK):
      block = indices[start : start + _BLOCK]
      replies = await self._ask(model, block)
      await self._service.close()  # Waits for the answers in the background.
      for i, reply in zip(block, replies, strict=True):
        lost.append(large[i] and not self._is_right(i, reply))
        await self._give_feedback(i, reply)
        if until_alarm is not None and await self.has_alarm(until_alarm):
          return lost
    return lost

  async def has_alarm(self, point: str) -> bool:
    """Returns whether the drift alarm of a point was raised."""
    async with self._session.get(f'{self._url}/metrics') as response:
      text = await response.text()
    return f'routing_drift_alarm{{point="{point}"}} 1.0' in text

  async def _ask(
      self, model: str, indices: Sequence[int]
  ) -> list[load_client.Reply]:
    """Returns the replies to problems, which are asked for at once."""
    turns = asyncio.Semaphore(_BLOCK)

    async def ask(index: int) -> load_client.Reply:
      body = load_client.chat(
          model, self._pool.problems[index].question, stream=False
      )
      async with turns:
        return await load_client.ask(
            self._session, self._url + load_client.CHAT, body
        )

    replies = await asyncio.gather(*map(ask, indices))
    for reply in replies:
      if not reply.is_whole:
        raise RuntimeError(f'{model} gave no answer: {reply.error}')
    return replies

  def _is_right(self, index: int, reply: load_client.Reply) -> bool:
    problem = self._pool.problems[index]
    return self._grade(reply.text, problem.answer, problem.meta).is_correct

  async def _give_feedback(self, index: int, reply: load_client.Reply) -> None:
    """Posts the right answer."""
    body = {
        'id': reply.routing['id'],
        'answer': self._pool.problems[index].answer,
    }
    async with self._session.post(
        f'{self._url}/v1/feedback', json=body
    ) as response:
      if response.status != 200:
        raise RuntimeError(f'Feedback was refused: {await response.text()}')


async def measure(
    service: answering.Service,
    pool: Pool,
    grade: equivalence.Grader,
    *,
    point: str,
    answers: int,
    quiet: int,
    harder: float,
    seed: int,
) -> dict[str, Any]:
  """Asks the streams of the module; returns what is printed.

  Args:
    service: with `online_alpha`, and a shadow for every answer.
    pool: the problems.
    grade: the task's grader.
    point: with a promised loss, whose alarm is watched.
    answers: of `router@online`, before the shift and after it.
    quiet: answers of the point before the shift.
    harder: see `Pool.draw`.
    seed: of the draws.
  """
  rng, start = random.Random(seed), time.perf_counter()
  alpha = service.settings.online_alpha
  async with served_answers.listening(service) as url:
    async with load_client.client() as session:
      client = Client(session, url, service, pool, grade)
      small, large = client.names[0], client.names[-1]
      name = f'{points_lib.ROUTER}@{point}'
      for model in (small, large, name):
        await client.ask_pool(model)

      def draw(count: int, weight: float) -> list[int]:
        return pool.draw(rng, count, (name, large), weight)

      before = await client.stream(points_lib.ONLINE, draw(answers, 1.0))
      calm = await client.stream(name, draw(quiet, 1.0))
      is_false = await client.has_alarm(point)
      stormy = await client.stream(name, draw(10 * quiet, harder), point)
      has_alarm = await client.has_alarm(point)
      after = await client.stream(points_lib.ONLINE, draw(answers, harder))
  return {
      'alpha': alpha,
      'answers': len(before),
      'loss': _mean(before),
      'points_off': round(100 * (_mean(before) - alpha), 3),
      'answers_with_shift': len(before) + len(after),
      'loss_with_shift': _mean(before + after),
      'points_off_with_shift': round(100 * (_mean(before + after) - alpha), 3),
      'point': point,
      'quiet_answers': len(calm),
      'quiet_loss': _mean(calm),
      'false_alarm': is_false,
      'loss_after_shift': _mean(stormy),
      'alarm_after': len(stormy) if has_alarm else None,
      'accuracy': {x: _mean(pool.is_right[x]) for x in (small, large)},
      'questions': len(pool.problems),
      'seconds': round(time.perf_counter() - start, 1),
  }


def _mean(values: Sequence[bool]) -> float:
  return round(sum(values) / max(len(values), 1), 5)


def run(
    config: ml_collections.ConfigDict,
    router: learned.LearnedRouter,
    *,
    questions: int,
    alpha: float,
    **kwargs: Any,
) -> dict[str, Any]:
  """Opens the service of a configuration, and measures; see `measure`."""
  given = dataclasses.replace(
      serve.settings(config), online_alpha=alpha, shadow_share=1.0
  )
  config.problems.test = questions
  pool = Pool(builders.problems(config, 'test'))
  engines = [
      memoized.MemoizedEngine(
          engine, memoized.Memory(keeps_hidden=engine.route == 0)
      )
      for engine in builders.engines(config)
  ]

  async def measured():
    service = answering.Service(
        records_on_disk.answering(config, router.card),
        engines,
        router,
        given,
        store_lib.Store(None, given.keep_answers),
    )
    service.batches.warm_up()
    try:
      return await measure(service, pool, builders.grader(config), **kwargs)
    finally:
      for engine in engines:
        await engine.close()

  return asyncio.run(measured())


def main(
    config: ml_collections.ConfigDict,
    router: str,
    questions: int,
    answers: int,
    quiet: int,
    harder: float,
    alpha: float,
    point: str,
    seed: int,
) -> None:
  """Prints what was measured."""
  monitoring.LOG.setLevel('ERROR')  # Or there is a line per request.
  print(
      json.dumps(
          run(
              config,
              learned.load(router),
              questions=questions,
              alpha=alpha,
              point=point,
              answers=answers,
              quiet=quiet,
              harder=harder,
              seed=seed,
          )
      )
  )


if __name__ == '__main__':
  flags.DEFINE_string('router', 'shipped', "A directory, or 'shipped'.")
  flags.DEFINE_integer('questions', 1_000, 'Questions of the pool.', 1)
  flags.DEFINE_integer('answers', 4_000, 'Of router@online, per stream.', 1)
  flags.DEFINE_integer('quiet', 500, 'Answers before the shift.', 1)
  flags.DEFINE_float('harder', 5.0, 'Weight of what is lost at the point.', 1)
  flags.DEFINE_float('alpha', 0.05, 'Loss that router@online keeps.', 0, 1)
  flags.DEFINE_string('point', 'loss<=0.05@0.9', 'Whose alarm is watched.')
  flags.DEFINE_integer('seed', 0, 'Seed of the draws.')
  command_line.run(
      main,
      *('config', 'router', 'questions', 'answers', 'quiet', 'harder'),
      *('alpha', 'point', 'seed'),
  )
