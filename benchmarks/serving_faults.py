"""A service in trouble: every request ends, the ledger has every token.

Run: python -m benchmarks.serving_faults --config=configs/arithmetic.py

Back ends are killed and come back, answer slowly, close connections and refuse
requests; clients go away in the middle, or ask for what there is not. All of it
is drawn at random, with a seed. Afterwards

- each request of a client that stayed has ended: in an answer, which is the one
  that the model or the point that is named gives without faults (or another, if
  a score of it lies within .002 of its threshold, where rounding decides), or
  in an error that has a code and says what is wrong, and never an error of the
  service's own (500);
- what the ledger says was read, cached and written by each model is what its
  engine has counted, to the token;
- nothing is left running, waiting or open.

Prints JSON last: how many requests ended how, what faults they met, the tokens
by ledger and by engines, and `wrong`, what must not have happened; the command
fails if there is anything.
"""

import asyncio
import collections
from collections.abc import Sequence
import dataclasses
import json
import random
import time
from typing import Any

from absl import flags
import aiohttp
import ml_collections

from benchmarks import counted_engines
from benchmarks import load_client
from benchmarks import served_answers
from benchmarks import troubled_engines
from experiments import builders
from experiments import command_line
from experiments import records_on_disk
from experiments import serve
from routing.routers import learned
from routing.serving import answering
from routing.serving import keys as keys_lib
from routing.serving import monitoring
from routing.serving import store as store_lib

# What a client may be told, by code: nothing else is clear.
_CLEAR = {
    'back_end_down': 503,
    'question_refused': 400,
    'queue_full': 429,
    'model_not_found': 404,
    'unsupported_parameter': 400,
    'invalid_value': 400,
}
_WAIT = 0.2  # Seconds until a back end that failed is tried again.
_PATIENCE = 120.0  # Seconds after which a request has not ended.


@dataclasses.dataclass(frozen=True)
class Request:
  """A request of the storm.

  body: what is sent.
  is_bad: whether it asks for what there is not.
  leave_after: see `load_client.ask`.
  pause: seconds before it is sent.
  """

  body: dict[str, Any]
  is_bad: bool = False
  leave_after: int | None = None
  pause: float = 0.0


def draw(
    rng: random.Random, models: Sequence[str], questions: Sequence[str]
) -> Request:
  """Returns a random request."""
  body = load_client.chat(
      rng.choice(models), rng.choice(questions), stream=rng.random() < 0.7
  )
  if rng.random() < 0.06:
    bad = rng.choice(
        [
            {'tools': [{'type': 'function'}]},
            {'model': 'router@loss<=0.9'},
            {'temperature': -1},
            {'messages': []},
        ]
    )
    return Request(body | bad, is_bad=True)
  leave_after = None
  if rng.random() < 0.12:
    leave_after = rng.randrange(4)
  return Request(body, False, leave_after, rng.uniform(0, 0.02))


async def storm(
    url: str, asked: Sequence[Request], streams: int
) -> list[load_client.Reply | None]:
  """Sends all requests; returns their replies, None for one without an end."""
  replies: list[load_client.Reply | None] = [None] * len(asked)
  left = iter(enumerate(asked))

  async with load_client.client() as session:

    async def work():
      for i, request in left:
        await asyncio.sleep(request.pause)
        replies[i] = await _ended(session, url, request)
        if _code(replies[i]) == 'back_end_down':
          await asyncio.sleep(_WAIT)  # As it is told to.

    await asyncio.gather(*(work() for _ in range(streams)))
  return replies


async def _ended(
    session: aiohttp.ClientSession, url: str, request: Request
) -> load_client.Reply | None:
  try:
    async with asyncio.timeout(_PATIENCE):
      return await load_client.ask(
          session, url, request.body, request.leave_after
      )
  except TimeoutError:
    return None


