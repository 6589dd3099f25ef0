"""Defines what ends a step: a text, a regular expression, or a length."""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

from routing import types

# For `Delimiter.pattern`: steps that begin with their number, e.g. '2. ',
# '(2) ', 'Step 2:' or '**Step 2**', in a line of their own or not.
NUMBERED = r'\n(?=[ \t]*\W{0,4}(?:[Ss]tep[ ]*\d+|\(?\d{1,3}[.)][ \t]))'


@dataclasses.dataclass(frozen=True)
class Delimiter:
  r"""What ends a step.

  text: a string that ends a step and is part of it. Back ends can stop at it,
    so no token is wasted.
  pattern: a regular expression whose match ends a step and is part of it; '' =
    use `text`. A match counts as soon as something follows it, so a pattern may
    look ahead: r'\n(?=\d+\. )' ends a step before the number of the next one.
    A model has then written the beginning of the next step, which is dropped
    and charged. Text is looked at while it arrives, so a match must not depend
    on more than what it has read: no negative look-ahead.
  max_tokens: a step without an end ends after this number of tokens, between
    two words if it has two, also within a formula or a listing; 0 = it
    continues.

  Raises:
    ValueError: if a field is not allowed.
  """

  text: str = types.DELIMITER
  pattern: str = ''
  max_tokens: int = 0

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value, kind = getattr(self, field.name), type(field.default)
      if not isinstance(value, kind):
        raise ValueError(
            f'{field.name} of a delimiter is {value!r}; allowed: '
            f'{kind.__name__}.'
        )
    if not self.text:
      raise ValueError(
          "The text of a delimiter is ''; it must have at least 1 character."
      )
    if self.pattern and self.text != types.DELIMITER:
      raise ValueError(
          f'A delimiter has the text {self.text!r} and the pattern '
          f'{self.pattern!r}; allowed: one of them.'
      )
    if self.max_tokens < 0 or self.max_tokens == 1:
      raise ValueError(
          f'max_tokens of a delimiter is {self.max_tokens}; allowed: 0, or at '
          'least 2.'
      )
    try:
      found = re.compile(self.pattern, re.MULTILINE).search('')
      matches_nothing = self.pattern and found
    except re.error as error:
      raise ValueError(
          f'The pattern {self.pattern!r} of a delimiter is no regular '
          f'expression: {error}.'
      ) from error
    if matches_nothing:
      raise ValueError(
          f'The pattern {self.pattern!r} of a delimiter matches an empty text; '
          'it must match the end of a step.'
      )

  @property
  def is_text(self) -> bool:
    """Whether a text alone ends steps, so that a back end can stop there."""
    return not self.pattern and not self.max_tokens


BLANK_LINE = Delimiter()


def of(given: str | Mapping[str, Any]) -> Delimiter:
  r"""Returns the delimiter that a configuration gives.

  Args:
    given: the text, e.g. '\n', or the fields of `Delimiter`.

  Raises:
    ValueError: if a field is unknown or not allowed.
  """
  if isinstance(given, str):
    return Delimiter(given)
  if not isinstance(given, Mapping):
    raise ValueError(
        f'task.delimiter is {given!r}; allowed: a text, or a mapping of fields.'
    )
  known = [field.name for field in dataclasses.fields(Delimiter)]
  unknown = [name for name in given if name not in known]
  if unknown:
    raise ValueError(
        f'task.delimiter has the field {unknown[0]!r}; allowed: '
        f'{", ".join(known)}.'
    )
  return Delimiter(**given)


def settings_key(settings: Any) -> dict[str, Any]:
  """Returns a dataclass of settings as a dictionary, to be saved and compared.

  A delimiter that is the blank line is left out, because older records, which
  have no other, do not name it.
  """
  key = dataclasses.asdict(settings)
  default = dataclasses.asdict(BLANK_LINE)
  for fields in (key, key.get('sampling', {})):
    if fields.get('delimiter') == default:
      del fields['delimiter']
  return key
