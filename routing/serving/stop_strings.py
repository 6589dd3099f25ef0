"""Finds stop strings in a text that grows."""

from collections.abc import Sequence


def end(text: str, stops: Sequence[str]) -> int | None:
  """Returns where the first stop string begins; None if there is none."""
  return min((i for stop in stops if (i := text.find(stop)) >= 0), default=None)


def sure(text: str, stops: Sequence[str]) -> int:
  """Returns how many characters can be shown, whatever the text goes on with.

  The rest may turn out to be the beginning of a stop string.
  """
  for length in range(
      min(max(map(len, stops), default=1) - 1, len(text)), 0, -1
  ):
    if any(stop.startswith(text[-length:]) for stop in stops):
      return len(text) - length
  return len(text)
