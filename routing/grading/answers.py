r"""Finds the final answer in a text that has reasoning before it.

Where an answer stands is a convention, and the convention belongs to the task:
a tuple of names of `FINDERS`, e.g. `('boxed', 'hash', 'number')`. The first
finder that sees its mark decides; the later ones are for texts without it.

- `hash`: the rest of a line after `####` (GSM8K). A heading (`#### Step 1`) is
  no answer.
- `boxed`: the content of `\boxed{...}` (MATH). An empty box is no answer.
- `brackets`: the content of `[[...]]` (KOR-Bench).
- `tag`: what stands between `<answer>` and `</answer>`, lines included.
- `after_phrase`: what follows "the answer is" or "Answer:" in its sentence.
- `choice`: the letter of a multiple-choice answer.
- `number`: the last number.

**The first complete answer counts.** A model may go on after its answer, often
with a new question that it also answers; what it then writes is not graded. So
an engine can stop there: `end` returns the index, `None` while the answer is
incomplete. Only the first finder of the convention decides, since its mark is
the one that the prompt asks for, and the mark of another may be reasoning.

- `hash`, `after_phrase`, `choice`: complete at the end of the line. A `####`
  line of words alone, with more text after it, counts as a heading.
- `boxed`: at the end of the line that closes the box or, inside display
  mathematics, that closes the display; a blank line ends both.
- `brackets`: at the end of the line that closes them; `tag`: at its end.
- `number`: where a line begins a new question.

**A mark without an answer** (`####` or `\boxed{` at which the token limit cut
the text) means that there is no answer: an earlier number is not tried.

**Several boxes in one line or display.** Boxes that a comma, or `and` or `or`
with a word or two, joins are one answer: the list of their contents. Otherwise
the last box counts, as in `\boxed{1}, no: \boxed{2}`.

No answer stands in a thought, from `<think>` at a line's start to `</think>`.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import re

from routing.grading import thoughts

DEFAULT = ('hash', 'boxed', 'number')

_HASH = re.compile(r'(?<!#)####(?!#)[ \t]*([^\n]*)')
_BOX = re.compile(r'\\(?:boxed|fbox|framebox)\s*\{')
# A content that stands for an answer still to come.
_PLACEHOLDER = re.compile(
    r'(?:\\(?:h|v)?phantom\s*\{[^{}]*\}|\\text\s*\{\s*\}|\\[,;:! ]|\\q?quad|\s'
    r'|\?|\.\.\.|\\c?l?dots|_|(?:your |final |the )*answer)*',
    re.IGNORECASE,
)
# Words after which a box replaces the one before it, even behind an `and`.
_REPLACED = re.compile(
    r'\b(?:no|not|so|thus|hence|therefore|wait|actually|finally?|simplif\w+'
    r'|equals?|gives?|means)\b',
    re.IGNORECASE,
)
_JOINED = re.compile(
    r'(?:[\s,;$&]|\\[()\[\],; ]|\\q?quad|\\text\s*\{[\s,]*(?:and|or)?[\s,]*\})*'
    r'|[^.!?\n]{0,20}\b(?:and|or)\b[^.!?\n]{0,20}',
    re.IGNORECASE,
)
_DISPLAYS = (
    (r'\[', r'\]'),
    (r'\begin{align', r'\end{align'),
    (r'\begin{equation', r'\end{equation'),
    (r'\begin{gather', r'\end{gather'),
)
_BLANK_LINE = re.compile(r'\n[ \t]*\n')
_TAG = re.compile(r'<answer>(?:(.*?)</answer>)?', re.DOTALL)
_BRACKETS = re.compile(r'\[\[(.*?)\]\](?!\])', re.DOTALL)
# Matches a number that is not part of a word or of another number. The number
# may have a sign, thousands commas, decimals, a denominator after a slash, and
# a unit beside it.
_NUMBER = re.compile(
    r'(?<![\w.])-?\d[\d,]{0,400}(?:\.\d{1,400})?(?:/\d{1,400})?'
    r'(?=(?:[mck]?m|[mk]?g|lbs?|oz|m?l|hr?s?|min|s|ft|mph|am|pm|th|st|nd|rd)?(?!\w))',
    re.IGNORECASE,
)
_NEW_QUESTION = re.compile(
    r'^[#* \t]*(?:next |new )?(?:question|problem|q|exercise)[ \d*]*:',
    re.IGNORECASE | re.MULTILINE,
)
_PHRASE = re.compile(
    r'(?:\b(?:(?:final|correct|the) ){0,3}answer(?: (?:to|for) [^.:\n]{1,60})?'
    r'[*\s]*(?:is|are|:|=)[*\s]*:?|^[ \t]*A:)[*\s]*',
    re.IGNORECASE | re.MULTILINE,
)
_SENTENCE_END = re.compile(r'[.!](?=\s|$)|\n')
_LETTER = re.compile(r'[\s*$({\[]*(?:\\text\w*\s*\{\s*\(?)?([A-J])(?![\w\'’])')
_LETTER_LINE = re.compile(
    r'^[ \t]*[*(\[]*([A-J])(?:[)\].:*][^\n]*|[ \t]*)$', re.MULTILINE
)

_HEADING = re.compile(
    r'(?:sub-?)?(?:steps?|parts?|cases?|scenarios?|methods?|approach|solution'
    r'|explanation|reasoning|analysis|conclusion|summary|verification|examples?'
    r'|final answer|answer|question|problem|note|key \w+)\b(?!\s*(?:is|=)\s)'
    r'|\d+[.)]\s+\**[A-Za-z]{2,}',
    re.IGNORECASE,
)
_INLINE_MATH = re.compile(r'\$[^$]*\$|\\\(.*?\\\)|\\\[.*?\\\]')
_TRUTH = ('yes', 'no', 'true', 'false', 'none')


@dataclasses.dataclass(frozen=True)
class Found:
  """What a finder found.

  parts: the answer as it is written, white space around it removed; several for
    several boxes; none if the mark is there and the answer is missing.
  end: index in the text at which the answer is complete; None = not yet.
  """

  parts: tuple[str, ...]
  end: int | None = None

  @property
  def answer(self) -> str | None:
    """The answer, several parts joined by commas; None = missing."""
    return ', '.join(self.parts) or None


def locate(text: str, finders: Sequence[str] = DEFAULT) -> Found | None:
  """Returns the first complete answer in a text, or the one that it ends in.

  Args:
    text: the whole text, reasoning included.
    finders: the convention, see the module.

  Returns:
    None if no finder sees its mark.

  Raises:
    ValueError: if there is no such finder.
  """
  check(finders)
  for name in finders:
    found = _outside_thoughts(text, name)
    if found is not None:
      return found
  return None


def find(text: str, finders: Sequence[str] = DEFAULT) -> str | None:
  """Returns the final answer as it is written in the text; see `locate`."""
  found = locate(text, finders)
  return None if found is None else found.answer


def end(text: str, finders: Sequence[str] = DEFAULT) -> int | None:
  """Returns the index at which the first complete answer of a text ends.

  `find` gives the same for `text`, for `text[:end]`, and however the text goes
  on. The line break at the end of the answer is not part of it.

  Args:
    text: the text so far, reasoning included.
    finders: the convention, see the module; only its first finder decides.

  Returns:
    None while the answer is incomplete: more text may change it.
  """
  check(finders)
  found = _outside_thoughts(text, finders[0])
  return found.end if found is not None and found.parts else None


def check(finders: Sequence[str]) -> None:
  """Raises ValueError unless `finders` are one or more names of `FINDERS`."""
  unknown = [name for name in finders if name not in FINDERS]
  if isinstance(finders, str) or not finders or unknown:
    raise ValueError(
        f'The finders are {finders!r}; allowed: a sequence of one or more of '
        f'{", ".join(FINDERS)}.'
    )


def _outside_thoughts(text: str, finder: str) -> Found | None:
  """Returns the first complete answer outside thoughts, or the last one."""
  found = None
  for start, stop in thoughts.outside(text):
    found = FINDERS[finder](text[:stop], start) or found
    if found and found.parts and found.end is not None:
      break
  return found


def _line_end(text: str, position: int) -> int | None:
  """Returns the index of the next line break; None if there is none."""
  found = text.find('\n', position)
  return None if found < 0 else found


def _hash(text: str, start: int) -> Found | None:
  begun = False
  for match in _HASH.finditer(text, start):
    line = match[1].strip(' \t*')
    if not line:
      begun = True
    elif not _is_heading(line):
      if _is_answer(line):
        return Found((line,), _line_end(text, match.end()))
      # Words alone may be a heading, too. What follows decides.
      if not text[match.end() :].strip():
        return Found((line,))
  return Found(()) if begun else None


def _is_heading(line: str) -> bool:
  return line.rstrip('* ').endswith(':') or bool(_HEADING.match(line))


def _is_answer(line: str) -> bool:
  """Returns whether a line after `####` cannot be a heading of words alone."""
  if not line[0].isalpha() or line.lower().rstrip('.') in _TRUTH:
    return True
  if not re.search(r'[A-Za-z]{2}', re.sub(r'\\[A-Za-z]+', '', line)):
    return True  # A letter or a formula.
  return bool(re.search(r'\d', _INLINE_MATH.sub('', line)))


def _boxed(text: str, start: int) -> Found | None:
  given_up = 0  # Index after the blank line that interrupts an open box.
  while (match := _BOX.search(text, start)) is not None:
    blank = _BLANK_LINE.search(text, match.end())
    limit = len(text) if blank is None else blank.start()
    close = _closing_brace(text, match.end(), limit)
    if close is None and blank is None:
      return Found(())  # It may still be closed.
    if close is None or _PLACEHOLDER.fullmatch(text, match.end(), close):
      if close is None:
        given_up = blank.end()
      start = match.end()
      continue
    until = _display_end(text, close, blank)
    if until is not None:
      # Without the blank line, the text would again end inside a box.
      until = max(until, given_up)
    rest = text if until is None else text[:until]
    return Found(_boxes(rest, match.start()), until)
  return Found(()) if given_up else None


def _display_end(text, close, blank) -> int | None:
  """Returns the end of the line of a box, or of the display around it.

  Args:
    text: the text.
    close: index of the brace that closes the box.
    blank: match of the blank line after the box; None = there is none.
  """
  before = text[:close]
  paragraph = max((m.end() for m in _BLANK_LINE.finditer(before)), default=0)
  position = close
  for opening, closing in _DISPLAYS:
    opened = before.rfind(opening, paragraph)
    # `\\[2pt]` is a line break with a distance.
    if opened > 0 and opening == r'\[' and text[opened - 1] == '\\':
      continue
    if opened >= 0 and before.find(closing, opened) < 0:
      found = text.find(closing, position)
      position = len(text) if found < 0 else found
  if before.count('$$', paragraph) % 2:
    found = text.find('$$', position)
    position = len(text) if found < 0 else found
  line = _line_end(text, position)
  if blank is None:
    return line
  return blank.start() if line is None else min(line, blank.start())


def _boxes(text: str, start: int) -> tuple[str, ...]:
  """Returns the contents of the last boxes that are joined, from `start` on."""
  run, last = [], None
  while (match := _BOX.search(text, start)) is not None:
    close = _closing_brace(text, match.end(), len(text))
    if close is None:
      break
    start = close + 1
    if _PLACEHOLDER.fullmatch(text, match.end(), close):
      continue
    content = text[match.end() : close].strip()
    if inner := _boxes(content, 0):
      content = ', '.join(inner)  # Boxes in a box.
    between = '' if last is None else text[last : match.start()]
    is_joined = len(between) < 60 and _JOINED.fullmatch(between)
    if not is_joined or _REPLACED.search(between):
      run = []
    run += [] if content in run else [content]
    last = start
  return tuple(run)


def _closing_brace(text: str, start: int, limit: int) -> int | None:
  r"""Returns the index of the `}` that closes a group opened before `start`.

  Escaped braces (`\{`, `\}`) are ignored. Returns None if no brace before
  `limit` closes the group.
  """
  # Counted by hand, since a regular expression cannot match nested braces.
  depth, i = 1, start
  while i < limit:
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


def _brackets(text: str, start: int) -> Found | None:
  # Up to the last brackets that close: otherwise each that opens would be
  # followed to the end of the text.
  until = text.rfind(']]') + 3
  for match in _BRACKETS.finditer(text, start, until):
    answer = match[1]
    while answer.startswith('[[') and answer.endswith(']]'):
      answer = answer[2:-2]  # Some models put brackets around the brackets.
    if not _PLACEHOLDER.fullmatch(answer):
      return Found((answer.strip(),), _line_end(text, match.end()))
  return Found(()) if text.find('[[', start) >= 0 else None


def _tag(text: str, start: int) -> Found | None:
  for match in _TAG.finditer(text, start):
    if match[1] is None:
      return Found(())  # It may still be closed.
    if not _PLACEHOLDER.fullmatch(match[1]):
      return Found((match[1].strip(),), match.end())
  return Found(()) if text.find('<answer>', start) >= 0 else None


def _after_phrase(text: str, start: int) -> Found | None:
  for match in _PHRASE.finditer(text, start):
    begin = match.end()
    while (again := _PHRASE.match(text, begin)) and again.end() > begin:
      begin = again.end()  # "Final Answer: The final answer is ..."
    stop = _SENTENCE_END.search(text, begin)
    answer = text[begin : stop.start() if stop else len(text)].strip(' \t*')
    # "The answer is not obvious."
    is_prose = len(answer.split()) > 3 and not re.search(r'[\d\\$]', answer)
    if answer and not is_prose:
      return Found((_unwrapped(answer),), _line_end(text, begin))
  return None


def _unwrapped(answer: str) -> str:
  """Returns an answer without the marks of inline mathematics around it."""
  for opening, closing in ((r'\(', r'\)'), (r'\[', r'\]'), ('$', '$')):
    inner = answer[len(opening) : -len(closing)]
    if answer == opening + inner + closing and closing not in inner and inner:
      return inner.strip()
  return answer


def _choice(text: str, start: int) -> Found | None:
  for match in _PHRASE.finditer(text, start):
    letter = _LETTER.match(text, match.end())
    if letter:
      return Found((letter[1],), _line_end(text, letter.end()))
  match = _LETTER_LINE.search(text, start)
  if match is None:
    return None
  # "A: ..." on a line may be an option that is weighed; so the last one counts,
  # and the choice is never complete.
  *_, match = _LETTER_LINE.finditer(text, start)
  return Found((match[1],))


def _number(text: str, start: int) -> Found | None:
  first = _NUMBER.search(text, start)
  if first is None:
    return None
  new = _NEW_QUESTION.search(text, first.end())
  until = len(text) if new is None else new.start()
  # In '12, ...' the pattern also matches the comma, which is punctuation.
  *_, last = _NUMBER.findall(text[start:until])
  return Found((last.rstrip(','),), None if new is None else until)


# Each takes a text and the index to begin at, and returns what it found; None
# if its mark is not there.
FINDERS: dict[str, Callable[[str, int], Found | None]] = {
    'hash': _hash,
    'boxed': _boxed,
    'brackets': _brackets,
    'tag': _tag,
    'after_phrase': _after_phrase,
    'choice': _choice,
    'number': _number,
}
