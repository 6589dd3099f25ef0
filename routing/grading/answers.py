r"""Finds the final answer in a text that contains the reasoning before it.

Three conventions are tried in this order: the text after the last `####` (GSM8K
and the embedded task), the last complete `\boxed{...}` (MATH), the last number.
"""

import re

_MARK = '####'
_BOXED = re.compile(r'\\boxed\s*\{')
# A number that is not part of a word or of another number. It may have a sign,
# thousands commas, decimals, and a denominator after a slash.
_NUMBER = re.compile(r'(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:/\d+)?(?!\w)')


def find(text: str) -> str | None:
  """Returns the final answer as written, stripped; None if there is none."""
  # No fallback after a mark. If nothing follows it, the token limit cut off the
  # answer, and an earlier number in the text is not it.
  if _MARK in text:
    return after_mark(text)
  boxed = last_boxed(text)
  return last_number(text) if boxed is None else boxed


def after_mark(text: str) -> str | None:
  """Returns the rest of the line after the last `####`; None if it is empty."""
  _, mark, rest = text.rpartition(_MARK)
  line = rest.strip(' \t').split('\n', 1)[0].strip()
  return line if mark and line else None


def last_boxed(text: str) -> str | None:
  r"""Returns the content of the last `\boxed{...}` with balanced braces.

  Returns None if there is none.
  """
  # From the end: a text that was cut off may end inside an unclosed box.
  for match in reversed(list(_BOXED.finditer(text))):
    end = _closing_brace(text, match.end())
    if end is not None:
      return text[match.end() : end].strip()
  return None


def last_number(text: str) -> str | None:
  """Returns the last number of the text, as written; None if there is none."""
  numbers = _NUMBER.findall(text)
  # '12,' at the end of a clause: the comma is punctuation.
  return numbers[-1].rstrip(',') if numbers else None


def _closing_brace(text: str, start: int) -> int | None:
  r"""Returns the index of the `}` that closes a group opened before `start`.

  Escaped braces do not count. Returns None if the group is not closed.
  """
  # Counted by hand, since a regular expression cannot match nested braces.
  depth, i = 1, start
  while i < len(text):
    if text[i] == '\\':
      i += 1  # The next character is escaped.
    elif text[i] == '{':
      depth += 1
    elif text[i] == '}':
      depth -= 1
      if depth == 0:
        return i
    i += 1
  return None
