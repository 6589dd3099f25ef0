"""A script that compares expressions: it reads JSON lines, and prints 0 or 1.

`equivalence.MathVerify` runs this script in a child process, and kills the
process when a comparison exceeds the time limit. The script imports nothing
from this package, so that it starts without JAX.
"""

import json
import logging
import re
import sys

_MARKS = ('$', '\\boxed', '\\(', '\\[')
_PLAIN_NUMBER = re.compile(r'[-+]?[\d\s.,]+')


def _as_math(text: str) -> str:
  """Returns an expression with the delimiters that `math_verify.parse` needs.

  Without LaTeX delimiters, `parse` would find only a number in e.g. `2x+1`.
  """
  if any(mark in text for mark in _MARKS) or _PLAIN_NUMBER.fullmatch(text):
    return text
  return f'\\boxed{{{text}}}'


def is_equivalent(answer: str, reference: str) -> bool:
  """Returns whether both expressions can be parsed and are equal."""
  import math_verify

  gold, given = (
      # The package's own time limits are off, because they rely on signals. The
      # parent process limits the time instead.
      math_verify.parse(_as_math(text), parsing_timeout=None)
      for text in (reference, answer)
  )
  # `verify` is not symmetric: its first argument must be the reference.
  return bool(math_verify.verify(gold, given, timeout_seconds=None))


def main() -> None:
  """Prints a verdict for each line of standard input, until the input ends."""
  # `math_verify` logs a warning at each call without a time limit.
  logging.disable()
  # The package is loaded before 'ready' is printed, so that loading does not
  # count towards the time limit of the first comparison.
  import math_verify  # noqa: F401

  print('ready', flush=True)
  for line in sys.stdin:
    try:
      verdict = is_equivalent(*json.loads(line))
    except Exception:  # Expressions that cannot be compared are not equal.
      verdict = False
    print(int(verdict), flush=True)


if __name__ == '__main__':
  main()
