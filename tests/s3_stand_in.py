"""An object store for tests: moto's server, which speaks S3's protocol."""

from collections.abc import Iterator
import contextlib
import os
import socket
import subprocess
import sys
import time
from unittest import mock
import urllib.request


@contextlib.contextmanager
def server() -> Iterator[None]:
  """Runs the server, and names it in the variables of the environment."""
  import s3fs  # Of the extra `remote`.

  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    port = found.getsockname()[1]
  command = [sys.executable, '-m', 'moto.server', '-p', str(port)]
  child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=-3)
  url = f'http://127.0.0.1:{port}'
  variables = dict(
      AWS_ENDPOINT_URL=url,
      AWS_ACCESS_KEY_ID='test',
      AWS_SECRET_ACCESS_KEY='test',
      AWS_DEFAULT_REGION='us-east-1',
  )
  try:
    for _ in range(300):
      try:
        urllib.request.urlopen(f'{url}/moto-api/').close()
        break
      except OSError:
        time.sleep(0.1)
    with mock.patch.dict(os.environ, variables):
      # A file system that was opened before would ask an earlier server.
      s3fs.S3FileSystem.clear_instance_cache()
      yield
  finally:
    child.terminate()
    child.wait()
