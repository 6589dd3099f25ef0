r"""Finds the final answer in a text that reasons its way to it.

Three conventions, tried in this order: what follows the last `####` (GSM8K and
the embedded task), the last complete `\boxed{...}` (MATH), the last number.
"""

import re

_MARK = '####'
_BOXED = re.compile(r'\\boxed\s*\{')
# Not inside a word or another number; thousands commas, decimals, fractions.
_NUMBER = re.compile(r'(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:/\d+)?(?!\w)')


def find(text: str) -> str | None:
  """The final answer as written, without surrounding space; None if absent.

  A mark with nothing behind it is an answer that was cut off: None, not an
  earlier number that merely happens to stand in the text.
  """
  if _MARK in text:
    return after_mark(text)
  boxed = last_boxed(text)
  return last_number(text) if boxed is None else boxed


def after_mark(text: str) -> str | None:
  """The rest of the line after the last `####`; None if there is nothing."""
  _, mark, rest = text.rpartition(_MARK)
  line = rest.strip(' \t').split('\n', 1)[0].strip()
  return line if mark and line else None


def last_boxed(text: str) -> str | None:
  r"""The content of the last `\boxed{...}` whose braces balance; else None."""
  for match in reversed(list(_BOXED.finditer(text))):
    end = _closing_brace(text, match.end())
    if end is not None:
      return text[match.end() : end].strip()
  return None


def last_number(text: str) -> str | None:
  """The last number of the text, as written; None if there is none."""
  numbers = _NUMBER.findall(text)
  return numbers[-1].rstrip(',') if numbers else None


def _closing_brace(text: str, start: int) -> int | None:
  r"""Where the group that opened before `start` closes; `\{` is no brace."""
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
