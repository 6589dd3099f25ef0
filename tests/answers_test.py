"""Tests of finding the final answer, and of where it ends."""

import random
import time

from absl.testing import absltest
from absl.testing import parameterized

from routing.grading import answers

# What models write: parts of answers, headings, and what follows an answer.
_FRAGMENTS = (
    *('#### ', '#### 18', '####', '#### Step 1', '#### 2. Add', '#### Area'),
    *(r'\boxed{5}', r'\boxed{', r'\boxed{\frac{1}{2}}', r'\boxed{}', '}', '{'),
    *(r'\[', r'\]', '$$', '$', r'\(', r'\)', ' and ', ' or ', ', no: ', ' so '),
    *('[[A]]', '[[', ']]', '[[answer]]', 'The answer is ', 'Answer: ', 'A: 7'),
    *('(B)', 'C', 'not obvious at all', '42.', '3/4', '$1,250.50', 'x2', '. '),
    *('<answer>', '<answer>5</answer>', '</answer>'),
    *('Question: 2 + 2?', 'Q: ', '<think>', '</think>', '#', ':', '\\', '!'),
)


class FindTest(parameterized.TestCase):

  @parameterized.named_parameters(
      ('mark', 'P=1\n\n#### P = 19', 'P = 19'),
      ('first_mark', '#### 3\n#### 4\n', '3'),
      ('rest_of_the_line_only', '#### 42\nand 7 more', '42'),
      ('mark_beats_box', r'\boxed{1} #### 2', '2'),
      ('nothing_behind_the_mark', '12 + 7 = 19\n#### ', None),
      ('nothing_on_its_line', '####\n19', None),
      ('five_signs_are_no_mark', '##### 3\nso 4', '4'),
      ('heading_with_a_number', '#### Step 1: add\n2 + 3 = 5\n#### 5', '5'),
      ('heading_then_box', '#### Step 1\nSo\n\\boxed{5}', '5'),
      ('heading_with_a_colon', '#### Area for 2 sides:\n\\boxed{5}', '5'),
      ('numbered_heading', '#### 1. Add them\n2 + 3 = 5\n#### 5', '5'),
      ('heading_of_words', '#### Area of the line \\(y = 4\\)\n#### 5', '5'),
      ('words_that_end_the_text', 'so\n#### New York\n', 'New York'),
      ('sentence', '#### Jackson is 4 years old.', 'Jackson is 4 years old.'),
      ('truth', '#### True\n\nQuestion: 2?\n#### False', 'True'),
      ('box', r'so \boxed{\frac{1}{2}}.', r'\frac{1}{2}'),
      ('last_box_of_a_line', r'\boxed{1}, no: \boxed{2}', '2'),
      ('box_of_the_first_line', '\\boxed{1}\nNow \\boxed{2}', '1'),
      ('box_beats_number', r'\boxed{x} in 3 steps', 'x'),
      ('space_before_the_brace', r'\boxed {x}', 'x'),
      ('frame', r'\fbox{7} in 3 steps', '7'),
      ('nested', r'\boxed{a_{b_{c}}}', 'a_{b_{c}}'),
      ('box_in_a_box', r'\boxed{\boxed{5}}', '5'),
      ('equation_in_a_box', r'\boxed{7 - 2 = \boxed{5}}', '5'),
      ('escaped_braces', r'\boxed{\{1, 2\}}', r'\{1, 2\}'),
      ('one_escaped_brace', r'\boxed{\left\{x\right.}', r'\left\{x\right.'),
      ('escaped_backslash', r'\boxed{a \\}', r'a \\'),
      ('last_box_cut_off', r'\boxed{1} then \boxed{2 + {', '1'),
      ('only_box_cut_off', r'16 + 1 so \boxed{17 + {', None),
      ('box_given_up', '\\boxed{17 + {\n\nAgain: \\boxed{3}', '3'),
      ('empty_box', 'Within \\boxed{}:\n\\boxed{-3 + c}', '-3 + c'),
      ('place_held', '4 = \\boxed{\\phantom{2}}.\n\nIt is \\boxed{4}', '4'),
      ('number', 'The answer is 42.', '42'),
      ('negative', 'x = -3', '-3'),
      ('last_number', '1 + 2 = 3\nso it costs $1,250.50 in all.', '1,250.50'),
      ('fraction', 'that is 3/4 of it', '3/4'),
      ('number_with_its_unit', '0.8 * 60g = 48g of chips', '48'),
      ('no_number_inside_a_word', 'see x2 and step 5b, 6', '6'),
      ('number_before_a_question', 'so 8\n\nQuestion: 1 + 2?\nIt is 3', '8'),
      ('thought', '<think>\\boxed{1}</think>\\boxed{2}', '2'),
      ('thought_only', '<think>It may be 3', None),
      ('no_answer', 'I do not know.', None),
      ('empty', '', None),
  )
  def test_finds(self, text, expected):
    self.assertEqual(answers.find(text), expected)

  @parameterized.named_parameters(
      ('and', r'\(\boxed{1}\) and \(\boxed{-2}\).', ('1', '-2')),
      ('comma', r'\boxed{(1, 2)}, \boxed{(2, 1)}', ('(1, 2)', '(2, 1)')),
      ('words', r'\boxed{1} papers and \boxed{2} bins', ('1', '2')),
      ('or', '\\[\n\\boxed{0.5}\n\\]\nor $\\boxed{1/2}$.', ('0.5',)),
      ('or_behind_the_display', '\\[\\boxed{0.5}\\] or $\\boxed{1/2}$.', None),
      ('the_same_twice', r'\boxed{3} and \boxed{3}', ('3',)),
      ('replaced', r'\boxed{3} and so finally \boxed{4}', ('4',)),
  )
  def test_boxes_that_are_joined_are_one_answer(self, text, expected):
    found = answers.locate(text, ('boxed',))
    self.assertEqual(found.parts, expected or ('0.5', '1/2'))

  @parameterized.named_parameters(
      ('brackets', 'brackets', 'so [[ 24 ]].', '24'),
      ('first_brackets', 'brackets', '[[1]]\n[[2]]', '1'),
      ('brackets_quoted', 'brackets', 'in [[answer]]:\n[[N]]', 'N'),
      ('brackets_in_brackets', 'brackets', '[[[1,2],[3]]]', '[1,2],[3]'),
      ('brackets_twice', 'brackets', '[[[[16]]]]', '16'),
      ('brackets_cut_off', 'brackets', 'so [[24', None),
      ('one_bracket', 'brackets', '[B]', None),
      ('tag', 'tag', 'so <answer>\n1 2\n3 4\n</answer>.', '1 2\n3 4'),
      ('first_tag', 'tag', '<answer>1</answer><answer>2</answer>', '1'),
      ('tag_quoted', 'tag', '<answer>...</answer><answer>2</answer>', '2'),
      ('tag_cut_off', 'tag', 'so 5, <answer>5', None),
      ('empty_tag', 'tag', 'so 5, <answer></answer>', None),
      ('phrase', 'after_phrase', 'The answer is $5$. I hope so.', '5'),
      ('phrase_with_decimals', 'after_phrase', 'Answer: 2.5 cm.', '2.5 cm'),
      ('phrase_twice', 'after_phrase', 'Final Answer: The answer is 5', '5'),
      ('phrase_before_a_question', 'after_phrase', 'A: 5\nQ: 2?\nA: 2', '5'),
      ('phrase_on_the_line_before', 'after_phrase', '**Answer:**\n5', '5'),
      (
          'phrase_without_an_answer',
          'after_phrase',
          'The answer is not easy to see. The answer is 7.',
          '7',
      ),
      ('choice', 'choice', 'A is wrong. The answer is (B).', 'B'),
      ('choice_of_a_line', 'choice', 'It is\n(C)', 'C'),
      ('choice_in_text', 'choice', r'Answer: \text{(D)}', 'D'),
      ('no_choice', 'choice', 'The answer is Aristotle.', None),
  )
  def test_finds_by_convention(self, finder, text, expected):
    self.assertEqual(answers.find(text, (finder,)), expected)

  def test_the_order_of_the_convention_decides(self):
    text = '#### 1\n\\boxed{2}\nThe answer is 3, or [[4]].'
    for finder, expected in (('boxed', '2'), ('brackets', '4'), ('hash', '1')):
      self.assertEqual(answers.find(text, (finder, 'number')), expected)
    self.assertEqual(answers.find('so 3', ('boxed', 'number')), '3')

  @parameterized.parameters('hash', [()], [('hash', 'box')])
  def test_a_wrong_convention_is_refused(self, finders):
    with self.assertRaisesRegex(ValueError, 'allowed: .*hash, boxed'):
      answers.find('#### 1', finders)

  @parameterized.parameters(
      *('<answer>', '<answer></answer>', '</answer>'),
      *('[[', ']]', '\\boxed{', '\\boxed{\n\n', '\\boxed{1} ', '#### A\n', '}'),
      *(
          'the ',
          'the answer ',
          'answer is ',
          '1,',
          '1',
          '\n',
          ' ',
          '$$',
          'Q: 1\n',
      ),
      *(
          '\\text{',
          '\\boxed{1}\\text{ ',
          '\\[',
          '(A)\n',
          '[[answer]] ',
          '. ',
          '{',
      ),
  )
  def test_long_texts_take_no_longer(self, piece):
    text = piece * (50_000 // len(piece)) + 'x'
    start = time.process_time()
    for finder in answers.FINDERS:
      answers.locate(text, (finder,))
      answers.end(text, (finder,))
    self.assertLess(time.process_time() - start, 5.0)


class EndTest(parameterized.TestCase):

  @parameterized.named_parameters(
      ('mark', 'hash', '2 + 3 = 5\n#### 5', '\n\nQuestion: ...\n#### 7'),
      ('box', 'boxed', r'It is \boxed{5}.', '\nQuestion: ...\n\\boxed{7}'),
      ('display', 'boxed', '\\[\n\\boxed{5}\n\\]', '\n\nNow \\boxed{7}'),
      ('dollars', 'boxed', '$$\n\\boxed{5}\n$$', '\nNow \\boxed{7}'),
      (
          'aligned',
          'boxed',
          '\\begin{align*}\nx\n&=\\boxed{5}\n\\end{align*}',
          '\n',
      ),
      ('open_display', 'boxed', '\\[\n\\boxed{5}\nor so', '\n\n\\boxed{7}'),
      ('brackets', 'brackets', 'so [[5]].', '\n[[7]]'),
      ('phrase', 'after_phrase', 'The answer is 5.', '\nThe answer is 7.'),
      ('choice', 'choice', 'The answer is (B).', '\nThe answer is (C).'),
      ('number', 'number', 'It is 5.\n\n', 'Question: 1 + 6?\nIt is 7.'),
  )
  def test_a_later_question_does_not_count(self, finder, first, rest):
    text = first + rest
    convention = finder, *{'hash', 'number'} - {finder}
    self.assertEqual(answers.end(text, convention), len(first))
    expected = 'B' if finder == 'choice' else '5'
    self.assertEqual(answers.find(text, convention), expected)
    self.assertEqual(answers.find(first, convention), expected)
    self.assertIsNone(answers.end(first, convention))

  def test_a_tag_is_complete_where_it_closes(self):
    text = 'so <answer>\n5\n</answer>'
    self.assertEqual(answers.end(text, ('tag', 'number')), len(text))
    rest = ' or <answer>7</answer>'
    self.assertEqual(answers.find(text + rest, ('tag', 'number')), '5')

  @parameterized.parameters(
      ('#### 5', 'hash'),  # May become 55.
      ('#### Blue whale\n', 'hash'),  # May be a heading.
      ('####\n', 'hash'),
      (r'\boxed{5} ', 'boxed'),  # May become `and \boxed{6}`.
      ('\\boxed{5 +\n', 'boxed'),
      ('\\[\\boxed{5}\n', 'boxed'),
      ('<answer>5', 'tag'),
      ('#### 5\n', 'boxed'),  # Only the first finder decides.
      ('It is 5.\n\n', 'number'),
      ('<think>\n#### 5\n', 'hash'),
  )
  def test_an_answer_that_may_change_has_no_end(self, text, finder):
    self.assertIsNone(answers.end(text, (finder, 'hash', 'number')))

  @parameterized.parameters(*answers.FINDERS)
  def test_what_is_decided_stays_decided(self, finder):
    rng = random.Random(0)
    num_ended = 0
    for _ in range(600):
      pieces = rng.choices(_FRAGMENTS + ('\n', '\n\n', ' ') * 6, k=20)
      text = ''.join(pieces)
      end = answers.end(text, (finder,))
      for stop in range(len(text)):
        early = answers.end(text[:stop], (finder,))
        if early is not None:
          self.assertEqual(early, end, repr(text))
      if end is not None:
        num_ended += 1
        self.assertEqual(
            answers.find(text[:end], (finder,)),
            answers.find(text, (finder,)),
            repr(text),
        )
    self.assertGreater(num_ended, 10)


if __name__ == '__main__':
  absltest.main()
