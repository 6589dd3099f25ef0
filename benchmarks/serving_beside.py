"""The service beside vLLM's own server and LiteLLM's proxy, on the same models.

Run by `benchmarks.serving` where vLLM is installed. Two of vLLM's servers run
the shipped pair on this machine's processor. The same kind of questions go

- to vLLM's server with the large model (`vllm`);
- to LiteLLM's proxy in front of it (`litellm`), if its command is given;
- to `experiments.serve` in front of both servers, to the large model (`large`);
- to the same, to a router (`router`). Its policy is untrained and hands over
  about half: for the time that it takes, what it has learnt plays no part.

With `--apart` the two servers of vLLM share the last core, and everything else
has the others. So the models take no time from the service, as where they run
on other machines or on a GPU.

Every side answers first one question at a time, then several streams, then
questions that come at random times, as many a second as are `_BUSY` of what it
has answered a second with several streams. Sides take turns in rounds, and no
question comes twice, so that no side profits from another's cache.
"""

import asyncio
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import subprocess
import time
from typing import Any

import jax
import ml_collections
import numpy as np

from benchmarks import load_client
from benchmarks import servers
from benchmarks import serving
from configs import arithmetic_servers
from configs import arithmetic_vllm
from experiments import builders
from routing.engines import back_ends
from routing.features import observation
from routing.features import standardize
from routing.policy import networks
from routing.routers import card as card_lib
from routing.routers import learned

_POINT = 'cost<=0.5'
_STREAMS, _ROUNDS = 16, 4
# Questions to each side before anything is measured: one of each kind a round.
_WARM_UP = 3 * _ROUNDS
_WITHOUT_KEY = 'LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY'
# Shares of the requests that are made one at a time, and with several streams;
# the others come at random times.
_ALONE, _TOGETHER = 0.2, 0.4
_BUSY = 0.7  # Of what a side can do, where requests come at random times.


def untrained_router(
    config: ml_collections.ConfigDict,
) -> learned.LearnedRouter:
  """Returns a router for a configuration, whose scores lie around 1/4."""
  features = observation.configure(
      config.features,
      num_routes=len(config.routes),
      max_decisions=builders.sampling(config).max_decisions,
      hidden_size=0,
  )
  fields = dict(kind='mlp', hidden=(64,), dropout=0.0)
  network = networks.make_network(fields, len(config.routes))
  params = jax.vmap(
      lambda key: networks.init_params(key, network, features.size)
  )(jax.random.split(jax.random.key(0), 1))
  # Or all scores would be the same.
  params[max(params)]['kernel'] *= 30
  card = card_lib.Card(
      specs=builders.specs(config),
      metric=config.cost_metric,
      reference=1.0,
      protocol=builders.protocol(config),
      features=features,
      network=fields,
      form='budget',
      levels=(0.5,),
  )
  statistics = standardize.Statistics(
      np.zeros(features.size, np.float32), np.ones(features.size, np.float32)
  )
  bare = learned.LearnedRouter(card, params, statistics)
  promise = dict(what='cost', level=0.5, delta=None, n=1, measured={})
  point = card_lib.OperatingPoint(_POINT, 0, 0.3, promise, bare.checkpoint_hash)
  return learned.LearnedRouter(card, params, statistics, [point])


@contextlib.contextmanager
def litellm_proxy(command: str, url: str, home: pathlib.Path) -> Iterator[str]:
  """Starts LiteLLM's proxy in front of a server; yields its address."""
  port = servers.free_port()
  config = home / 'litellm.yaml'
  # JSON is YAML.
  config.write_text(
      json.dumps(
          {
              'model_list': [
                  {
                      'model_name': 'large',
                      'litellm_params': {
                          'model': 'text-completion-openai/large',
                          'api_base': f'{url}/v1',
                          'api_key': 'none',
                      },
                  }
              ]
          }
      )
  )
  with (home / 'litellm.log').open('w') as log:
    process = subprocess.Popen(
        [command, '--config', str(config), '--host', '127.0.0.1']
        + ['--port', str(port)],
        stdout=log,
        stderr=log,
        # It listens on the loopback only, for as long as this runs.
        env=os.environ | {_WITHOUT_KEY: 'true'},
    )
  try:
    servers.wait_for(f'http://127.0.0.1:{port}', '/health/liveliness')
    yield f'http://127.0.0.1:{port}'
  finally:
    process.terminate()
    process.wait(timeout=60)


def _body(model: str, question: str, max_tokens: int) -> dict[str, Any]:
  """Returns the body of a request, the same for every side."""
  return {
      'model': model,
      'prompt': question,
      'max_tokens': max_tokens,
      'temperature': 0,
      'stream': True,
  }


