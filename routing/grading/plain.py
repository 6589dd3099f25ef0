r"""Reads answers that need no computer algebra: a number in prose, words.

`value` reads one number with whatever money signs, units and words stand around
it, as in `\$9{,}500`, `40\%`, `24\frac{2}{3} \text{ cm}` or `8 red chickens`.
`is_words` and `choice` recognise answers without mathematics. What is read by
none of them is left to computer algebra.

Conventions:

- Units are ignored if one side has none, or one that is not known here; two
  known units that differ make the answers differ. Nothing is converted.
- `40\%` equals 40 and 0.4.
- Numbers are compared exactly. Only a decimal of at least five significant
  digits also equals a number without a finite decimal form, if it is its
  rounding or its truncation: 2.6667 is 8/3, 0.33 is not 1/3.
"""

import dataclasses
import fractions
import re

_MAX_CHARACTERS = 300  # Longer answers are left to computer algebra.
SIGNIFICANT = 5  # Least digits of a decimal that may stand for a fraction.

_UNITS = {
    '%': '% percent pct percentage',
    'dollar': '$ dollar usd buck',
    'euro': '€ euro',
    'pound': '£',
    'cent': '¢ cent',
    'kilometre': 'km kilometer kilometre',
    'metre': 'm meter metre',
    'centimetre': 'cm centimeter centimetre',
    'millimetre': 'mm millimeter millimetre',
    'mile': 'mi mile',
    'yard': 'yd yard',
    'foot': 'ft foot feet',
    'inch': 'in inch inche',
    'kilogram': 'kg kilogram',
    'gram': 'g gram',
    'ounce': 'oz ounce',
    'pound weight': 'lb pound',
    'litre': 'l liter litre',
    'millilitre': 'ml milliliter millilitre',
    'gallon': 'gal gallon',
    'year': 'yr year',
    'month': 'month',
    'week': 'week wk',
    'day': 'day',
    'hour': 'h hr hour',
    'minute': 'min minute',
    'second': 's sec second',
    'degree': '° degree',
    'radian': 'rad radian',
}
_UNIT_OF = {name: unit for unit, s in _UNITS.items() for name in s.split()}
# Words that change the number that they stand beside.
_SCALES = re.compile(
    r'\b(?:dozens?|hundreds?|thousands?|[mb]illions?|trillions?|half|halves'
    r'|thirds?|quarters?|twice|thrice|double|triple|squared?|cubed?|root'
    r'|minus|negative|plus|pi|sqrt|over|not|mod|base|factorial|infinity'
    r'|infinite|at least|at most|(?:more|less|greater|fewer) than)\b',
    re.IGNORECASE,
)
_MATH_WORDS = frozenset(
    'sin cos tan cot sec csc log exp lim det gcd lcm max min mod arcsin arccos'
    ' arctan sinh cosh tanh sqrt frac pi infty'.split()
)

_PLAIN = (
    r'(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+(?! ?\d)|\d+)(?:\.\d+)?|\.\d+'
)
_FRACTION = (
    r'\\frac\s*(?:\{\s*(?P<n1>-?\d+)\s*\}|(?P<n2>\d))'
    r'\s*(?:\{\s*(?P<d1>\d+)\s*\}|(?P<d2>\d))'
    r'|(?P<n3>\d+)\s*/\s*(?P<d3>\d+)'
)
_NUMBER = re.compile(
    rf'(?:(?P<whole>\d+)\s*(?=\\)|(?P<whole2>\d+)\s+(?=\d+\s*/))?(?:{_FRACTION})'
    rf'|(?P<plain>{_PLAIN})'
    r'(?:\s*(?:\\times|\\cdot|×|\*)\s*10\s*\^\s*(?:\{(?P<e1>-?\d+)\}|(?P<e2>\d))'
    r'|[eE](?P<e3>[+-]?\d{1,3})(?![\w.]))?'
)
_MAX_EXPONENT = 10_000

