"""Tests of finding the final answer."""

from absl.testing import absltest
from absl.testing import parameterized

from routing.grading import answers


class FindTest(parameterized.TestCase):

  @parameterized.named_parameters(
      ('mark', 'P=1\n\n#### P = 19', 'P = 19'),
      ('last_mark', '#### 3\n#### 4\n', '4'),
      ('rest_of_the_line_only', '#### 42\nand 7 more', '42'),
      ('mark_beats_box', r'\boxed{1} #### 2', '2'),
      ('nothing_behind_the_mark', '12 + 7 = 19\n#### ', None),
      ('nothing_on_its_line', '####\n19', None),
      ('box', r'so \boxed{\frac{1}{2}}.', r'\frac{1}{2}'),
      ('last_box', r'\boxed{1}, no: \boxed{2}', '2'),
      ('box_beats_number', r'\boxed{x} in 3 steps', 'x'),
      ('space_before_the_brace', r'\boxed {x}', 'x'),
      ('nested', r'\boxed{a_{b_{c}}}', 'a_{b_{c}}'),
      ('escaped_braces', r'\boxed{\{1, 2\}}', r'\{1, 2\}'),
      ('one_escaped_brace', r'\boxed{\left\{x\right.}', r'\left\{x\right.'),
      ('escaped_backslash', r'\boxed{a \\}', r'a \\'),
      ('last_box_cut_off', r'\boxed{1} then \boxed{2 + {', '1'),
      ('only_box_cut_off', r'\boxed{17 + {', '17'),
      ('number', 'The answer is 42.', '42'),
      ('negative', 'x = -3', '-3'),
      ('last_number', '1 + 2 = 3\nso it costs $1,250.50 in all.', '1,250.50'),
      ('fraction', 'that is 3/4 of it', '3/4'),
      ('no_number_inside_a_word', 'see x2 and step 5b, 6', '6'),
      ('no_answer', 'I do not know.', None),
      ('empty', '', None),
  )
  def test_finds(self, text, expected):
    self.assertEqual(answers.find(text), expected)


if __name__ == '__main__':
  absltest.main()
