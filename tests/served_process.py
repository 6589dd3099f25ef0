"""Serves the scripted pair as a process of its own, for tests of signals.

Run:  python -m tests.served_process PORT

Each answer by a router has a shadow, which takes an hour. The output says when
the service and its models are closed.
"""

import sys
from unittest import mock

from configs import arithmetic
from experiments import serve
from routing.serving import answering
from routing.serving import event_loop
from routing.serving import monitoring
from tests import router_server
from tests import scripted_pair


def _engines(*args):
  """Returns the scripted pair, which says when it is closed."""
  del args
  found = scripted_pair.make_engines(2)
  found[0].delay = 1.5  # Time to see several answers in progress.
  # The larger model takes an answer over soon; alone it takes an hour.
  found[1].delay = lambda request: 0.3 if request.trace else 3_600.0
  for engine in found:
    engine.close = _saying(f'closed {engine.name}', engine.close)
  return found


def _saying(what, function):
  async def wrapped(*args):
    print(what, flush=True)
    await function(*args)

  return wrapped


def main(port: int) -> None:
  """Serves until the process is told to stop."""
  router = router_server.make_router()
  config = arithmetic.get_config()
  config.serving.shadow_share = 1.0
  close = _saying('closing', answering.Service.close)
  monitoring.set_up_log()
  with (
      mock.patch.object(serve, 'engines', _engines),
      mock.patch.object(serve.served_router, 'check', return_value={}),
      mock.patch.object(
          serve.records_on_disk,
          'answering',
          return_value=router_server.make_answering(router),
      ),
      mock.patch.object(answering.Service, 'close', close),
  ):
    event_loop.run(serve.serve(config, router, host='127.0.0.1', port=port))


if __name__ == '__main__':
  main(int(sys.argv[1]))