_TEXT = re.compile(
    r'\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mbox|operatorname)'
    r'\s*\{([^{}]*)\}(\s*\^\s*(?:\{\s*\d\s*\}|\d))?'
)
_CLEANED = (
    (re.compile(r'\\[dtc]frac'), r'\\frac'),
    (re.compile(r'\\(?:left|right|displaystyle|bigg?|Bigg?)(?![A-Za-z])'), ''),
    (re.compile(r'\\!\s*'), ''),
    (re.compile(r'(?<=\d)\s*\{\s*,\s*\}\s*(?=\d)'), ','),
    (re.compile(r'(?<=\d)\\,(?=\d)'), ''),
    (re.compile(r'\\[,;: ]|~|\\q?quad'), ' '),
    (re.compile(r'\\\$|\\textdollar|\{\\\$\}'), '$'),
    (re.compile(r'\\%'), '%'),
    (re.compile(r'\s*\^\s*\{?\s*\\circ\s*\}?|\\degree'), '° '),
    (re.compile('[−–]'), '-'),
)
_WRAPPED = (
    re.compile(r'\$\$(.*)\$\$', re.DOTALL),
    re.compile(r'\$([^$]*[^$\\])\$', re.DOTALL),
    re.compile(r'\\\((.*)\\\)', re.DOTALL),
    re.compile(r'\\\[(.*)\\\]', re.DOTALL),
    re.compile(r'\\boxed\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}', re.DOTALL),
    re.compile(r'\*\*(.*)\*\*', re.DOTALL),
)
_POWER = re.compile(
    r'(?<![A-Za-z])([A-Za-z]{2,})\s*\^\s*(?:\{\s*[23]\s*\}|[23])'
)
_PROSE = re.compile(r"[A-Za-z \t.,;:!?'’\"()%$€£¢°*-]*")
_LETTER_CHOICE = re.compile(r'[(\[]?([A-Za-z])[)\].:]*')


@dataclasses.dataclass(frozen=True)
class Value:
  """One number.

  number: its exact value as written; of a percentage what precedes the sign.
  unit: a key of the units known here; '' = none, or one that is not known.
  decimals: digits after the decimal point; 0 = not written as a decimal.
  significant: digits of a decimal from the first that is not zero.
  """

  number: fractions.Fraction
  unit: str = ''
  decimals: int = 0
  significant: int = 0


def clean(text: str) -> str:
  """Returns an answer without delimiters, spacing commands and a final stop."""
  text = text.strip()
  while True:
    before = text
    for pattern in _WRAPPED:
      if match := pattern.fullmatch(text):
        text = match[1].strip()
    text = text.removesuffix('.').strip()
    if text == before:
      break
  for pattern, replacement in _CLEANED:
    text = pattern.sub(replacement, text)
  return text.strip()


def value(text: str) -> Value | None:
  """Reads the only number in an answer; None if there is none or several."""
  if len(text) > _MAX_CHARACTERS:
    return None
  text, units = clean(text), []
  for match in _TEXT.finditer(text):
    units += re.findall(r'[A-Za-z$%]+', match[1])
  text = _TEXT.sub(
      lambda m: f' {m[1]} ' if len(m[1].strip()) > 1 else ' ', text
  )
  text = _POWER.sub(lambda m: m[1] if _unit(m[1]) else m[0], text)
  matches = list(_NUMBER.finditer(text))
  if len(matches) != 1:
    return None
  (match,) = matches
  before, after = text[: match.start()], text[match.end() :]
  sign = 1
  if signed := re.search(r'([-+])\s*(\$?)\s*$', before):
    sign = -1 if signed[1] == '-' else 1
    before = before[: signed.start()] + signed[2]
  elif re.fullmatch(r'\s*-\s*[$€£]\s*', before):
    sign, before = -1, '$'
  after, is_ordinal = re.subn(r'^(?:st|nd|rd|th)\b', ' ', after)
  # A letter beside the number is a unit or a variable.
  beside = re.match(r'[A-Za-z]+', after)
  if beside and _unit(beside[0]) == '' and not is_ordinal:
    return None
  if re.search(r'\w\s*-?$', before) and before[-1:] != ' ' or after[:1] == '!':
    return None
  if not _is_prose(before) or not _is_prose(after):
    return None
  known = [*_units_beside(before, after), *filter(None, map(_unit, units))]
  unit = '%' if '%' in known else next(iter(known), '')
  return _number(match, sign, unit)


def same_value(answer: Value, reference: Value) -> bool:
  """Returns whether two numbers are equal by the conventions of the module."""
  if answer.unit and reference.unit and answer.unit != reference.unit:
    return False
  pairs = [(answer, reference)]
  if (answer.unit == '%') != (reference.unit == '%'):
    pairs.append((_share(answer), _share(reference)))
  return any(
      a.number == b.number or _rounds(a, b) or _rounds(b, a) for a, b in pairs
  )


