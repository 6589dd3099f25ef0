"""What every test may rely on: flags, what was compiled, where the data is."""

import os
import pathlib
import tempfile

from absl import flags
import pytest


def pytest_configure(config):
  flags.FLAGS.mark_as_parsed()  # absl's create_tempdir reads a flag.
  # As jax's own tests do: most of the suite's time would go into optimising
  # programs that run once. The demo and the notebooks run what users run.
  os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    # What one process has compiled, the others load: the workers, the commands
    # that they start, the runs that are resumed. Before jax is imported.
    compiled = tempfile.TemporaryDirectory()
    config.add_cleanup(compiled.cleanup)
    os.environ['JAX_COMPILATION_CACHE_DIR'] = compiled.name
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.2'


def pytest_collection_modifyitems(items):
  """Files with a slow test first, or a worker would be alone at the end."""
  slow = {item.path for item in items if item.get_closest_marker('slow')}
  items.sort(key=lambda item: item.path not in slow)


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
