"""Sets up all tests: flags, how XLA compiles, where the public data is."""

import gc
import os
import pathlib
import re
import tempfile

from absl import flags
import pytest

_XLA_FLAGS = (
    '--xla_cpu_use_fusion_emitters=false '
    # Of programs that are optimised at all (see `lightly_optimized`): level 1
    # compiles up to three times as fast as the default, and runs as fast here.
    '--xla_backend_optimization_level=1 '
    # Pieces compiled side by side only cost more where workers share the cores.
    '--xla_cpu_parallel_codegen_split_count=1'
)


def pytest_configure(config):
  flags.FLAGS.mark_as_parsed()  # absl's create_tempdir reads a flag.
  # All of these are read when jax is imported, so they are set before.
  # Tests compile many programs and run each once, so compiling must be cheap:
  # no optimisation, as in jax's own tests, and the older emitters of fused
  # loops, which compile two to three times as fast. The demo and the notebooks
  # run in `.ci/run` with the settings that users have.
  os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
  os.environ.setdefault('XLA_FLAGS', _XLA_FLAGS)
  # Threads of OpenMP (LightGBM, torch) and of OpenBLAS wait for each other
  # in busy loops where workers share the cores; arrays of tests are small.
  for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
    os.environ.setdefault(name, '1')
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    # The workers, the commands that tests start and the runs that are resumed
    # share what any of them has compiled.
    compiled = tempfile.TemporaryDirectory()
    config.add_cleanup(compiled.cleanup)
    os.environ['JAX_COMPILATION_CACHE_DIR'] = compiled.name
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.05'


def pytest_collection_finish():
  """Collects garbage more rarely: tracing makes many objects and few cycles."""
  gc.freeze()  # What is imported stays, and need not be looked through.
  gc.set_threshold(50_000, 10, 10)


def pytest_collection_modifyitems(items):
  """Puts files with a slow test first, so that no worker ends up alone."""
  slow = {item.path for item in items if item.get_closest_marker('slow')}
  items.sort(key=lambda item: item.path not in slow)


def refuse_skip(report):
  """Makes a test fail that is skipped for an extra of ROUTING_REQUIRE.

  The variable names extras that are installed, e.g. 'browser,docs'. A test that
  is skipped for one of them would then run nowhere, and nobody would know.
  """
  required = os.environ.get('ROUTING_REQUIRE', '').split(',')
  if report.skipped and isinstance(report.longrepr, tuple):
    *_, reason = report.longrepr
    for name in re.findall('extra `([^`]+)`', reason):
      if name in required:
        report.outcome = 'failed'
        report.longrepr = f'{reason} ROUTING_REQUIRE says that {name} is there.'
  return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
  return refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
  return refuse_skip((yield))


@pytest.fixture(scope='module')
def lightly_optimized():
  """For files where the embedded pair writes so long that it pays.

  It also holds for the commands that their tests start.
  """
  import jax  # Here, since pytest_configure sets what it reads.

  name = 'JAX_DISABLE_MOST_OPTIMIZATIONS'
  with pytest.MonkeyPatch.context() as patch:
    before = jax.config.read(name.lower())
    patch.setenv(name, '0')
    jax.config.update(name.lower(), False)
    yield
    jax.config.update(name.lower(), before)


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
