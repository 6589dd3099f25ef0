"""Starts every experiment: flags, log, and a one-line error for bad input."""

from collections.abc import Callable
from collections.abc import Sequence
import json
import logging as standard_logging
import os
import pathlib
import sys
from typing import TextIO

from absl import app
from absl import flags
from absl import logging
import ml_collections
from ml_collections import config_flags

from experiments import mistakes
from experiments import workdirs
from routing.engines import engine as engine_lib

# Log lines from files below these folders are ours; see `_is_ours_or_serious`.
_HOUSE = pathlib.Path(__file__).parents[1]
_OURS = tuple(_HOUSE / name for name in ('experiments', 'routing'))
# Flags that most experiments have; each is defined only where it is named.
_SHARED = {
    'config': lambda: config_flags.DEFINE_config_file(
        'config',
        lock_config=True,
        help_string='Configuration: FILE or FILE:VARIANT. To change a field: '
        '--config.FIELD=VALUE.',
    ),
    'workdir': lambda: flags.DEFINE_string(
        'workdir', None, 'Directory of the experiment.'
    ),
    'dry_run': lambda: flags.DEFINE_bool(
        'dry_run',
        False,
        'Print what would be done, its size and its time; do nothing.',
    ),
}
_REQUIRED = ('config', 'workdir')
COMPILED_FOLDER = 'compiled'  # Of a work directory.
_ASYNC_DISPATCH = 'jax_cpu_enable_async_dispatch'  # An option of jax.


def run(
    main: Callable[..., object],
    *names: str,
    optional: Sequence[str] = (),
    takes_words: bool = False,
    plan: Callable[..., object] | None = None,
) -> None:
  """Runs `main` as a program, called with the values of the flags `names`.

  The flags 'config' and 'workdir' are defined here if they are named, and are
  then required. The caller defines any other flag before. Call this function
  under `__main__` only: experiments import one another, and a flag can be
  defined only once.

  Args:
    main: the experiment. A ValueError or FileNotFoundError is a mistake that
      the user can correct, and an `engine.Stop` says how to continue. Each of
      these ends the program with one line and exit code 1.
    *names: names of flags, in the order of `main`'s arguments.
    optional: those of 'config' and 'workdir' that need not be given.
    takes_words: calls `main` with one more argument, the list of the words that
      are not flags. Otherwise such words are an error.
    plan: called instead of `main`, with the same arguments, if --dry_run is
      given; None = there is no such flag.
  """
  # LightGBM's OpenMP threads wait by spinning unless told otherwise. That takes
  # several times as long where other work shares the cores. The variable is
  # read when the library is first loaded, so it is set before `main`.
  os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
  _define(names, optional, has_plan=plan is not None)
  program = pathlib.Path(sys.argv[0]).stem
  # The flag of a configuration reads the whole command again from here.
  sys.argv[:] = mistakes.located(sys.argv)

  def parse(argv: Sequence[str]) -> list[str]:
    if problem := mistakes.first(argv):
      sys.exit(f'{program}: {problem}')
    return app.parse_flags_with_usage(argv)

  def call(argv: Sequence[str]) -> None:
    if len(argv) > 1 and not takes_words:
      raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
    _set_up_log(sys.stderr)
    values = [flags.FLAGS[name].value for name in names]
    is_dry = plan is not None and flags.FLAGS['dry_run'].value
    _run_programs_in_place()
    try:
      if 'workdir' in names and not is_dry:
        keep_compiled(flags.FLAGS['workdir'].value)
      if 'config' in names:
        _check(flags.FLAGS['config'].value)
      words = [list(argv[1:])] if takes_words else []
      (plan if is_dry else main)(*values, *words)
    except (ValueError, FileNotFoundError, engine_lib.Stop) as error:
      sys.exit(f'{program}: {mistakes.hinted(str(error))}')
    except KeyboardInterrupt:
      print(f'\n{program}: interrupted.', file=sys.stderr)
      sys.exit(130)  # 128 + SIGINT, as shells report it.

  app.run(call, flags_parser=parse)


def _run_programs_in_place() -> None:
  """Has jax run programs in the thread that calls them, on a CPU.

  By default another thread runs them, and waiting for it takes longer than a
  small program itself, e.g. a policy's decision. The environment variable
  JAX_CPU_ENABLE_ASYNC_DISPATCH=true keeps the default.
  """
  jax = sys.modules.get('jax')  # Imported by whatever has programs.
  if jax is not None and _ASYNC_DISPATCH.upper() not in os.environ:
    jax.config.update(_ASYNC_DISPATCH, False)


