"""A child process that compares expressions: reads JSON lines, prints 0 or 1.

`equivalence.MathVerify` runs it as a script, and limits its time by killing it.
It imports nothing from this package, so that it starts without JAX.
"""

import json
import logging
import re
import sys

_MARKS = ('$', '\\boxed', '\\(', '\\[')
_PLAIN_NUMBER = re.compile(r'[-+]?[\d\s.,]+')


def _as_math(text: str) -> str:
  """Returns the text with LaTeX delimiters, which `math_verify.parse` needs.

  In bare LaTeX such as `2x+1` it would find only a number.
  """
  if any(mark in text for mark in _MARKS) or _PLAIN_NUMBER.fullmatch(text):
    return text
  return f'\\boxed{{{text}}}'


def is_equivalent(answer: str, reference: str) -> bool:
  """Returns whether both expressions parse and are equal."""
  import math_verify

  gold, given = (
      # No time limits of the package: its signals are of no use here.
      math_verify.parse(_as_math(text), parsing_timeout=None)
      for text in (reference, answer)
  )
  # The order matters: `verify` is not symmetric, the reference comes first.
  return bool(math_verify.verify(gold, given, timeout_seconds=None))


def main() -> None:
  """Answers one line after the other until standard input ends."""
  logging.disable()  # The package warns of each call without a time limit.
  # Loaded before 'ready', so that no question's time limit includes it.
  import math_verify  # noqa: F401

  print('ready', flush=True)
  for line in sys.stdin:
    try:
      verdict = is_equivalent(*json.loads(line))
    except Exception:  # What cannot be compared counts as not equal.
      verdict = False
    print(int(verdict), flush=True)


if __name__ == '__main__':
  main()
