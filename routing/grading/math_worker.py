"""Compares expressions in a child process; `worker.py` runs this script.

It imports nothing from this package, so that it starts without JAX.

Math-Verify parses and compares. What it says of two numbers is replaced: it
calls numbers equal whose difference rounds to 0, as 2^-90 and 2^-91.
"""

import decimal
import logging
import re

_MARKS = ('$', '\\boxed', '\\(', '\\[')
_DELIMITED = re.compile(
    r'\$[^$]+\$|\\\(.+?\\\)|\\\[.+?\\\]|\\boxed\s*\{[^\n]*\}', re.DOTALL
)
_PLAIN_NUMBER = re.compile(r'[-+]?\d[\d.,]*(?: \d{3})*(?:[.,]\d+)?')
_DIGITS = 500  # Two numbers that agree to so many, less 10, are equal.
_SIGNIFICANT = 5  # As in `plain.SIGNIFICANT`.


def _parse(text: str) -> list:
  """Returns what `math_verify.parse` finds, empty if it finds nothing."""
  import math_verify

  options = {}
  delimited = list(_DELIMITED.finditer(text))
  if delimited and not re.search(r'\d', text[delimited[-1].end() :]):
    # No number is picked from the prose before the LaTeX.
    options['extraction_config'] = [math_verify.LatexExtractionConfig()]
  elif not any(x in text for x in _MARKS) and not _PLAIN_NUMBER.fullmatch(text):
    # Without delimiters, `parse` would find only a number in e.g. `2x+1`.
    text = f'\\boxed{{{text}}}'
  # The package's own time limits are off, because they rely on signals in the
  # main thread, and do not interrupt a multiplication of long integers.
  return math_verify.parse(text, parsing_timeout=None, **options)


def _exact(expression):
  """Returns a number with decimals as fractions, percent signs applied."""
  import sympy

  decimals = {x: sympy.Rational(str(x)) for x in expression.atoms(sympy.Float)}
  return expression.xreplace(decimals).doit()


def _rounds(short, exact) -> bool:
  """Returns whether a decimal is the rounding or truncation of a number.

  The number must have no finite decimal form; see `plain`.
  """
  import sympy

  if not isinstance(short, sympy.Float) or not exact.is_real:
    return False
  if exact.is_Rational and not set(sympy.factorint(exact.q)) - {2, 5}:
    return False
  # 100 digits: more than any that are written.
  written = decimal.Context(prec=100).create_decimal(str(short)).normalize()
  _, digits, exponent = written.as_tuple()
  if len(digits) < _SIGNIFICANT or exponent >= 0:
    return False
  # In units of the last digit: at most a half above, or less than one below.
  below = (abs(exact) - abs(sympy.Rational(str(short)))) * 10**-exponent
  is_signed_alike = (short > 0) == (exact > 0)
  return bool(is_signed_alike and -0.5 <= below.evalf(_DIGITS) < 1)


def _agree(a, b, digits: int) -> bool:
  """Returns whether two numbers agree to so many digits, less 10."""
  import sympy

  scale = max(abs(a.evalf(digits)), abs(b.evalf(digits)))
  difference = abs((a - b).evalf(digits))
  return bool(difference <= scale * sympy.Rational(1, 10 ** (digits - 10)))


def _same_numbers(a, b) -> bool:
  """Returns whether two numbers are equal, exactly or to 490 digits."""
  import sympy

  first, second = _exact(a), _exact(b)
  if {first, second} & {sympy.zoo, sympy.nan}:
    return False  # Neither is a number: `12:00` is read as 12 / 0.
  if first == second:
    return True
  if first.is_infinite or second.is_infinite:
    return False
  if not (first.is_Rational and second.is_Rational):
    # Most numbers that differ do so in the first digits, which is fast to see.
    if all(_agree(first, second, digits) for digits in (50, _DIGITS)):
      return True
  return _rounds(a, second) or _rounds(b, first)


def _numeric_eq(a, b, float_rounding, numeric_precision) -> bool:
  """Stands in for Math-Verify's comparison of two expressions' values."""
  from math_verify import grader
  import sympy

  if isinstance(a, sympy.MatrixBase) and isinstance(b, sympy.MatrixBase):
    rest = float_rounding, numeric_precision
    a, b = grader.safe_sympy_doit(a), grader.safe_sympy_doit(b)
    return a.shape == b.shape and all(
        _numeric_eq(x, y, *rest)
        for x, y in zip(a.flat(), b.flat(), strict=True)
    )
  if not isinstance(a, sympy.Expr) or not isinstance(b, sympy.Expr):
    return False
  try:
    if a.free_symbols or b.free_symbols:
      return _exact(a - b).evalf(30) == 0
    shares = [grader.get_pct_val(x) for x in (a, b)]
    if (shares[0] is None) != (shares[1] is None):
      # 9% is 9 and 0.09.
      if _same_numbers(
          *(x if s is None else s for x, s in zip((a, b), shares, strict=True))
      ):
        return True
    return _same_numbers(a, b)
  except (TypeError, ValueError, AttributeError, NotImplementedError):
    return False


def compare(answer: str, reference: str) -> tuple[bool, str]:
  """Returns whether two expressions are equal, and the reason."""
  import math_verify

  gold, given = _parse(reference), _parse(answer)
  # `verify` is not symmetric: its first argument must be the reference.
  if math_verify.verify(gold, given, timeout_seconds=None):
    return True, 'equal'
  parsed = [any(not isinstance(x, str) for x in side) for side in (given, gold)]
  if not parsed[0]:
    return False, 'cannot be parsed'
  return False, 'differs' if parsed[1] else 'the reference cannot be parsed'


def prepare() -> None:
  """Loads Math-Verify, and replaces what it says of two numbers.

  Raises:
    ImportError: if it is missing or of an unknown version.
  """
  # `math_verify` logs a warning at each call without a time limit.
  logging.disable()
  from math_verify import grader

  if not hasattr(grader, 'sympy_numeric_eq'):
    raise ImportError('This version of math-verify compares numbers otherwise.')
  grader.sympy_numeric_eq = _numeric_eq


def check() -> bool:
  """Makes a first comparison; returns whether it came out right."""
  # The first comparison is the slowest. Within too little memory it raises, or
  # parsing swallows the error and finds nothing.
  return compare('x + x', '2x')[0]
