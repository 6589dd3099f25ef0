"""Where a step ends, in a text that comes whole or request by request.

A step ends with the delimiter, which belongs to it. A delimiter inside a code
fence or a LaTeX block does not end a step, and a step is never blank: blank
lines before it are its own. Joining the steps of a text gives the text again,
character for character. All of it follows from the text since the step began,
so a text that arrives in pieces is cut like one that arrives at once.
"""

import re

from routing import types

# A fence opens a line; its info string may hold no backtick (CommonMark 4.5).
_OPENER = re.compile(
    r'(?m)^ {0,3}(?P<fence>`{3,}(?=[^`\n]*(?:\n|\Z))|~{3,})'
    r'|(?<!\\)(?P<dollars>\$\$)'
    r'|(?<!\\)\\(?P<bracket>\[)'
    r'|\\begin\{(?P<name>[^{}\n]+)\}'
)


def open_block(text: str) -> str | None:
  """What would close the block that `text` ends in; None outside of blocks.

  Blocks are code fences (``` or ~~~ at the start of a line), $$, \\[ and LaTeX
  environments. One inside another is text of the outer one.
  """
  position = 0
  while opener := _OPENER.search(text, position):
    closer, pattern = _closer(opener)
    end = pattern.search(text, opener.end())
    if end is None:
      return closer
    position = end.end()
  return None


def ends_step(text: str, delimiter: str = types.DELIMITER) -> bool:
  """Whether a step that so far reads `text` ends here."""
  return (
      text.endswith(delimiter)
      and not text.isspace()
      and open_block(text) is None
  )


def next_stop(text: str, delimiter: str = types.DELIMITER) -> str:
  """The string up to which a step that so far reads `text` must go on.

  Inside a block that is what closes it: a request for each blank line of a
  listing would be wasted.
  """
  return open_block(text) or delimiter


def split(text: str, delimiter: str = types.DELIMITER) -> list[str]:
  """Splits `text` into steps; only the last may lack the delimiter.

  Of a longer run of newlines the first two end the step; the others open the
  next one, as a model that writes token by token would have it.

  Raises:
    ValueError: if `delimiter` is empty.
  """
  if not delimiter:
    raise ValueError('The delimiter is empty; it must be 1 character or more.')
  steps, start, position = [], 0, text.find(delimiter)
  while position >= 0:
    end = position + len(delimiter)
    if ends_step(text[start:end], delimiter):
      steps.append(text[start:end])
      start = position = end
    else:
      position += 1
    position = text.find(delimiter, position)
  return [*steps, text[start:]] if start < len(text) else steps


def _closer(opener: re.Match) -> tuple[str, re.Pattern]:
  """The string that closes a block, and how to recognise that it did."""
  if fence := opener['fence']:
    # The newline before it may be in what came already.
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
