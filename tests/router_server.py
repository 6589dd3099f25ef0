"""Serves routers over HTTP on loopback, for tests: scripted or embedded."""

import asyncio
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import socket
import threading

import httpx
import jax
import numpy as np
import uvicorn

from routing import costs
from routing import protocols
from routing.features import observation
from routing.features import standardize
from routing.grading import equivalence
from routing.outcomes import live_answers
from routing.policy import networks
from routing.rollout import driver
from routing.routers import card as card_lib
from routing.routers import learned
from routing.serving import answering
from routing.serving import app as app_lib
from routing.serving import keys as keys_lib
from routing.serving import settings as settings_lib
from routing.serving import store as store_lib
from tests import scripted_pair

_SPECS = scripted_pair.SPECS[:2]
_FEATURES = observation.FeatureConfig(
    groups=('confidence', 'progress', 'text'),
    num_routes=2,
    max_decisions=8,
    hidden_size=0,
    question_width=8,
    step_width=8,
)


def make_router(thresholds=(0.4, 0.5, 0.6)) -> learned.LearnedRouter:
  """Returns an untrained router for the scripted pair, with five points.

  Args:
    thresholds: of the first three points, the dearest first.
  """
  fields = dict(kind='mlp', hidden=(8,), dropout=0.0)
  network = networks.make_network(fields, 2)
  params = jax.vmap(
      lambda key: networks.init_params(key, network, _FEATURES.size)
  )(jax.random.split(jax.random.key(0), 2))
  last = sorted(name for name in params if name.startswith('Dense'))[-1]
  params[last]['kernel'] *= 30  # Or all scores would be about 1/2.
  card = card_lib.Card(
      specs=_SPECS,
      metric='price',
      reference=1e-4,
      protocol=protocols.Protocol('escalate', 'peek'),
      features=_FEATURES,
      network=fields,
      form='budget',
      levels=(0.3, 0.6),
  )
  rng = np.random.default_rng(0)
  statistics = standardize.Statistics(
      rng.normal(0, 0.2, size=_FEATURES.size).astype(np.float32),
      np.full(_FEATURES.size, 0.3, np.float32),
  )
  made = learned.LearnedRouter(card, params, statistics)
  promised = [
      ('loss', 0.02, 0.1, thresholds[0], dict(accuracy=0.9, cost=0.9)),
      ('loss', 0.05, 0.1, thresholds[1], dict(accuracy=0.8, cost=0.7)),
      ('cost', 0.5, None, thresholds[2], dict(accuracy=0.7, cost=0.45)),
      ('cost', 0.3, None, 2.0, dict(accuracy=0.6, cost=0.3)),
      ('loss', 0.3, 0.1, 0.0, dict(accuracy=0.95, cost=1.1)),
  ]
  points = [
      card_lib.OperatingPoint(
          f'{what}<={level:g}' + ('@0.9' if delta else ''),
          index % 2,
          threshold,
          dict(what=what, level=level, delta=delta, n=100, measured=measured),
          made.checkpoint_hash,
      )
      for index, (what, level, delta, threshold, measured) in enumerate(
          promised
      )
  ]
  return learned.LearnedRouter(card, params, statistics, points)


def make_answering(router: learned.LearnedRouter) -> live_answers.Answering:
  """Returns how the scripted pair answers."""
  return live_answers.Answering(
      make_engines=scripted_pair.make_engines,
      protocol=router.card.protocol,
      accounting=router.card.accounting,
      sampling=driver.Sampling(),
      grade=equivalence.exact,
  )


def scripted_service(
    router=None, engines=None, path=None, rng=None, **settings
) -> answering.Service:
  """Returns a service of the scripted pair; it must run in an event loop."""
  router = router or make_router()
  return answering.Service(
      make_answering(router),
      engines or scripted_pair.make_engines(2),
      router,
      settings_lib.Settings(**settings),
      store_lib.Store(path),
      rng,
  )


@dataclasses.dataclass
class Running:
  """A service that is being served.

  service: the service.
  url: where it listens.
  loop: the event loop that it runs in, in another thread.
  server: the server.
  """

  service: answering.Service
  url: str
  loop: asyncio.AbstractEventLoop
  server: uvicorn.Server

  def client(self, **kwargs) -> httpx.Client:
    """Returns an HTTP client; the caller closes it."""
    return httpx.Client(base_url=self.url, timeout=60, **kwargs)


@contextlib.contextmanager
def running(
    make: Callable[[], answering.Service],
    keys: tuple[keys_lib.Key, ...] = (),
) -> Iterator[Running]:
  """Serves what `make` returns on a free port, until the context ends."""
  listener = socket.create_server(('127.0.0.1', 0))
  port = listener.getsockname()[1]
  found, is_up = {}, threading.Event()

  async def serve():
    service = make()
    server = uvicorn.Server(
        uvicorn.Config(
            app_lib.create(service, keys_lib.Keyring(keys)),
            log_config=None,
            access_log=False,
            lifespan='off',
        )
    )
    found['running'] = Running(
        service,
        f'http://127.0.0.1:{port}',
        asyncio.get_running_loop(),
        server,
    )
    is_up.set()
    await server.serve(sockets=[listener])
    await service.close()
    for engine in service.engines:
      await engine.close()
    service.store.close()

  def run():
    try:
      asyncio.run(serve())
    finally:
      is_up.set()

  thread = threading.Thread(target=run, daemon=True)
  thread.start()
  is_up.wait(60)
  try:
    yield found['running']
  finally:
    if 'running' in found:
      found['running'].server.should_exit = True
    thread.join(60)
