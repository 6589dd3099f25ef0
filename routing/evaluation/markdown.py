"""Numbers and tables in Markdown."""

from collections.abc import Sequence

MISSING = '-'  # The content of a cell whose figure does not exist.


def number(value: float | None, digits: int = 3) -> str:
  """Formats a number without a leading zero, e.g. '.712'; None as `MISSING`."""
  return MISSING if value is None else without_zero(f'{value:.{digits}f}')


def without_zero(text: str) -> str:
  """Returns a number without its leading zero, e.g. '.4' or '-.4'."""
  # Most cells are fractions; without the leading zero more columns fit.
  return text.replace('0.', '.', 1) if text.startswith(('0.', '-0.')) else text


def table(
    columns: Sequence[str], cells: Sequence[Sequence[str]], num_text: int = 1
) -> str:
  """Returns a table.

  Args:
    columns: the header.
    cells: the rows.
    num_text: the first columns are text; the others are numbers.
  """
  # '---:' right-aligns the numbers.
  rule = ['---'] * num_text + ['---:'] * (len(columns) - num_text)
  return '\n'.join(f'| {" | ".join(x)} |' for x in [columns, rule, *cells])


def bullets(lines: Sequence[str]) -> str:
  """Returns lines as a list."""
  return '\n'.join(f'* {line}' for line in lines)
