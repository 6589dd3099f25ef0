"""Serves a router behind an OpenAI-compatible endpoint.

Run:  python -m experiments.serve --config=configs/arithmetic.py --router=shipped --port=8000
Keys: python -m experiments.serve --config=configs/arithmetic.py --keys=keys.json --new_key=alice

See docs/serving.md. Needs the extra `serve`.
"""  # noqa: E501  Commands stay on one line.

import asyncio
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import ipaddress
import pathlib
import signal
import socket
import types

from absl import flags
import ml_collections
import uvicorn

from experiments import builders
from experiments import command_line
from experiments import records_on_disk
from experiments import served_router
from routing.engines import engine as engine_lib
from routing.engines import meter as meter_lib
from routing.engines import resilience
from routing.routers import learned
from routing.serving import answering
from routing.serving import app as app_lib
from routing.serving import event_loop
from routing.serving import keys as keys_lib
from routing.serving import monitoring
from routing.serving import settings as settings_lib
from routing.serving import store as store_lib
from routing.serving import tracing as tracing_lib

_STATE_FILE = 'state.sqlite'
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def settings(config: ml_collections.ConfigDict) -> settings_lib.Settings:
  """Returns the settings of the service.

  Raises:
    ValueError: if one is not allowed.
  """
  # Saved configurations from before there was a service have none.
  found = settings_lib.Settings(**config.get('serving', {}))
  builders.check_routes(config)
  builders.check_slots(config, 'serving.concurrency', found.concurrency)
  return found


def engines(
    config: ml_collections.ConfigDict, given: settings_lib.Settings
) -> list[engine_lib.Engine]:
  """Returns the engines of the routes, which try again a few times."""
  return with_retries(config, given, builders.engines(config))


def with_retries(
    config: ml_collections.ConfigDict,
    given: settings_lib.Settings,
    bare: Sequence[engine_lib.Engine],
) -> list[engine_lib.Engine]:
  """Returns engines that try again as often as the settings say."""
  allowed = resilience.Limits(
      attempts=given.attempts,
      first_wait=given.first_wait,
      longest_wait=given.retry_down_after,
      # A client waits meanwhile; what it cannot get soon, another model writes.
      longest_asked=max(given.retry_down_after, 1.0),
  )
  meter = meter_lib.Meter(builders.specs(config))
  return resilience.with_retries(bare, allowed, meter)


@contextlib.asynccontextmanager
async def open_service(
    config: ml_collections.ConfigDict,
    router: learned.LearnedRouter,
    state: pathlib.Path | None,
    tracing: tracing_lib.Tracing = tracing_lib.OFF,
    *,
    allow_other_pair: bool = False,
):
  """Yields the service of a configuration; closes what it has opened.

  Args:
    config: of the run.
    router: the router.
    state: directory of what outlives a restart; None = nothing does.
    tracing: makes spans.
    allow_other_pair: see `served_router.check`.

  Raises:
    ValueError: if they do not fit together.
  """
  unpromised = served_router.check(
      config, router, allow_other_pair=allow_other_pair
  )
  given = settings(config)
  asked = records_on_disk.answering(
      config, router.card, allow_other_pair=allow_other_pair
  )
  store = store_lib.Store(
      None if state is None else state / _STATE_FILE, given.keep_answers
  )
  found = engines(config, given)
  try:
    service = answering.Service(
        asked,
        found,
        router,
        given,
        store,
        tracing=tracing,
        example=builders.task(config).example,
        unpromised=unpromised,
    )
    service.batches.warm_up()
    yield service
    await service.close()
  finally:
    for engine in found:
      await engine.close()
    store.close()


def check_host(host: str, keys: tuple[keys_lib.Key, ...]) -> None:
  """Raises ValueError if others than this machine could call without a key."""
  try:
    is_local = ipaddress.ip_address(host).is_loopback
  except ValueError:
    is_local = host == 'localhost'
  if not is_local and not keys:
    raise ValueError(
        f'--host={host} can be reached from other machines, so that --keys is '
        'needed; allowed without: 127.0.0.1. Make a key with --new_key.'
    )


def bind(host: str, port: int) -> socket.socket:
  """Returns a socket that is bound to an address; 0 = any free port.

  Raises:
    ValueError: if the address does not exist here, or is taken.
  """
  try:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    )[0]
    # asyncio turns off Nagle's algorithm only where the protocol is named. With
    # it, each response would wait 40 ms for an acknowledgement.
    found = socket.socket(family, kind, protocol)
    try:
      found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      found.bind(address)
    except OSError:
      found.close()
      raise
  except OSError as error:
    raise ValueError(
        f'--host={host} --port={port}: {error.strerror}. Name another port, or '
        'end what listens there.'
    ) from error
  return found


