"""Shows the docstrings of this project as Markdown would have them.

A docstring here may hold formulas, indented by two spaces, and lists of fields,
a line `name: what it is` for each. Markdown would run both into a paragraph.
"""

import re

import griffe

_SECTION = re.compile(r'(Args|Returns|Raises|Yields|Attributes):')
_FIELD = re.compile(r'([a-z_]\w*(?:, [a-z_]\w*)*): ')


def as_markdown(text: str) -> str:
  """Returns a docstring with formulas as code, and fields as lists.

  The sections of a docstring, such as Args, and what follows them are left as
  they are: the parser of docstrings reads them.
  """
  paragraphs = text.split('\n\n')
  for i, paragraph in enumerate(paragraphs):
    if _SECTION.match(paragraph):
      break
    lines = paragraph.strip('\n').split('\n')
    if all(line.startswith('  ') for line in lines):
      paragraphs[i] = '\n'.join('  ' + line for line in lines)
    elif all(line.startswith('  ') or _FIELD.match(line) for line in lines):
      paragraphs[i] = '\n'.join(
          _FIELD.sub(r'- `\1`: ', line, count=1) if line[0] != ' ' else line
          for line in lines
      )
  return '\n\n'.join(paragraphs)


class HouseStyle(griffe.Extension):
  """Applies `as_markdown` to every docstring before it is parsed."""

  def on_object(self, *, obj, **kwargs):
    """Called by griffe for each module, class, function and attribute."""
    del kwargs
    if obj.docstring:
      obj.docstring.value = as_markdown(obj.docstring.value)
