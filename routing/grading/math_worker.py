"""A child process that compares expressions: JSON lines in, 0 or 1 out.

Run as a script by `equivalence.MathVerify`; it stands alone so that it starts
without JAX. Its time is bounded from outside, by killing it.
"""

import json
import logging
import re
import sys

_MARKS = ('$', '\\boxed', '\\(', '\\[')
_PLAIN_NUMBER = re.compile(r'[-+]?[\d\s.,]+')


def _as_math(text: str) -> str:
  """Marks bare LaTeX as such; else only a number inside it would be found."""
  if any(mark in text for mark in _MARKS) or _PLAIN_NUMBER.fullmatch(text):
    return text
  return f'\\boxed{{{text}}}'


def is_equivalent(answer: str, reference: str) -> bool:
  """True if both parse and are equal; the reference is the norm."""
  import math_verify

  gold, given = (
      math_verify.parse(_as_math(text), parsing_timeout=None)
      for text in (reference, answer)
  )
  return bool(math_verify.verify(gold, given, timeout_seconds=None))


def main() -> None:
  """Answers until standard input ends."""
  logging.disable()  # Of the package: timeouts off, as wanted.
  import math_verify  # noqa: F401  # Loaded before the clock runs.

  print('ready', flush=True)
  for line in sys.stdin:
    try:
      verdict = is_equivalent(*json.loads(line))
    except Exception:  # Whatever cannot be compared is not equal.
      verdict = False
    print(int(verdict), flush=True)


if __name__ == '__main__':
  main()