def _code(reply: load_client.Reply | None) -> str | None:
  """Returns the code of the error that a reply is; None = it is none."""
  if reply is None or not isinstance(reply.error, dict):
    return None
  return reply.error.get('code')


def how(
    request: Request,
    reply: load_client.Reply | None,
    answers: dict[tuple[str, str], str],
) -> tuple[str, str | None]:
  """Returns how a request ended, and what is wrong with that; None = nothing.

  Args:
    request: the request.
    reply: what came back.
    answers: (model, question) -> the answer without faults.
  """
  if reply is None:
    return 'no end', f'no end within {_PATIENCE} s'
  if request.leave_after is not None and not reply.is_whole:
    return 'client gone', None
  if reply.is_whole:
    question = (request.body['messages'] or [{'content': ''}])[0]['content']
    wanted = answers.get((reply.model, question))
    is_right = not request.is_bad and reply.text == wanted
    if not request.is_bad and not is_right and _is_close_call(reply):
      return 'answer by another decision', None
    return 'answer', None if is_right else f'{reply.model}: {reply.text!r}'
  error, code = reply.error, _code(reply)
  if code is None or not error.get('message'):
    return 'no error', f'ended with status {reply.status} and {error!r}'
  # The status of a stream that has begun is 200.
  if code not in _CLEAR or reply.status not in (200, _CLEAR[code]):
    return f'error {code}', f'status {reply.status}, {error}'
  if request.is_bad and code in ('back_end_down', 'queue_full'):
    return f'error {code}', f'a bad request got {code}'
  return f'error {code}', None


def _is_close_call(reply: load_client.Reply) -> bool:
  """Returns whether rounding may have changed a decision of an answer.

  The hidden states that the policy observes depend a little on who shares a
  batch of the small model.
  """
  return any(
      row['score'] is not None and abs(row['score'] - row['threshold']) < 2e-3
      for row in reply.routing['steps']
  )


async def run(
    service: answering.Service,
    engines: Sequence[troubled_engines.TroubledEngine],
    counters: Sequence[counted_engines.Counts],
    questions: Sequence[str],
    *,
    num_requests: int,
    streams: int,
    seed: int,
) -> dict[str, Any]:
  """Asks a service in trouble; returns what is printed.

  Args:
    service: of the engines; it must not have answered yet.
    engines: in trouble only while this runs.
    counters: what each engine has counted.
    questions: that are asked.
    num_requests: number of requests in trouble.
    streams: of requests at once.
    seed: of everything that is drawn.
  """
  rng = random.Random(seed)
  models = [x for x, _ in service.points.models() if x != 'router']
  asked = [draw(rng, models, questions) for _ in range(num_requests)]
  async with served_answers.listening(service) as url:
    url += load_client.CHAT
    answers = await _answers(url, models, questions, streams)
    for engine in engines:
      engine.is_calm = False
    start = time.perf_counter()
    replies = await storm(url, asked, streams)
    seconds = time.perf_counter() - start
    while service.room.num_running:
      await asyncio.sleep(0.01)
  await service.close()
  ends, wrong = collections.Counter(), []
  for request, reply in zip(asked, replies, strict=True):
    end, fault = how(request, reply, answers)
    ends[end] += 1
    wrong += [] if fault is None else [fault[:300]]
  tokens = _tokens(service, counters)
  return {
      'requests': num_requests,
      'ends': dict(ends.most_common()),
      'faults': {x.name: dict(x.counts) for x in engines},
      'tokens': tokens,
      'wrong': wrong + _left_over(service) + _unpaid(tokens),
      'seconds': round(seconds, 1),
  }


async def _answers(
    url: str, models: Sequence[str], questions: Sequence[str], streams: int
) -> dict[tuple[str, str], str]:
  """Returns (model, question) -> answer of a service without faults."""
  pairs = [(model, question) for model in models for question in questions]
  replies = await load_client.ask_all(
      url, [load_client.chat(*pair) for pair in pairs], streams=streams
  )
  for pair, reply in zip(pairs, replies, strict=True):
    if not reply.is_whole:
      raise RuntimeError(f'{pair} got no answer without faults: {reply.error}')
  return {pair: reply.text for pair, reply in zip(pairs, replies, strict=True)}


