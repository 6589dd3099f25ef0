"""Starts every experiment: flags, log, and a one-line error for bad input."""

from collections.abc import Callable
from collections.abc import Sequence
import difflib
import json
import logging as standard_logging
import os
import pathlib
import re
import runpy
import sys
from typing import TextIO

from absl import app
from absl import flags
from absl import logging
import ml_collections
from ml_collections import config_flags

from experiments import workdirs
from routing.engines import engine as engine_lib

# Log lines from files below these folders are ours; see `_is_ours_or_serious`.
_HOUSE = pathlib.Path(__file__).parents[1]
_OURS = tuple(_HOUSE / name for name in ('experiments', 'routing'))
# Flags that most experiments have; each is defined only where it is named.
_SHARED = {
    'config': lambda: config_flags.DEFINE_config_file(
        'config', lock_config=True
    ),
    'workdir': lambda: flags.DEFINE_string(
        'workdir', None, 'Directory of the experiment.'
    ),
}


def run(
    main: Callable[..., object],
    *names: str,
    optional: Sequence[str] = (),
    takes_words: bool = False,
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
  """
  # scikit-learn's OpenMP threads wait by spinning unless told otherwise, which
  # takes several times as long where other work shares the cores. The variable
  # is read when the library is first loaded, so it is set before `main`.
  os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
  shared = [name for name in names if name in _SHARED]
  for name in shared:
    _SHARED[name]()
    # `--help` shows the flags of the program itself.
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
  flags.mark_flags_as_required([x for x in shared if x not in optional])

  program = pathlib.Path(sys.argv[0]).stem

  def parse(argv: Sequence[str]) -> list[str]:
    # Before absl parses: the flag of a configuration raises a traceback.
    if problem := _unknown_field(argv):
      sys.exit(f'{program}: {problem}')
    return app.parse_flags_with_usage(argv)

  def call(argv: Sequence[str]) -> None:
    if len(argv) > 1 and not takes_words:
      raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
    logging.set_verbosity(logging.INFO)  # Or progress would not be seen.
    _set_up_log(sys.stderr)
    try:
      words = [list(argv[1:])] if takes_words else []
      main(*(flags.FLAGS[name].value for name in names), *words)
    except (ValueError, FileNotFoundError, engine_lib.Stop) as error:
      sys.exit(f'{program}: {error}')
    except KeyboardInterrupt:
      print(f'\n{program}: interrupted.', file=sys.stderr)
      sys.exit(130)  # 128 + SIGINT, as shells report it.

  app.run(call, flags_parser=parse)


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
  """Shows our lines, and of other libraries only warnings and errors."""
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


def _unknown_field(argv: Sequence[str]) -> str | None:
  """Returns what is wrong with --config or a --config.<field>; else None.

  Reports the first problem only: a missing file, an unknown variant, a field
  under its old name, or an unknown field. ml_collections would show a traceback
  instead, and suggest a name only for a near miss.
  """
  given = [word.lstrip('-').split('=', 1) for word in argv if '=' in word]
  path, _, variant = dict(given).get('config', '').partition(':')
  if not pathlib.Path(path).is_file():
    return f'--config={path}: no such file.' if path else None
  # The values of overrides do not matter here, only the names of the fields.
  try:
    config = runpy.run_path(path)['get_config'](*([variant] if variant else []))
  except ValueError as error:
    return str(error)
  if old := workdirs.first_old_name(config.to_dict()):
    return f'{path}: the field {old!r} is now called {workdirs.RENAMED[old]!r}.'
  for name, _ in given:
    if now := workdirs.RENAMED.get(name.removeprefix('config.')):
      return f'--{name} is now called --config.{now}.'
    if name.startswith('config.'):
      if problem := _unknown_key(config, name.removeprefix('config.')):
        return f'--{name}: {problem}'
  return None


def _unknown_key(config: ml_collections.ConfigDict, path: str) -> str | None:
  """Returns which part of a path is no field of `config`; None if all are.

  Args:
    config: the configuration.
    path: of a field, e.g. 'data.kind' or 'routes[0].settings.dtype'.
  """
  fields = config
  # 'routes[0]' is the field 'routes' and then its entry 0.
  for key in re.findall(r'[^.\[\]]+', path):
    if isinstance(fields, tuple | list):
      names = list(map(str, range(len(fields))))
    elif isinstance(fields, ml_collections.ConfigDict | dict):
      names = list(fields)
    else:
      names = []
    if key not in names:
      near = difflib.get_close_matches(key, names, 1)
      hint = f' Did you mean "{near[0]}"?' if near else ''
      return f'no field {key!r}.{hint} Fields: {", ".join(names)}.'
    fields = fields[int(key) if isinstance(fields, tuple | list) else key]
  return None


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
