"""The record of looks at the problems of `prove`, kept beside a router.

A promise is tested on problems that nothing was chosen on. Whoever sees what
came of it, changes a setting and tests again on these problems has chosen on
them. So each look is recorded before it is taken, and another one is refused
unless its level was meant for several.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
import pathlib
from typing import Any

from routing import types
from routing.shards import manifest as manifest_lib

FILE_NAME = 'looks.json'
# Settings that have another name in files of before.
_RENAMED = {
    'among': 'num_choices',
    'both': 'loss_and_cost',
    'grid': 'num_thresholds',
    'least_effective': 'min_effective_size',
    'ruler': 'cost_metric',
}


@dataclasses.dataclass(frozen=True)
class Look:
  """One look: at which data, and for what.

  data: content hash of what was recorded of the problems.
  problems: hash of the problems, in order.
  num_problems: how many there are.
  settings: all that the test follows from besides, JSON-like; `procedure` and
    `num_choices` of it decide whether there may be another look.
  """

  data: str
  problems: str
  num_problems: int
  settings: Mapping[str, Any]

  def __post_init__(self):
    # As JSON gives it back, so that looks can be compared.
    settings = json.loads(json.dumps(self.settings))
    object.__setattr__(self, 'settings', settings)


def look_at(
    problems: Sequence[types.Problem], data: str, settings: Mapping[str, Any]
) -> Look:
  """The look at all of `problems`; see `Look` for the arguments."""
  hashed = manifest_lib.hash_problems(problems)
  return Look(data, hashed, len(problems), settings)


def added(
    looks: Sequence[Look], look: Look, problems: Sequence[types.Problem]
) -> list[Look]:
  """The looks with one more, which is none if it was taken before.

  Args:
    looks: so far, in order.
    look: the next one.
    problems: that it is at.

  Raises:
    ValueError: if there may be no further look, or not this one.
  """
  if look in looks:
    return list(looks)
  together = [*looks, look]
  if not looks or _only_grows(together, problems):
    return together
  # Each was tested at delta / among, so that all of them hold together.
  if all(x.settings['num_choices'] >= len(together) for x in together):
    return together
  raise ValueError(
      f'The problems of prove were looked at {len(looks)} time(s) before, the '
      f'last time at {looks[-1].num_problems} problems, this time at '
      f'{look.num_problems}; {_changed(looks[-1], look)}. A promise that is '
      'chosen after a look may be broken more often than it says. Allowed: the '
      'same look again; the same settings, with calibration.procedure=growing '
      'from the first look on, and new problems after those of the last look; '
      f'or calibration.num_choices of {len(together)} or more in every look.'
  )


def _only_grows(
    together: Sequence[Look], problems: Sequence[types.Problem]
) -> bool:
  """Whether all is one test of a sample that grew; see `growing`."""
  *_, last, look = together
  first = problems[: last.num_problems]
  return (
      all(x.settings == look.settings for x in together)
      and look.settings['procedure'] == 'growing'
      and look.num_problems > last.num_problems
      and manifest_lib.hash_problems(first) == last.problems
  )


def _changed(before: Look, after: Look) -> str:
  """What differs between two looks, in words."""
  names = [
      key
      for key in sorted({*before.settings, *after.settings})
      if before.settings.get(key) != after.settings.get(key)
  ]
  names += ['problems'] if before.problems != after.problems else []
  return f'{", ".join(names) or "what is recorded of them"} differ'


def read(path: pathlib.Path) -> list[Look]:
  """The looks of a file, in order; none if there is no file."""
  if not path.exists():
    return []
  found = []
  for entry in json.loads(path.read_text()):
    settings = {_RENAMED.get(k, k): v for k, v in entry['settings'].items()}
    found.append(Look(**(entry | {'settings': settings})))
  return found


def write(path: pathlib.Path, looks: Sequence[Look]) -> None:
  """Writes the looks, whole or not at all."""
  text = json.dumps([dataclasses.asdict(x) for x in looks], indent=2) + '\n'
  manifest_lib.replace_file(path, lambda partial: partial.write_text(text))
