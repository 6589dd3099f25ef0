"""Serves routers over HTTP on loopback, for tests: scripted or embedded."""

import asyncio
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import json
import logging
import pathlib
import re
import threading
import time

from absl.testing import parameterized
import httpx
import jax
import numpy as np
import openai
import uvicorn

from experiments import serve
from routing import protocols
from routing.features import observation
from routing.features import standardize
from routing.grading import equivalence
from routing.outcomes import live_answers
from routing.policy import networks
from routing.rollout import step_requests
from routing.routers import card as card_lib
from routing.routers import learned
from routing.serving import answering
from routing.serving import app as app_lib
from routing.serving import keys as keys_lib
from routing.serving import monitoring
from routing.serving import settings as settings_lib
from routing.serving import store as store_lib
from routing.serving import tracing as tracing_lib
from tests import scripted_pair

CHAT = '/v1/chat/completions'
SMALL, LARGE = (spec.name for spec in scripted_pair.SPECS[:2])
# At 'cost<=0.5' the small model writes one step of it, the larger the others.
QUESTION = '12:5\n'
_SPECS = scripted_pair.SPECS[:2]
_FEATURES = observation.FeatureConfig(
    groups=('confidence', 'progress', 'text'),
    num_routes=2,
    max_decisions=8,
    hidden_size=0,
    question_width=8,
    step_width=8,
)


def make_router(
    thresholds=(0.4, 0.5, 0.6), kind='mlp', process='escalate'
) -> learned.LearnedRouter:
  """Returns an untrained router for the scripted pair, with five points.

  Args:
    thresholds: of the first three points, the dearest first.
    kind: of the network.
    process: of the protocol, whose view is `peek`.
  """
  fields = dict(kind=kind, hidden=(16,) if kind != 'mlp' else (8,), dropout=0.0)
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
      protocol=protocols.Protocol(process, 'peek'),
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
      sampling=step_requests.Sampling(),
      grade=equivalence.exact,
  )


def scripted_service(
    router=None,
    engines=None,
    path=None,
    rng=None,
    tracing=tracing_lib.OFF,
    example='',
    **settings,
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
      tracing,
      example,
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
  listener = serve.bind('127.0.0.1', 0)
  port = listener.getsockname()[1]
  found, is_up = {}, threading.Event()

  async def run_service():
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
      asyncio.run(run_service())
    finally:
      is_up.set()

  thread = threading.Thread(target=run, daemon=True)
  thread.start()
  is_up.wait(60)
  try:
    until(lambda: found['running'].server.started)
    yield found['running']
  finally:
    if 'running' in found:
      found['running'].server.should_exit = True
    thread.join(60)


def untimed(text: str) -> str:
  """Returns a log without its times of day, which may look like a question."""
  return re.sub(r'\d{4}-\d\d-\d\dT[\d:.]+Z', '', text)


def body(model='router@cost<=0.5', question=QUESTION, **fields):
  """Returns the body of a chat request."""
  return {
      'model': model,
      'messages': [{'role': 'user', 'content': question}],
  } | fields


def until(is_so, seconds=20):
  """Waits until a function returns True, or raises after some seconds."""
  end = time.monotonic() + seconds
  while not is_so():
    if time.monotonic() > end:
      raise TimeoutError('It did not become so.')
    time.sleep(0.01)


def metric(client, name, **labels):
  """Returns a metric's value as a scrape shows it; 0 if it is not there."""
  for line in client.get('/metrics').text.splitlines():
    found = re.fullmatch(rf'{name}(?:{{(.*)}})? (\S+)', line)
    if found and dict(re.findall(r'(\w+)="(.*?)"', found[1] or '')) == labels:
      return float(found[2])
  return 0.0


@contextlib.contextmanager
def logged_to(stream):
  """Sends all that is logged to a stream."""
  root, log = logging.getLogger(), monitoring.LOG
  before = root.handlers, log.handlers, log.propagate
  monitoring.set_up_log(stream)
  try:
    yield
  finally:
    root.handlers, log.handlers, log.propagate = before


class ServedCase(parameterized.TestCase):
  """A test that serves the scripted pair."""

  def serve(self, make=None, keys=(), engines=None, **settings):
    """Serves the scripted pair; returns what runs and a client."""
    found = self.enter_context(
        running(
            make or (lambda: scripted_service(engines=engines, **settings)),
            keys,
        )
    )
    return found, self.enter_context(found.client())

  def keys(self, **limits):
    """Makes a file with the key of alice; returns the keys and the secret."""
    path = pathlib.Path(self.create_tempdir().full_path) / 'keys.json'
    secret = keys_lib.add(path, 'alice')
    content = json.loads(path.read_text())
    content['alice'] |= limits
    path.write_text(json.dumps(content))
    return keys_lib.read(path), secret, path


class SharedCase(parameterized.TestCase):
  """Tests that share one service of the scripted pair, and OpenAI's client."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    found = cls.enterClassContext(running(scripted_service))
    cls.service = found.service
    cls.http = cls.enterClassContext(found.client())
    cls.openai = openai.OpenAI(
        base_url=f'{found.url}/v1', api_key='none', max_retries=0
    )
    cls.addClassCleanup(cls.openai.close)

  def ask(self, question=QUESTION, model='router@cost<=0.5', **fields):
    return self.openai.chat.completions.create(
        model=model,
        messages=[{'role': 'user', 'content': question}],
        **fields,
    )

  def post(self, path='/v1/chat/completions', **fields):
    body = {
        'model': 'router@cost<=0.5',
        'messages': [{'role': 'user', 'content': QUESTION}],
    } | fields
    return self.http.post(path, json=body)
