"""Finds mistakes in a command line, and says what was probably meant.

An error names what was given, what is allowed, and the nearest allowed name.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import difflib
import itertools
import pathlib
import re
import runpy

from absl import flags
import ml_collections

from experiments import workdirs

# The checkout, or the directory that the package is installed in.
_HOUSE = pathlib.Path(__file__).parents[1]
# How errors of this project end: "... 'x'; allowed: a, b, c." or "; use a, b."
_NOT_ALLOWED = re.compile(
    r"'([^']+)'; (?:allowed[^:]*:|use) (.+?)\.?$", re.DOTALL
)


def nearest(word: str, names: Iterable[str], prefix: str = '') -> str:
  """Returns ' Did you mean ...?' with the name nearest to `word`, else ''.

  Args:
    word: what was given.
    names: what is allowed.
    prefix: put before the name that is found, e.g. '--'.
  """
  # Lower case on both sides: a capital letter is a mistake, too.
  known = {name.lower(): name for name in names}
  found = difflib.get_close_matches(word.lower(), known, 1)
  return f" Did you mean '{prefix}{known[found[0]]}'?" if found else ''


def hinted(message: str) -> str:
  """Returns an error with the nearest allowed value, where it lists values."""
  found = _NOT_ALLOWED.search(message)
  if found is None:
    return message
  parts = re.split(r',? or |, ', found[2].replace("'", ''))
  # Some names have a comma, e.g. 'fitted Q, trees'.
  pairs = map(', '.join, itertools.pairwise(parts))
  return message + nearest(found[1], [*parts, *pairs])


def located(words: Sequence[str]) -> list[str]:
  """Returns the words of a command with --config as a path that exists.

  A relative path that does not exist here is looked up where the package is
  installed, so that `--config=configs/arithmetic.py` works outside a checkout.
  `--config X` becomes `--config=X`, and `--config.field X` likewise.
  """
  found: list[str] = []
  for word in words:
    if found and re.fullmatch(r'--?config[\w.\[\]]*', found[-1]):
      found[-1] += f'={word}'
    else:
      found.append(word)
  return [_located(word) for word in found]


def _located(word: str) -> str:
  found = re.fullmatch(r'(--?config=)([^:]+)(.*)', word)
  if found is None or pathlib.Path(found[2]).is_file():
    return word
  path = _HOUSE / found[2]
  return f'{found[1]}{path}{found[3]}' if path.is_file() else word


def first(words: Sequence[str]) -> str | None:
  """Returns what is wrong with a command; None if nothing is found.

  It is called before absl parses, since the flag of a configuration would raise
  a traceback, and absl lists no names. Reports the first mistake only: a flag
  or a choice that does not exist, a missing file, an unknown variant, a field
  under its old name, an unknown field.

  Args:
    words: those of the command line, with the name of the program.
  """
  program, *words = words
  for name, value in _given(words):
    if problem := _flag_problem(name, value, program):
      return f'--{name}: {problem}'
  return config_problem(words)


def _given(words: Sequence[str]) -> list[tuple[str, str]]:
  """Returns (name, value) of each flag; the value is '' where it has none."""
  end = words.index('--') if '--' in words else len(words)
  split = [
      word.lstrip('-').partition('=')
      for word in words[:end]
      if re.match(r'--?[a-zA-Z]', word)
  ]
  return [(name, value) for name, _, value in split]


def _flag_problem(name: str, value: str, program: str) -> str | None:
  """Returns what is wrong with a flag of the program, or with its choice."""
  if name.startswith('config.'):
    return None
  # `--noname` sets the boolean flag `name` to False.
  known = flags.FLAGS
  if name not in known and name.removeprefix('no') not in known:
    names = [x.name for x in known.get_key_flags_for_module(program)]
    listed = ', '.join(f'--{x}' for x in sorted(names))
    return f'no such flag.{nearest(name, names, "--")} Flags: {listed}.'
  flag = known[name] if name in known else None
  if isinstance(flag, flags.EnumFlag):
    allowed = list(flag.parser.enum_values)
    if value and value not in allowed:
      return hinted(f'got {value!r}; allowed: {", ".join(allowed)}.')
  return None


def config_problem(words: Sequence[str]) -> str | None:
  """Returns what is wrong with --config, or a name in --config.<field>.

  Args:
    words: of a command line; other flags are not looked at.
  """
  given = dict(_given(words))
  path, _, variant = given.get('config', '').partition(':')
  if not pathlib.Path(path).is_file():
    # Either folder may be meant; see `located`.
    near = nearest(path, map(str, _configs()))
    return f'--config={path}: no such file.{near}' if path else None
  # The values of overrides do not matter here, only the names of the fields.
  try:
    config = runpy.run_path(path)['get_config'](*([variant] if variant else []))
  except ValueError as error:
    return hinted(str(error))
  if old := workdirs.first_old_name(config.to_dict()):
    return f'{path}: the field {old!r} is now called {workdirs.RENAMED[old]!r}.'
  for name in given:
    if now := workdirs.RENAMED.get(name.removeprefix('config.')):
      return f'--{name} is now called --config.{now}.'
    if name.startswith('config.'):
      if problem := unknown_field(config, name.removeprefix('config.')):
        return f'--{name}: {problem}'
  return None


def _configs() -> list[pathlib.Path]:
  """Returns the files of configurations, as one would name them."""
  return [
      path.relative_to(folder)
      for folder in (pathlib.Path().absolute(), _HOUSE)
      for path in folder.glob('configs/**/*.py')
  ]


def unknown_field(config: ml_collections.ConfigDict, path: str) -> str | None:
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
      return f'no field {key!r}.{_field_hint(config, key, names)}'
    fields = fields[int(key) if isinstance(fields, tuple | list) else key]
  return None


def _field_hint(
    config: ml_collections.ConfigDict, key: str, names: Sequence[str]
) -> str:
  """Returns where a field of this name is, else the nearest one; and all."""
  # Right name, wrong group: `--config.dropout` for `--config.network.dropout`.
  elsewhere = [
      f"'{group}.{key}'"
      for group, fields in config.items()
      if isinstance(fields, ml_collections.ConfigDict) and key in fields
  ]
  hint = nearest(key, names)
  if elsewhere:
    hint = f' Did you mean {" or ".join(elsewhere)}?'
  return f'{hint} Fields: {", ".join(names)}.'
