"""The record of tests on the `prove` problems, stored beside a router.

A promise must be tested on problems on which nothing was chosen. Somebody who
sees the result, changes a setting and tests again on the same problems has
chosen the setting on these problems. So each test, a *look* at the problems, is
recorded before it starts. A second look is refused unless the confidence level
was set for several looks, or the test allows the sample to grow.
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
# Settings that older files store under another name: old name to present name.
_RENAMED = {
    'among': 'num_choices',
    'both': 'loss_and_cost',
    'grid': 'num_thresholds',
    'least_effective': 'min_effective_size',
    'ruler': 'cost_metric',
}


@dataclasses.dataclass(frozen=True)
class Look:
  """One look at the `prove` problems: the data tested, and the settings.

  data: content hash of the recorded outcomes.
  problems: hash of the problems, in order.
  num_problems: number of problems.
  settings: everything else that the test depends on, JSON-like. The entries
    `procedure` and `num_choices` decide whether there may be another look.
  """

  data: str
  problems: str
  num_problems: int
  settings: Mapping[str, Any]

  def __post_init__(self):
    # The settings pass through JSON, which turns tuples into lists. Otherwise a
    # look would differ from the same look read from a file.
    settings = json.loads(json.dumps(self.settings))
    # `object.__setattr__`, since assignment fails in a frozen dataclass.
    object.__setattr__(self, 'settings', settings)


def look_at(
    problems: Sequence[types.Problem], data: str, settings: Mapping[str, Any]
) -> Look:
  """Returns the look that tests all of `problems`.

  Args:
    problems: the `prove` problems, in order.
    data, settings: see `Look`.
  """
  hashed = manifest_lib.hash_problems(problems)
  return Look(data, hashed, len(problems), settings)


def added(
    looks: Sequence[Look], look: Look, problems: Sequence[types.Problem]
) -> list[Look]:
  """Returns `looks` with `look` appended, if this look is allowed.

  Args:
    looks: the looks so far, in order.
    look: the look to add; a repeated look is not added again.
    problems: the problems of `look`.

  Raises:
    ValueError: if another test of these problems would break the promises.
  """
  # The same test of the same data gives the same result, so a repetition leaves
  # nothing to choose.
  if look in looks:
    return list(looks)
  together = [*looks, look]
  if not looks or _only_grows(together, problems):
    return together
  # Each look tests at delta / num_choices, so up to num_choices looks together
  # are covered by the union bound.
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
  """Returns whether all looks are one `growing` test of a sample that grew.

  Args:
    together: all looks in order, two or more.
    problems: the problems of the last look.
  """
  *_, last, look = together
  # The old problems must come first and in the same order, before the new ones:
  # the growing test has already bet on them, and a bet must not change.
  first = problems[: last.num_problems]
  return (
      all(x.settings == look.settings for x in together)
      and look.settings['procedure'] == 'growing'
      and look.num_problems > last.num_problems
      and manifest_lib.hash_problems(first) == last.problems
  )


def _changed(before: Look, after: Look) -> str:
  """Returns the names of the settings that differ between two looks, as text.

  The problems are named too if they differ.
  """
  names = [
      key
      for key in sorted({*before.settings, *after.settings})
      if before.settings.get(key) != after.settings.get(key)
  ]
  names += ['problems'] if before.problems != after.problems else []
  return ', '.join(names) or 'the recorded outcomes of the same problems'


def read(path: pathlib.Path) -> list[Look]:
  """Returns the recorded looks of a file, in order; empty if it is missing."""
  if not path.exists():
    return []
  found = []
  for entry in json.loads(path.read_text()):
    settings = {_RENAMED.get(k, k): v for k, v in entry['settings'].items()}
    found.append(Look(**(entry | {'settings': settings})))
  return found


def write(path: pathlib.Path, looks: Sequence[Look]) -> None:
  """Writes the looks to a JSON file, which `read` reads."""
  text = json.dumps([dataclasses.asdict(x) for x in looks], indent=2) + '\n'
  # The file is replaced in one step: a record lost by an interruption would
  # allow a second look.
  manifest_lib.replace_file(path, lambda partial: partial.write_text(text))
