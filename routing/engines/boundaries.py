"""Finds where steps end, in a whole text or in one that arrives in parts.

A step ends with the delimiter and includes it. A delimiter inside a code fence
or a LaTeX block does not end a step. A step is never blank: blank lines before
a step belong to it. The steps of a text join to exactly that text.

Every decision depends only on the text since the step began. A text that
arrives in parts is therefore split like one that arrives whole.
"""

import re

from routing import types

# What opens a block. A code fence must start its line, and the info string
# after backticks may contain no backtick (CommonMark 4.5): ```a``` on one line
# is inline code. (?<!\\) skips escaped dollars and brackets, which LaTeX
# prints as text.
_OPENER = re.compile(
    r'(?m)^ {0,3}(?P<fence>`{3,}(?=[^`\n]*(?:\n|\Z))|~{3,})'
    r'|(?<!\\)(?P<dollars>\$\$)'
    r'|(?<!\\)\\(?P<bracket>\[)'
    r'|\\begin\{(?P<name>[^{}\n]+)\}'
)


def open_block(text: str) -> str | None:
  r"""Returns the string that closes the block `text` ends in, or None.

  None means that the text does not end inside a block. Blocks are code fences
  (``` or ~~~ at the start of a line), $$, \[ and LaTeX environments. A block
  inside another block is text of the outer one.
  """
  position = 0
  while opener := _OPENER.search(text, position):
    closer, pattern = _closer(opener)
    end = pattern.search(text, opener.end())
    if end is None:
      return closer
    # Everything up to the closer is text of this block, so the search for the
    # next opener starts after it. This is what makes nested openers inert.
    position = end.end()
  return None


def ends_step(text: str, delimiter: str = types.DELIMITER) -> bool:
  """Checks whether a step that so far reads `text` ends here."""
  return (
      text.endswith(delimiter)
      # Blank lines do not make a step; they belong to the next one.
      and not text.isspace()
      and open_block(text) is None
  )


def next_stop(text: str, delimiter: str = types.DELIMITER) -> str:
  """Returns the stop string of the next request for an unfinished step.

  Inside a block this is the string that closes it, otherwise the delimiter.
  Stopping at the delimiter inside a block would cost one request for each blank
  line of a listing.
  """
  return open_block(text) or delimiter


def split(text: str, delimiter: str = types.DELIMITER) -> list[str]:
  """Splits `text` into steps; only the last may lack the delimiter.

  In a run of more than two newlines, the first two end the step and the others
  begin the next one. A model that writes token by token is cut the same way.

  Raises:
    ValueError: if `delimiter` is empty.
  """
  if not delimiter:
    raise ValueError(
        "The delimiter is empty (''); it must have at least 1 character."
    )
  steps, start, position = [], 0, text.find(delimiter)
  while position >= 0:
    end = position + len(delimiter)
    if ends_step(text[start:end], delimiter):
      steps.append(text[start:end])
      start = position = end
    else:
      # Not `end`: occurrences may overlap, as in three newlines.
      position += 1
    position = text.find(delimiter, position)
  return [*steps, text[start:]] if start < len(text) else steps


def _closer(opener: re.Match) -> tuple[str, re.Pattern]:
  """Returns the string that closes a block and the pattern that finds it."""
  if fence := opener['fence']:
    # A closing fence may be longer than the opening one (CommonMark 4.5) and
    # stands alone on its line. The stop string is the bare fence, without the
    # newline before it: that newline may have been written in an earlier part,
    # and a stop string is matched in new text only.
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
