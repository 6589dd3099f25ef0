"""What a run says before its first stage, and what to try after its last.

A first run is to be understood by somebody who has read nothing: what will be
done, how long it takes, where results are, and which command comes next.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import importlib.util
import json
import os
import pathlib
import shlex
import sys

import ml_collections

# What the time of a run depends on. A run whose fields are those of a variant
# with a measured time takes about as long.
_SIZES = (
    'engine',
    'problems',
    'data',
    'protocol',
    'collect',
    'train_seeds',
    'num_steps',
    'batch_size',
    'evaluation',
)
_QUICKSTART = 'experiments/colab/quickstart.ipynb'


def shown(path: pathlib.Path | str) -> str:
  """Returns a path, relative to here where that is shorter."""
  return min(str(path), os.path.relpath(path), key=len)


def expected_minutes(
    config: ml_collections.ConfigDict, asked: str
) -> float | None:
  """Returns how long all stages take on two idle cores; None if not measured.

  Args:
    config: of the run.
    asked: as in --config, e.g. 'configs/arithmetic.py:demo'. `MINUTES` of the
      file gives the time of each variant that was measured.
  """
  path, _, variant = asked.partition(':')
  module = _load(path)
  variant = variant or module.VARIANTS[0]
  minutes = getattr(module, 'MINUTES', {})
  if variant not in minutes:
    return None
  # A locked configuration is never equal to one that is not.
  mine, measured = (
      json.loads(x.to_json_best_effort())
      for x in (config, module.get_config(variant))
  )
  same = all(mine.get(name) == measured.get(name) for name in _SIZES)
  return minutes[variant] if same else None


def _load(path: str):
  spec = importlib.util.spec_from_file_location('asked_config', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def opening(
    names: Sequence[str], workdir: pathlib.Path, minutes: float | None
) -> list[str]:
  """Returns the first lines of a run.

  Args:
    names: of the stages, in order.
    workdir: where the results will be.
    minutes: see `expected_minutes`.
  """
  groups: dict[str, list[str]] = {}
  for name in names:
    first, *rest = name.split(' ', 1)
    groups.setdefault(first, []).extend(rest)
  listed = ', '.join(
      f'{first} ({", ".join(rest)})' if rest else first
      for first, rest in groups.items()
  )
  lines = [f'{len(names)} stages: {listed}.']
  if minutes is not None:
    lines.append(f'About {minutes:g} min on two idle cores.')
  return [
      *lines,
      f'Results will be in {shown(workdir)}. Ctrl-C stops the run; the same '
      'command continues it.',
  ]


def next_commands(
    asked: str, overrides: Sequence[str], workdir: str
) -> Mapping[str, str]:
  """Returns what to try next: in words -> the command.

  Args:
    asked: as in --config.
    overrides: the words of the command line that change fields.
    workdir: of the run that has just ended.
  """
  path, _, variant = asked.partition(':')
  module = _load(path)
  stem = pathlib.Path(path).stem
  found = {}
  if variant and variant != module.VARIANTS[0]:
    found['The full size'] = _pipeline(path, f'runs/{stem}')
  changed = {word.lstrip('-').split('=')[0] for word in overrides}
  if 'config.ruler' not in changed:
    shared = [f'--config.data.directory={workdir}']
    if 'config.data.directory' in changed:
      shared = []
    found['Another cost metric, on the same problems'] = _pipeline(
        asked, f'{workdir}_flops', *overrides, '--config.ruler=flops', *shared
    )
  if stem == 'arithmetic':
    redraft = 'configs/arithmetic_redraft.py' + (variant and f':{variant}')
    found['Another protocol: the large model rewrites single steps'] = (
        _pipeline(redraft, f'{workdir}_redraft')
    )
  return found


def closing(workdir: str, plot: str, commands: Mapping[str, str]) -> list[str]:
  """Returns the last lines of a run: its plot, and what to try next."""
  lines = ['', f'Plot: {shown(pathlib.Path(workdir) / plot)}', '', 'Next:']
  for what, command in commands.items():
    lines += [f'  {what}:', f'    {command}']
  lines.append(f'  The trained router, step by step: {_QUICKSTART}')
  return lines


def _pipeline(asked: str, workdir: str, *words: str) -> str:
  """Returns the command line of a pipeline."""
  python = shown(sys.executable)
  given = [f'--config={asked}', *words, f'--workdir={workdir}']
  return shlex.join([python, '-m', 'experiments.pipeline', *given])
