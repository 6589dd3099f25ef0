"""What every test may rely on: parsed flags, and where the data is."""

import os
import pathlib

from absl import flags
import pytest


def pytest_configure(config):
  del config
  flags.FLAGS.mark_as_parsed()  # absl's create_tempdir reads a flag.


@pytest.fixture(scope='class')
def routing_data(request) -> pathlib.Path:
  """The directory of public data sets; skips, saying why, where it is absent.

  Test classes take it by `@pytest.mark.usefixtures('routing_data')` and then
  find it as `self.routing_data`.
  """
  path = pathlib.Path(os.environ.get('ROUTING_DATA', '../shared/data'))
  if not path.is_dir():
    pytest.skip(f'{path} is not there; set ROUTING_DATA to the data.')
  if request.cls is not None:
    request.cls.routing_data = path.resolve()
  return path.resolve()
