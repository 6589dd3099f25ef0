"""Tests of numbers and tables in Markdown."""

from absl.testing import absltest
from absl.testing import parameterized

from routing.evaluation import markdown


class MarkdownTest(parameterized.TestCase):

  @parameterized.parameters(
      (0.7124, 3, '.712'),
      (-0.04, 2, '-.04'),
      (1.0, 1, '1.0'),
      (10.05, 2, '10.05'),
      (0.0, 3, '.000'),
      (None, 3, '-'),
  )
  def test_number(self, value, digits, expected):
    self.assertEqual(markdown.number(value, digits), expected)

  def test_table(self):
    rows = [('a', 'draft', '.5')]
    self.assertEqual(
        markdown.table(('router', 'needs', 'area'), rows, num_text=2),
        '| router | needs | area |\n| --- | --- | ---: |\n| a | draft | .5 |',
    )
    self.assertIn(
        '| --- | ---: | ---: |', markdown.table(('a', 'b', 'c'), rows)
    )

  def test_bullets(self):
    self.assertEqual(markdown.bullets(['one', 'two']), '* one\n* two')


if __name__ == '__main__':
  absltest.main()