def _define(
    names: Sequence[str], optional: Sequence[str], *, has_plan: bool
) -> None:
  """Defines the flags that most experiments have; arguments as in `run`."""
  shared = [name for name in names if name in _SHARED]
  if has_plan:
    shared.append('dry_run')
  for name in shared:
    _SHARED[name]()
    # `--help` shows the flags of the program itself.
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
  required = [x for x in shared if x in _REQUIRED and x not in optional]
  flags.mark_flags_as_required(required)


def keep_compiled(
    workdir: pathlib.Path | str | None, folder: str = COMPILED_FOLDER
) -> None:
  """Keeps what jax compiles in a work directory, for its later commands.

  A directory that the user has named for it comes first.

  Args:
    workdir: the directory; None, or one in an object store = nothing is kept.
    folder: of the directory.
  """
  import jax  # Here, since programs without a work directory do without it.

  if jax.config.jax_compilation_cache_dir is not None:
    return
  if workdir is None or '://' in str(workdir):  # In an object store.
    return
  path = pathlib.Path(workdir) / folder
  jax.config.update('jax_compilation_cache_dir', str(path))
  # Under a second by default, programs would be compiled again and again.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
  # With a limit, jax locks the directory (by `filelock`, which comes with
  # transformers), so that two commands may share it.
  jax.config.update('jax_compilation_cache_max_size', 2**30)


def _check(config: ml_collections.ConfigDict) -> None:
  """Checks the settings of all stages, in a configuration that has them."""
  if 'calibration' in config:
    from experiments import settings  # Here, since it imports the stages.

    settings.check(config)


def asked(argv: Sequence[str] | None = None) -> tuple[str, list[str]]:
  """Returns what --config names, and the words that change fields of it."""
  argv = sys.argv[1:] if argv is None else argv
  config, overrides = '', []
  for word in argv:
    name, _, value = word.lstrip('-').partition('=')
    if name == 'config':
      config = value
    elif name.startswith('config.'):
      overrides.append(word)
  return config, overrides


def typed(program: str) -> str:
  """Returns the command as it was typed, without its work directory.

  Args:
    program: the module that runs, e.g. 'experiments.pretrain'.
  """
  words = [word for word in sys.argv[1:] if not word.startswith('--workdir')]
  return ' '.join([f'python -m {program}', *words])


class _TerminalHandler(standard_logging.Handler):
  """Writes lines for people, above the bars that are being drawn."""

  def __init__(self, stream: TextIO):
    super().__init__()
    self._stream = stream

  def emit(self, record: standard_logging.LogRecord) -> None:
    """Writes our message alone, another library's with its level and name."""
    import tqdm

    line, level = record.getMessage(), record.levelname.capitalize()
    if not _is_ours(record):
      line = f'{level} ({_library(record)}): {line}'
    elif record.levelno >= standard_logging.WARNING:
      line = f'{level}: {line}'
    tqdm.tqdm.write(line, file=self._stream)


def _set_up_log(stream: TextIO) -> None:
  """Shows our own log lines, and other libraries' warnings and errors."""
  logging.set_verbosity(logging.INFO)  # Or progress would not be seen.
  handler = logging.get_absl_handler()
  if stream.isatty():
    root = standard_logging.getLogger()
    root.removeHandler(handler)
    handler = _TerminalHandler(stream)
    root.addHandler(handler)
  handler.addFilter(_is_ours_or_serious)


def _is_ours_or_serious(record: standard_logging.LogRecord) -> bool:
  """Whether a line is shown: other libraries' only from warnings on."""
  return _is_ours(record) or record.levelno >= standard_logging.WARNING


def _is_ours(record: standard_logging.LogRecord) -> bool:
  """Whether a line was logged by a file of this project."""
  path = pathlib.Path(record.pathname)
  return any(path.is_relative_to(room) for room in _OURS)


def _library(record: standard_logging.LogRecord) -> str:
  """The package that a line is from, else the name of its logger."""
  _, found, inside = record.pathname.rpartition('site-packages/')
  return pathlib.Path(inside).parts[0] if found else record.name


def saved_config(workdir: pathlib.Path | str) -> ml_collections.ConfigDict:
  """Returns the configuration that is saved in a work directory.

  Raises:
    ValueError: if the directory holds none.
  """
  path = pathlib.Path(workdir) / 'config.json'
  if not path.exists():
    raise ValueError(
        f'{path} does not exist: nothing was run there. Run a '
        'stage with this --workdir first.'
    )
  return ml_collections.ConfigDict(
      workdirs.upgrade(json.loads(path.read_text()))
  )