class _Server(uvicorn.Server):
  """A server that ends by returning when it is told to stop.

  uvicorn's own raises the signal again, which would end the process before
  engines and state are closed. A second signal does not wait for answers.

  Args:
    config: of the server.
    give_up: called at a second signal, and at each that follows.
  """

  def __init__(
      self, config: uvicorn.Config, give_up: Callable[[], None] = lambda: None
  ):
    super().__init__(config)
    self._give_up = give_up

  def handle_exit(self, sig: int, frame: types.FrameType | None) -> None:
    """Notes a signal to stop; uvicorn's own only heeds a second SIGINT."""
    del sig, frame
    self.force_exit = self.should_exit
    self.should_exit = True
    if self.force_exit:  # Maybe when this server has stopped already.
      self._give_up()

  @contextlib.contextmanager
  def capture_signals(self) -> Iterator[None]:
    """Handles the signals to stop until `_release_signals`.

    A signal that comes while the service closes must not end the process:
    engines may have processes of their own, which would stay.
    """
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
      loop.add_signal_handler(number, self.handle_exit, number, None)
    yield


def _release_signals() -> None:
  """Handles the signals to stop no more."""
  for number in _SIGNALS:
    asyncio.get_running_loop().remove_signal_handler(number)


async def give_up(server: uvicorn.Server, service: answering.Service) -> None:
  """Ends the answers in progress, which nobody waits for any more."""
  service.give_up_shadows()
  tasks = list(server.server_state.tasks)
  for task in tasks:
    task.cancel()
  await asyncio.gather(*tasks, return_exceptions=True)


def allow_many_files() -> None:
  """Raises the limit on open files as far as this process may.

  Each connection is one, also of a client that asks for nothing at present.
  """
  try:
    import resource
  except ImportError:  # Windows has no such limit.
    return
  _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  # Some systems name a limit that they do not allow.
  with contextlib.suppress(ValueError, OSError):
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def serve(
    config: ml_collections.ConfigDict,
    router: learned.LearnedRouter,
    *,
    host: str,
    port: int,
    keys: tuple[keys_lib.Key, ...] = (),
    state: pathlib.Path | None = None,
    tracing: tracing_lib.Tracing = tracing_lib.OFF,
    allow_other_pair: bool = False,
) -> None:
  """Serves until the process is told to stop; answers in progress finish.

  Args:
    config: of the run.
    router: the router.
    host, port: where to listen.
    keys: who may call; () = anyone on this machine.
    state, tracing, allow_other_pair: see `open_service`; tracing is closed.
  """
  check_host(host, keys)
  listener = bind(host, port)  # Before models are loaded: it may be taken.
  async with contextlib.AsyncExitStack() as stack:
    stack.callback(_release_signals)  # Once all is closed.
    opened = open_service(
        config, router, state, tracing, allow_other_pair=allow_other_pair
    )
    service = await stack.enter_async_context(opened)
    app = app_lib.create(service, keys_lib.Keyring(keys))
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            # Our own log has a line per request, without what is in its path.
            access_log=False,
            server_header=False,
            # Longer than clients keep a connection that they do not use: who
            # closes first must not be we, or a request meets a closed one.
            timeout_keep_alive=75,
            lifespan='off',
        ),
        service.give_up_shadows,
    )
    event_loop.come_first()
    monitoring.log('start', host=host, port=port, router=router.checkpoint_hash)
    await server.serve(sockets=[listener])
    if server.force_exit:
      await give_up(server, service)
  tracing.close()
  monitoring.log('stop')


def main(
    config: ml_collections.ConfigDict,
    router: str,
    host: str,
    port: int,
    keys: str | None,
    state: str | None,
    new_key: str | None,
    traces: str | None = None,
    allow_other_pair: bool = False,
) -> None:
  """Serves, or makes a key; see the module."""
  if new_key is not None:
    if keys is None:
      raise ValueError('--new_key needs --keys, the file to add it to.')
    print(keys_lib.add(pathlib.Path(keys), new_key))
    return
  monitoring.set_up_log()
  allow_many_files()
  command_line.keep_compiled(state)
  event_loop.run(
      serve(
          config,
          learned.load(router),
          host=host,
          port=port,
          keys=() if keys is None else keys_lib.read(pathlib.Path(keys)),
          state=None if state is None else pathlib.Path(state),
          tracing=(
              tracing_lib.OFF
              if traces is None
              else tracing_lib.to_collector(traces)
          ),
          allow_other_pair=allow_other_pair,
      )
  )


if __name__ == '__main__':
  # Here, since the plan imports this module.
  from experiments import serve_plan

  flags.DEFINE_string(
      'router', 'shipped', "Directory of a trained router, or 'shipped'."
  )
  flags.DEFINE_string('host', '127.0.0.1', 'Address to listen at.')
  flags.DEFINE_integer('port', 8_000, 'Port to listen at.')
  flags.DEFINE_string('keys', None, 'File of API keys; none = no keys.')
  flags.DEFINE_string(
      'state', None, 'Directory of what outlives a restart; none = nothing.'
  )
  flags.DEFINE_string(
      'new_key', None, 'Name of a key to add to --keys; prints it, and ends.'
  )
  flags.DEFINE_string(
      'traces',
      None,
      'Collector of OTLP/HTTP for spans; none = no spans.',
  )
  flags.DEFINE_bool(
      'allow_other_pair',
      False,
      'Serve a router on models that it was not trained for, which breaks its '
      'promises.',
  )
  command_line.run(
      main,
      *('config', 'router', 'host', 'port', 'keys', 'state', 'new_key'),
      *('traces', 'allow_other_pair'),
      plan=serve_plan.show,
  )
