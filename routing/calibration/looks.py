"""The record of tests on the `prove` problems, stored beside a router.

A promise is tested on problems that nothing was chosen on. Somebody who sees
the result, changes a setting and tests again on these problems has chosen on
them. So each *look* at the problems is recorded before it is taken, and another
one is refused unless the confidence level was set for several.
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
# Old names of settings in older files, and the names they have now.
_RENAMED = {
    'among': 'num_choices',
    'both': 'loss_and_cost',
    'grid': 'num_thresholds',
    'least_effective': 'min_effective_size',
    'ruler': 'cost_metric',
}


@dataclasses.dataclass(frozen=True)
class Look:
  """One look at the `prove` problems: which data was tested, and for what.

  data: content hash of the recorded outcomes.
  problems: hash of the problems, in order.
  num_problems: number of problems.
  settings: everything else that the test depends on, JSON-like. Its `procedure`
    and `num_choices` decide whether there may be another look.
  """

  data: str
  problems: str
  num_problems: int
  settings: Mapping[str, Any]

  def __post_init__(self):
    # Tuples become lists, as in a file, so that looks can be compared.
    settings = json.loads(json.dumps(self.settings))
    # The way to set a field of a frozen dataclass.
    object.__setattr__(self, 'settings', settings)


def look_at(
    problems: Sequence[types.Problem], data: str, settings: Mapping[str, Any]
) -> Look:
  """Returns the look at all of `problems`; see `Look` for the arguments."""
  hashed = manifest_lib.hash_problems(problems)
  return Look(data, hashed, len(problems), settings)


def added(
    looks: Sequence[Look], look: Look, problems: Sequence[types.Problem]
) -> list[Look]:
  """Returns the looks with one more, or unchanged if it was taken before.

  Args:
    looks: the looks so far, in order.
    look: the next one.
    problems: the problems of `look`.

  Raises:
    ValueError: if no further look is allowed, or not this one.
  """
  # The same test of the same data gives the same result: nothing is chosen.
  if look in looks:
    return list(looks)
  together = [*looks, look]
  if not looks or _only_grows(together, problems):
    return together
  # Each was tested at delta / num_choices, so the union bound covers them all.
  if all(x.settings['num_choices'] >= len(together) for x in together):
    return together
  raise ValueError(
      f'Promises were tested on the problems of prove {len(looks)} time(s) '
      f'before, on {looks[-1].num_problems} problems the last time and on '
      f'{look.num_problems} this time. Changed since then: '
      f'{_changed(looks[-1], look)}. A promise that is chosen after a test may '
      'be broken more often than it says. Allowed: the same test again; the '
      'same settings, with calibration.procedure=growing from the first test '
      'on, and new problems after those of the last test; or '
      f'calibration.num_choices of {len(together)} or more in every test.'
  )


def _only_grows(
    together: Sequence[Look], problems: Sequence[types.Problem]
) -> bool:
  """Returns whether all looks are one test of a sample that grew.

  See `growing` for such a test.

  Args:
    together: all looks in order, two or more.
    problems: the problems of the last one.
  """
  *_, last, look = together
  # New problems must come after the old ones, in the same order: bets that were
  # made must not change.
  first = problems[: last.num_problems]
  return (
      all(x.settings == look.settings for x in together)
      and look.settings['procedure'] == 'growing'
      and look.num_problems > last.num_problems
      and manifest_lib.hash_problems(first) == last.problems
  )


def _changed(before: Look, after: Look) -> str:
  """Returns the names of what differs between two looks, as text."""
  names = [
      key
      for key in sorted({*before.settings, *after.settings})
      if before.settings.get(key) != after.settings.get(key)
  ]
  names += ['problems'] if before.problems != after.problems else []
  return ', '.join(names) or 'the recorded outcomes of the same problems'


def read(path: pathlib.Path) -> list[Look]:
  """Returns the looks of a file, in order; none if there is no file."""
  if not path.exists():
    return []
  found = []
  for entry in json.loads(path.read_text()):
    settings = {_RENAMED.get(k, k): v for k, v in entry['settings'].items()}
    found.append(Look(**(entry | {'settings': settings})))
  return found


def write(path: pathlib.Path, looks: Sequence[Look]) -> None:
  """Writes the looks to a file."""
  text = json.dumps([dataclasses.asdict(x) for x in looks], indent=2) + '\n'
  # Whole or not at all: a lost record would allow a second look.
  manifest_lib.replace_file(path, lambda partial: partial.write_text(text))
