"""Splits a text into steps; the text may be whole or still being written.

A step ends with the delimiter and includes it. A delimiter inside a code fence
or a LaTeX block does not end a step. A step is never blank: blank lines before
a step are part of the step. The steps of a text join to exactly that text.

Whether a step ends depends only on the step's own text, and for a pattern on
what follows it. A text that arrives in parts is therefore split like a text
that arrives whole. Limits on the length of a step are applied by
`segmentation`, because a length is counted in tokens.
"""

import functools
import re

from routing import types
from routing.tasks import delimiter as delimiter_lib

BLANK_LINE = delimiter_lib.BLANK_LINE
# Matches the opening of a block. A code fence must start its line, and the info
# string after backticks may contain no backtick (CommonMark 4.5): ```a``` on
# one line is inline code. (?<!\\) skips escaped dollars and brackets, which
# LaTeX prints as text.
_OPENER = re.compile(
    r'(?m)^ {0,3}(?P<fence>`{3,}(?=[^`\n]*(?:\n|\Z))|~{3,})'
    r'|(?<!\\)(?P<dollars>\$\$)'
    r'|(?<!\\)\\(?P<bracket>\[)'
    r'|\\begin\{(?P<name>[^{}\n]+)\}'
)

_NOT_BLANK = re.compile(r'\S')


def open_block(text: str) -> str | None:
  r"""Returns the string that would close the block in which `text` ends.

  The result is None if the text does not end inside a block. Blocks are opened
  by a code fence (``` or ~~~ at the start of a line), $$, \[ or \begin{...}.
  The opening of a second block inside a block has no effect.
  """
  position = 0
  while opener := _OPENER.search(text, position):
    closer, pattern = _closer(opener)
    end = pattern.search(text, opener.end())
    if end is None:
      return closer
    # The search for the next opener continues after the closer of this block.
    # Openers inside the block are thus skipped.
    position = end.end()
  return None


def ends_step(
    text: str, delimiter: delimiter_lib.Delimiter = BLANK_LINE
) -> bool:
  """Checks whether the text of a delimiter completes a step.

  Args:
    text: everything written since the end of the step before.
    delimiter: what ends a step; it must have no pattern.
  """
  return (
      text.endswith(delimiter.text)
      # Blank lines alone are not a step; they belong to the step that follows.
      and not text.isspace()
      and open_block(text) is None
  )


def is_cut(step: types.Step) -> bool:
  """Returns whether the token limit cut this step off before its end.

  No model can continue after a step that was cut off, because a trace must end
  at a step boundary.
  """
  is_complete = step.is_complete
  if is_complete is None:  # In older files, and of the embedded pair.
    ends = step.text.endswith(BLANK_LINE.text)
    is_complete = ends and not open_block(step.text)
  return not step.is_final and not is_complete


def next_stop(
    text: str, delimiter: delimiter_lib.Delimiter = BLANK_LINE
) -> str | None:
  """Returns the stop string to request when continuing an unfinished step.

  If `text`, the step so far, ends inside a block, the stop string is the one
  that closes the block; otherwise it is the delimiter. Stopping at every
  delimiter inside a block would cost one request per blank line of a listing.
  No back end can stop at a pattern, so there is no stop string for it.
  """
  if delimiter.pattern:
    return None
  return open_block(text) or delimiter.text


def split(
    text: str, delimiter: delimiter_lib.Delimiter = BLANK_LINE
) -> list[str]:
  """Splits `text` into steps; only the last step may be incomplete.

  In a run of more than two newlines, the first two end a step and the others
  begin the next step. This is also where `ends_step` cuts a text that is
  written token by token.
  """
  steps, start = [], 0
  for end in ends(text, delimiter):
    steps.append(text[start:end])
    start = end
  return [*steps, text[start:]] if start < len(text) else steps


