"""The table of a --dry_run: what would be done, and how long it takes."""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

from routing import progress

UNKNOWN = 'unknown'
BASIS = (
    'Time: the counted work at the speed of an AMD EPYC without a GPU; expect '
    'a factor of three. unknown: it depends on what comes before.'
)


@dataclasses.dataclass(frozen=True)
class Row:
  """One thing that a stage would do.

  stage: name of the stage.
  what: what would be done, in words.
  size: how much of it, in words.
  seconds: how long it takes; None = not known, 0 = it is done already.
  """

  stage: str
  what: str
  size: str
  seconds: float | None


def show(rows: Sequence[Row], notes: Sequence[str] = ()) -> None:
  """Prints a table of what would be done, and notes below it."""
  from rich import table as table_lib

  table = table_lib.Table(title='What would be done')
  for name in ('stage', 'what', 'size'):
    table.add_column(name, overflow='fold')
  table.add_column('time', justify='right', no_wrap=True)
  for row in rows:
    table.add_row(row.stage, row.what, row.size, in_words(row.seconds))
  show_notes(table, notes)


def in_words(seconds: float | None) -> str:
  """Returns a time with one significant digit or two; it is an estimate."""
  if seconds is None:
    return UNKNOWN
  if not seconds:
    return 'done'
  digits = 1 - math.floor(math.log10(seconds))
  return f'about {progress.format_seconds(round(seconds, min(digits, 0)))}'


def show_notes(table: Any, notes: Sequence[str]) -> None:
  """Prints a table of `rich`, and notes below it."""
  from rich import console as console_lib

  console = console_lib.Console()
  # Where the output is not a terminal, rich assumes 80 columns and cuts cells.
  if not console.is_terminal:
    console = console_lib.Console(width=140)
  console.print(table)
  for note in notes:
    # Names such as 'loss<=a@p[group]' are not markup.
    console.print(note, markup=False)
