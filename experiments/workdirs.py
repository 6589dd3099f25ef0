"""Work directories: one belongs to one configuration, and says which."""

import json
import pathlib

import ml_collections


def claim(
    workdir: pathlib.Path | str,
    config: ml_collections.ConfigDict,
    name: str = 'config.json',
) -> pathlib.Path:
  """Makes the directory and writes the configuration there, or checks it.

  Args:
    workdir: of the experiment.
    config: what it is run with.
    name: of the file that holds the configuration.

  Returns:
    The absolute path of the directory.

  Raises:
    ValueError: if the directory belongs to another configuration; names the
      first field that differs. Nothing is overwritten. More problems of `prove`
      are no other configuration where the promises may be tested again on a
      sample that grew; they are noted.
  """
  directory = pathlib.Path(workdir).absolute()
  path = directory / name
  wanted = json.loads(config.to_json_best_effort())
  if path.exists():
    found = json.loads(path.read_text())
    if found == wanted:
      return directory
    if not _only_grows(found, wanted):
      raise ValueError(
          f'{directory} belongs to another configuration: '
          f'{_difference(found, wanted)}. Use another --workdir.'
      )
  directory.mkdir(parents=True, exist_ok=True)
  partial = directory / f'.{name}.partial'
  partial.write_text(json.dumps(wanted, indent=2) + '\n')
  partial.replace(path)
  return directory


def _only_grows(found: dict, wanted: dict) -> bool:
  """Whether `prove` has more problems, nothing else differs, and it may."""
  if wanted.get('calibration', {}).get('procedure') != 'growing':
    return False
  sizes = dict(found['problems'], prove=wanted['problems']['prove'])
  return (
      found | {'problems': sizes} == wanted
      and found['problems']['prove'] < wanted['problems']['prove']
  )


def _difference(found: dict, wanted: dict, prefix: str = '') -> str:
  """The first field in which two configurations differ, in words."""
  for key in sorted({*found, *wanted}):
    a, b = found.get(key), wanted.get(key)
    if isinstance(a, dict) and isinstance(b, dict) and a != b:
      return _difference(a, b, f'{prefix}{key}.')
    if a != b:
      return f'{prefix}{key} is {a!r} there, {b!r} here'
  return 'the fields have other types'