def _tokens(
    service: answering.Service, counters: Sequence[counted_engines.Counts]
) -> dict[str, dict[str, dict[str, int]]]:
  """Returns model -> who counts -> kind -> tokens."""
  found = {}
  for spec, counts in zip(service.specs, counters, strict=True):
    paid = collections.Counter()
    for owner in (keys_lib.ANYONE, keys_lib.SHADOW):
      paid.update(service.ledger.used(owner).get(spec.name, {}))
    by_engine = dataclasses.asdict(counts)
    found[spec.name] = {
        'ledger': {kind: int(paid[kind]) for kind in by_engine},
        'engine': by_engine,
    }
  return found


def _unpaid(tokens: dict[str, dict[str, dict[str, int]]]) -> list[str]:
  """Returns a line for each model whose tokens are not those paid for."""
  return [
      f'{name}: {sides}'
      for name, sides in tokens.items()
      if sides['ledger'] != sides['engine']
  ]


def _left_over(service: answering.Service) -> list[str]:
  """Returns a line for each thing that has not ended."""
  room = service.room
  return [
      f'{count} answers {what}'
      for what, count in (
          ('run', room.num_running),
          ('wait', room.num_waiting),
      )
      if count
  ]


def measure(
    config: ml_collections.ConfigDict,
    router: learned.LearnedRouter,
    *,
    num_requests: int,
    num_questions: int,
    streams: int,
    seed: int,
    chances: troubled_engines.Chances,
) -> dict[str, Any]:
  """Opens a service of embedded engines in trouble, and runs the storm."""
  given = dataclasses.replace(
      serve.settings(config),
      retry_down_after=_WAIT,
      shadow_share=0.1,
      queue=streams,
  )
  bare = builders.engines(config)
  counters = list(map(counted_engines.count, bare))
  troubled = [
      troubled_engines.TroubledEngine(engine, chances, seed) for engine in bare
  ]
  questions = [x.question for x in builders.problems(config, 'test')]

  async def run_all():
    store = store_lib.Store(None, given.keep_answers)
    engines = serve.with_retries(config, given, troubled)
    service = answering.Service(
        records_on_disk.answering(config, router.card),
        engines,
        router,
        given,
        store,
        random.Random(seed),
    )
    service.batches.warm_up()
    try:
      return await run(
          service,
          troubled,
          counters,
          questions[:num_questions],
          num_requests=num_requests,
          streams=streams,
          seed=seed,
      )
    finally:
      for engine in engines:
        await engine.close()

  return asyncio.run(run_all())


def main(
    config: ml_collections.ConfigDict,
    router: str,
    requests: int,
    streams: int,
    seed: int,
) -> None:
  """Prints what came of it; raises ValueError if anything is wrong."""
  monitoring.LOG.setLevel('CRITICAL')  # Or there is a line per request.
  found = measure(
      config,
      learned.load(router),
      num_requests=requests,
      num_questions=100,
      streams=streams,
      seed=seed,
      chances=troubled_engines.Chances(),
  )
  print(json.dumps(found))
  if found['wrong']:
    raise ValueError(f'{len(found["wrong"])} things went wrong; see above.')


if __name__ == '__main__':
  flags.DEFINE_string('router', 'shipped', "A directory, or 'shipped'.")
  flags.DEFINE_integer('requests', 2_000, 'Number of requests.', 1)
  flags.DEFINE_integer('streams', 64, 'Requests at a time.', 1)
  flags.DEFINE_integer('seed', 0, 'Seed of faults and clients.')
  command_line.run(main, 'config', 'router', 'requests', 'streams', 'seed')