def is_words(answer: str, reference: str) -> bool:
  """Returns whether both are letters alone, and one of them has a word.

  Computer algebra would take a word for a product of letters, in any order.
  """
  if max(len(answer), len(reference)) > _MAX_CHARACTERS:
    return False
  texts = [_TEXT.sub(r' \1 ', clean(x)) for x in (answer, reference)]
  if not all(re.fullmatch(r"[A-Za-z\s.,;:!?'’\"()-]+", x) for x in texts):
    return False
  found = re.findall(r'[a-z]{3,}', ' '.join(texts).lower())
  return any(word not in _MATH_WORDS for word in found)


def letters(text: str) -> str:
  """Returns a text without white space, delimiters, and differences of case."""
  text = _TEXT.sub(r' \1 ', clean(text))
  return re.sub(r'\s+', '', text).casefold().rstrip('.')


def choice(text: str) -> str | None:
  """Returns the letter that an answer consists of, brackets aside, or None."""
  if len(text) > _MAX_CHARACTERS:
    return None
  text = _TEXT.sub(lambda m: m[1], clean(text)).strip()
  match = _LETTER_CHOICE.fullmatch(text)
  return match[1] if match else None


def _unit(word: str) -> str:
  """Returns the unit that a word names, or ''."""
  word = word.lower()
  return _UNIT_OF.get(word) or _UNIT_OF.get(word.removesuffix('s')) or ''


def _units_beside(before: str, after: str) -> list[str]:
  """Returns the units beside a number, and any percentage in the prose."""
  named = re.findall(r'[$€£]\s*$', before)
  if match := re.match(r'[\s-]*([A-Za-z]+|[%°¢€$£])', after):
    # "m" and "in" are units where nothing follows, as in "5 in" but "5 in all".
    if len(match[1]) > 2 or not after[match.end() :].strip(' .'):
      named.append(match[1])
  named += re.findall(r'%|\bpercent', before + after)
  return [unit for unit in map(_unit, map(str.strip, named)) if unit]


def _is_prose(text: str) -> bool:
  """Returns whether the text around a number cannot change it."""
  letters = re.findall(r"(?<![\w'’])[A-Za-z](?![\w'’])", text)
  return (
      bool(_PROSE.fullmatch(text))
      and not _SCALES.search(text)
      # A single letter is a variable, except in a sentence.
      and all(x in 'aAI' for x in letters)
      and not re.search(r'(?:^|\s)[-*](?:\s|$)', text)
  )


def _number(match: re.Match, sign: int, unit: str) -> Value | None:
  """Returns the value of a match of `_NUMBER`; None if it has none."""
  groups = match.groupdict()
  if groups['plain'] is None:
    first = lambda x: int(
        next(groups[f'{x}{i}'] for i in '123' if groups[f'{x}{i}'])
    )
    top, bottom = first('n'), first('d')
    if not bottom:
      return None
    whole = int(groups['whole'] or groups['whole2'] or 0)
    return Value(sign * (whole + fractions.Fraction(top, bottom)), unit)
  digits = groups['plain'].replace(',', '').replace(' ', '')
  exponent = int(groups['e1'] or groups['e2'] or groups['e3'] or 0)
  if abs(exponent) > _MAX_EXPONENT or len(digits) > 1_000:
    return None
  decimals = len(digits.partition('.')[2])
  significant = len(digits.replace('.', '').lstrip('0')) if decimals else 0
  number = fractions.Fraction(digits) * fractions.Fraction(10) ** exponent
  return Value(sign * number, unit, max(decimals - exponent, 0), significant)


def _share(x: Value) -> Value:
  """Returns a percentage as a number: of 40% it is 0.4."""
  if x.unit != '%':
    return x
  decimals = x.decimals + 2 if x.decimals else 0
  return dataclasses.replace(x, number=x.number / 100, decimals=decimals)


def _rounds(short: Value, exact: Value) -> bool:
  """Returns whether a decimal is a fraction's rounding or truncation."""
  if short.significant < SIGNIFICANT or _is_finite_decimal(exact.number):
    return False
  below = (abs(exact.number) - abs(short.number)) * 10**short.decimals
  is_signed_alike = (short.number > 0) == (exact.number > 0)
  return is_signed_alike and fractions.Fraction(-1, 2) <= below < 1


def _is_finite_decimal(number: fractions.Fraction) -> bool:
  rest = number.denominator
  for prime in (2, 5):
    while rest % prime == 0:
      rest //= prime
  return rest == 1
