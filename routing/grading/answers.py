r"""Finds the final answer in a text that has reasoning before it.

Three conventions are tried in this order: the text after the last `####` (GSM8K
and the embedded task), the last complete `\boxed{...}` (MATH), the last number.
"""

import re

_MARK = '####'
_BOXED = re.compile(r'\\boxed\s*\{')
# Matches a number that is not part of a word or of another number. The number
# may have a sign, thousands commas, decimals, and a denominator after a slash.
_NUMBER = re.compile(r'(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:/\d+)?(?!\w)')


def find(text: str) -> str | None:
  """Returns the final answer as it is written in the text, or None.

  White space around the answer is removed. None = the text has no answer.
  """
  # If nothing follows the mark, the token limit has cut off the answer. An
  # earlier number in the text is then not the answer, so there is no fallback.
  if _MARK in text:
    return after_mark(text)
  boxed = last_boxed(text)
  return last_number(text) if boxed is None else boxed


def after_mark(text: str) -> str | None:
  """Returns the rest of the line after the last `####`, or None if it is empty.

  Also returns None if there is no `####`.
  """
  _, mark, rest = text.rpartition(_MARK)
  line = rest.strip(' \t').split('\n', 1)[0].strip()
  return line if mark and line else None


def last_boxed(text: str) -> str | None:
  r"""Returns the content of the last `\boxed{...}` with balanced braces.

  Returns None if the text has no such box.
  """
  # Searched from the end. A text that was cut off may end inside a box that is
  # not closed; the box before it counts then.
  for match in reversed(list(_BOXED.finditer(text))):
    end = _closing_brace(text, match.end())
    if end is not None:
      return text[match.end() : end].strip()
  return None


def last_number(text: str) -> str | None:
  """Returns the last number in the text as it is written, or None."""
  numbers = _NUMBER.findall(text)
  # In '12, ...' the pattern also matches the comma, which is punctuation.
  return numbers[-1].rstrip(',') if numbers else None


def _closing_brace(text: str, start: int) -> int | None:
  r"""Returns the index of the `}` that closes a group opened before `start`.

  Escaped braces (`\{`, `\}`) are ignored. Returns None if no brace closes the
  group.
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


FINDERS = {
    'hash': after_mark,
    'boxed': last_boxed,
    'number': last_number,
    'brackets': lambda x: x.rpartition('[[')[2].partition(']]')[0] or None,
}


def finder(name: str):
  """Returns the finder with this name."""
  return FINDERS[name]