def take_turns(
    sides: dict[str, tuple[str, str]],
    questions: Sequence[str],
    num_requests: int,
    max_tokens: int,
) -> dict[str, dict[str, Any]]:
  """Asks all sides in rounds; returns what is printed of each.

  Args:
    sides: name -> (address, model).
    questions: at least as many as there are requests in all.
    num_requests: number of requests to each side.
    max_tokens: of an answer.
  """
  left, draw = iter(questions), random.Random(0)
  found = {name: _Replies() for name in sides}
  per_round = max(num_requests // _ROUNDS, 1)
  parts = [
      max(round(share * per_round), 1)
      for share in (_ALONE, _TOGETHER, 1 - _ALONE - _TOGETHER)
  ]
  for _ in range(_ROUNDS):
    for kind, count in zip(('alone', 'together', 'coming'), parts, strict=True):
      for name, (url, model) in sides.items():
        bodies = [_body(model, next(left), max_tokens) for _ in range(count)]
        found[name].ask(kind, url + load_client.COMPLETIONS, bodies, draw)
  return {name: replies.to_json() for name, replies in found.items()}


@dataclasses.dataclass
class _Replies:
  """What one side has answered: one at a time, several, and at random times.

  seconds: that the streams took in all.
  """

  alone: list[load_client.Reply] = dataclasses.field(default_factory=list)
  together: list[load_client.Reply] = dataclasses.field(default_factory=list)
  coming: list[load_client.Reply] = dataclasses.field(default_factory=list)
  seconds: float = 0.0

  @property
  def rate(self) -> float:
    """Answers a second, with several streams."""
    return len(self.together) / self.seconds

  def ask(
      self,
      kind: str,
      url: str,
      bodies: Sequence[dict[str, Any]],
      draw: random.Random,
  ) -> None:
    """Sends requests in one of the three ways, which have been together."""
    if kind == 'coming':
      found, _ = asyncio.run(
          load_client.ask_as_they_come(url, bodies, _BUSY * self.rate, draw)
      )
      self.coming += found
      return
    start = time.perf_counter()
    streams = 1 if kind == 'alone' else _STREAMS
    found = asyncio.run(load_client.ask_all(url, bodies, streams=streams))
    getattr(self, kind).extend(found)
    if kind == 'together':
      self.seconds += time.perf_counter() - start

  def to_json(self) -> dict[str, Any]:
    """Returns what is printed."""
    every = [*self.alone, *self.together, *self.coming]
    found = {
        'lost': sum(not x.is_whole for x in every),
        'latency_p50': _median(self.alone, lambda x: x.seconds),
        'first_text_p50': _median(self.alone, lambda x: x.first),
        'latency_p50_together': _median(self.together, lambda x: x.seconds),
        'latency_p50_coming': _median(self.coming, lambda x: x.seconds),
        'answers_per_second': self.rate,
    }
    # What the service says that it has added to each step; others say nothing.
    if any(x.routing for x in self.alone):
      for name in ('alone', 'together', 'coming'):
        found[f'added_{name}'] = serving.added(getattr(self, name))
    return found


def _median(
    replies: Sequence[load_client.Reply],
    of: Callable[[load_client.Reply], float],
) -> float:
  return float(np.median(list(map(of, replies))))


def measure(
    num_requests: int, litellm: str, home: pathlib.Path, *, is_apart: bool
) -> dict[str, Any]:
  """Measures all sides; returns what is printed.

  Args:
    num_requests: to each side.
    litellm: the command of LiteLLM's proxy; '' = without it.
    home: a directory for files.
    is_apart: whether the models have a core of their own.

  Raises:
    ValueError: if the models are to have a core of their own, and there is one.
  """
  *others, last = sorted(os.sched_getaffinity(0))
  if is_apart and not others:
    raise ValueError('--apart needs two cores or more; this machine has one.')
  ours = arithmetic_vllm.get_config()
  builders.set_environment(ours)
  config = arithmetic_servers.get_config()
  config.problems.test = 4 * (num_requests + 2 * _WARM_UP)
  questions = [x.question for x in builders.problems(config, 'test')]
  untrained_router(config).save(home / 'router')
  words = [f'--config={arithmetic_servers.__file__}']
  words += [f'--router={home / "router"}']
  with contextlib.ExitStack() as stack:
    urls = [
        stack.enter_context(
            servers.serve(
                route.name,
                route.folder,
                back_ends.settings(route),
                [last] if is_apart else (),
            )
        )
        for route in builders.routes(ours)
    ]
    for i, url in enumerate(urls):
      servers.wait_for(url)
      words += [f'--config.routes[{i}].settings.base_url={url}/v1']
    service = stack.enter_context(
        servers.serve_router(
            words, home / 'beside.log', others if is_apart else ()
        )
    )
    if is_apart:  # The client, and the proxy that it starts.
      os.sched_setaffinity(0, others)
      stack.callback(os.sched_setaffinity, 0, [*others, last])
    sides = {'vllm': (urls[-1], 'large')}
    if litellm:
      proxy = stack.enter_context(litellm_proxy(litellm, urls[-1], home))
      sides['litellm'] = proxy, 'large'
    sides['large'] = service.url, 'large'
    sides['router'] = service.url, f'router@{_POINT}'
    limit = builders.sampling(config).max_tokens
    take_turns(sides, questions[-_WARM_UP * len(sides) :], _ROUNDS, limit)
    return take_turns(sides, questions, num_requests, limit)
