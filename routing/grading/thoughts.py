"""Finds the thoughts in a text: `<think> ... </think>`."""

from collections.abc import Iterator
import re

# Inside a line the words are more likely quoted than meant.
_OPENED = re.compile(r'^[ \t]*<think>', re.MULTILINE)
_CLOSED = '</think>'


def outside(text: str) -> Iterator[tuple[int, int]]:
  """Yields where each part of a text that is no thought begins and ends.

  The parts may be empty. A thought that is not closed goes on to the end of the
  text; what may come after it is not there yet.
  """
  start = 0
  while opened := _OPENED.search(text, start):
    yield start, opened.start()
    closed = text.find(_CLOSED, opened.end())
    if closed < 0:
      return
    start = closed + len(_CLOSED)
  yield start, len(text)
