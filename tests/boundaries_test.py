"""Tests of finding where steps end, in whole texts and in parts."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import types
from routing.engines import boundaries
from routing.tasks import delimiter as delimiter_lib

_PIECES = ('a', ' b', '\n', '\n\n', '\n```\n', '$$', '\\[', '\\]', '~~~\n')


def _texts(count, pieces=_PIECES):
  """Yields random texts with many strings that may or may not end a step."""
  rng = np.random.default_rng(0)
  for _ in range(count):
    yield ''.join(rng.choice(list(pieces), size=rng.integers(0, 20)))


def _write_by_request(text):
  """Cuts `text` as an engine does, with one stop string per request."""
  steps, step, position = [], '', 0
  while position < len(text):
    stop = boundaries.next_stop(step)
    found = text.find(stop, position)
    end = len(text) if found < 0 else found + len(stop)
    step += text[position:end]
    position = end
    if boundaries.ends_step(step):
      steps.append(step)
      step = ''
  return [*steps, step] if step else steps


class SplitTest(parameterized.TestCase):

  @parameterized.parameters(
      ('', []),
      ('a', ['a']),
      ('a\n\n', ['a\n\n']),
      ('a\n\nb', ['a\n\n', 'b']),
      ('a\n\n\nb', ['a\n\n', '\nb']),
      ('a\nb', ['a\nb']),
  )
  def test_ends_each_step_with_the_delimiter(self, text, expected):
    self.assertEqual(boundaries.split(text), expected)

  @parameterized.parameters(
      ('\n\n\n\n', ['\n\n\n\n']),
      ('\n\na\n\nb', ['\n\na\n\n', 'b']),
      ('a\n\n\n\n \n\nb', ['a\n\n', '\n\n \n\nb']),
  )
  def test_no_step_is_blank(self, text, expected):
    self.assertEqual(boundaries.split(text), expected)

  @parameterized.parameters(
      '```python\nx = 1\n\ny = 2\n```\n\n',
      'so:\n```\n\n\n```\n\n',
      '````\n```\n\n````\n\n',  # A shorter fence does not close a longer one.
      '~~~\n```\n\n~~~\n\n',
      '\\[ x\n\n= 1 \\]\n\n',
      '$$\nx\n\n$$\n\n',
      '\\begin{align*}\nx &= 1 \\\\[2pt]\n\ny\n\\end{align*}\n\n',
      '\\begin{a}\\begin{b}\n\n\\end{b}\n\n\\end{a}\n\n',
  )
  def test_a_delimiter_in_a_block_does_not_end_a_step(self, block):
    self.assertEqual(boundaries.split(block + 'b'), [block, 'b'])

  @parameterized.parameters(
      'use ```x``` here\n\n',  # Inline code.
      'a line break \\\\[2pt] in a formula\n\n',
      'a price of \\$$5\n\n',
      '\\( x \\) and $y$\n\n',
      '```\nx\n```\n\n',
      '\\]\n\n',
  )
  def test_text_outside_blocks_has_no_open_block(self, text):
    self.assertEqual(boundaries.split(text + 'b'), [text, 'b'])

  def test_joined_steps_are_the_text(self):
    for text in _texts(1000):
      got = boundaries.split(text)
      self.assertEqual(''.join(got), text)
      self.assertTrue(all(step.endswith('\n\n') for step in got[:-1]))
      self.assertFalse(any(step.isspace() for step in got[:-1]))

  def test_without_blocks_there_is_no_boundary_inside(self):
    for text in _texts(500, ('a', 'b', '\n')):
      for step in boundaries.split(text):
        written = step.lstrip('\n')
        self.assertIn(written.find('\n\n'), (-1, len(written) - 2))

  def test_a_text_in_parts_is_cut_like_the_whole(self):
    num_blocks = 0
    for text in _texts(2000):
      self.assertEqual(
          _write_by_request(text), boundaries.split(text), repr(text)
      )
      num_blocks += boundaries.open_block(text) is not None
    self.assertGreater(num_blocks, 200)

  def test_lines_are_cut_as_any_delimiter_is(self):
    # The quick way, for delimiters that end a line, against the plain one.
    for text in _texts(1000, (*_PIECES, '``', ' ', '\\')):
      for delimiter in map(delimiter_lib.of, ('\n\n', '\n')):
        start, plain = 0, []
        while (end := boundaries._end(text, start, delimiter)) is not None:
          plain.append(start := end)
        self.assertEqual(boundaries.ends(text, delimiter), plain, repr(text))


class IsCutTest(parameterized.TestCase):

  @parameterized.parameters(
      ('a', None, True),
      ('$$ a\n\n', None, True),  # Inside a formula.
      ('a\n\n', None, False),
      ('a\n\n', False, True),  # Another delimiter ends steps.
      ('a', True, False),
  )
  def test_a_step_is_cut_unless_it_is_complete(self, text, stored, expected):
    step = types.Step(
        text=text,
        token_ids=(1,),
        log_probs=np.zeros(1, np.float32),
        top_log_probs=np.zeros((1, 0), np.float32),
        is_final=False,
        usage=types.Usage(0, 0, 0, 1),
        is_complete=stored,
    )
    self.assertEqual(boundaries.is_cut(step), expected)
    final = dataclasses.replace(step, is_final=True)
    self.assertFalse(boundaries.is_cut(final))


class NextStopTest(parameterized.TestCase):

  @parameterized.parameters(
      ('', '\n\n'),
      ('a', '\n\n'),
      ('```py\nx\n\n', '```'),
      ('````\n```\n\n', '````'),
      ('$$ x\n\n', '$$'),
      ('\\[', '\\]'),
      ('\\begin{align*}', '\\end{align*}'),
      ('```\nx\n```', '\n\n'),
  )
  def test_is_the_string_that_closes_the_block(self, text, expected):
    self.assertEqual(boundaries.next_stop(text), expected)


if __name__ == '__main__':
  absltest.main()