def ends(
    text: str, delimiter: delimiter_lib.Delimiter = BLANK_LINE
) -> list[int]:
  """Returns the index in `text` at which each complete step ends.

  If the delimiter ends a line, the time is proportional to the text's length.
  """
  found, start = [], 0
  while (end := next_end(text, start, delimiter)) is not None:
    found.append(end)
    start = end
  return found


def next_end(
    text: str, start: int, delimiter: delimiter_lib.Delimiter = BLANK_LINE
) -> int | None:
  """Returns where the step that begins at `start` ends; None if it does not."""
  if delimiter.pattern:
    return _end_of_pattern(text, start, delimiter.pattern)
  if delimiter.text.endswith('\n'):
    return _end_of_lines(text, start, delimiter.text)
  return _end(text, start, delimiter)


def _end(
    text: str, start: int, delimiter: delimiter_lib.Delimiter
) -> int | None:
  """As `next_end`, for any text of a delimiter."""
  size = len(delimiter.text)
  stop = text.find(delimiter.text, start)
  while stop >= 0:
    if ends_step(text[start : stop + size], delimiter):
      return stop + size
    # Occurrences of the delimiter may overlap, as in three newlines.
    stop = text.find(delimiter.text, stop + 1)
  return None


def _end_of_lines(text: str, start: int, delimiter: str) -> int | None:
  """As `next_end`, but reads no character twice.

  It needs whole lines: in the middle of a line, later text may show that three
  backticks were no code fence.
  """
  written = _NOT_BLANK.search(text, start)
  if written is None:
    return None
  position = start  # No block begins before it.
  # A delimiter that ends in blank text ends no step.
  after = max(start, written.start() - len(delimiter) + 1)
  while (stop := text.find(delimiter, max(position, after))) >= 0:
    end = stop + len(delimiter)
    opener = _OPENER.search(text, position, end)
    if opener is None:
      return end
    closed = _closer(opener)[1].search(text, opener.end())
    if closed is None:
      return None
    # Openers and delimiters inside the block are skipped.
    position = closed.end()
  return None


def _end_of_pattern(text: str, start: int, pattern: str) -> int | None:
  """As `next_end`, for a pattern; something must follow its match."""
  text = text[start:]  # A step may begin within a line, and `^` matches there.
  written = _NOT_BLANK.search(text)
  if written is None:
    return None
  position = 0  # No block begins before it.
  for match in _compiled(pattern).finditer(text):
    end = match.end()
    if end == len(text):
      return None  # More text might make the match longer, or undo it.
    if end <= written.start():
      continue  # The step would be blank.
    # To the end of the line: what follows may show that it opens no block.
    line = text.find('\n', end)
    line = len(text) if line < 0 else line
    opener = _OPENER.search(text, position, line)
    while opener is not None and opener.start() < end:
      closed = _closer(opener)[1].search(text, opener.end())
      if closed is None:
        return None
      position = closed.end()
      opener = _OPENER.search(text, position, max(line, position))
    if match.start() >= position:  # Not inside a block.
      return start + end
  return None


@functools.lru_cache(maxsize=16)
def _compiled(pattern: str) -> re.Pattern:
  """Returns a compiled pattern, in which ^ and $ are bounds of lines."""
  return re.compile(pattern, re.MULTILINE)


def _closer(opener: re.Match) -> tuple[str, re.Pattern]:
  """Returns the string that closes a block and a pattern that finds it.

  Args:
    opener: the match of `_OPENER` that opened the block.
  """
  if fence := opener['fence']:
    # A closing fence may be longer than the opening fence (CommonMark 4.5) and
    # stands alone on its line. The returned string omits the newline before the
    # fence: it serves as a stop string, and servers search for a stop string in
    # new text only, whereas the newline may have been written before.
    return fence, re.compile(
        rf'\n {{0,3}}{re.escape(fence)}{re.escape(fence[0])}*[ \t]*(?=\n|\Z)'
    )
  if opener['dollars']:
    closer = '$$'
  elif opener['bracket']:
    closer = r'\]'
  else:
    closer = rf'\end{{{opener["name"]}}}'
  return closer, re.compile(re.escape(closer))
