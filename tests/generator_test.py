"""Tests of the grader that asks the generator of a problem."""

import ast
import concurrent.futures
import importlib.util
import itertools
import json
import time
import unittest

from absl.testing import absltest
from absl.testing import parameterized

from routing.grading import equivalence
from routing.grading import generator
from routing.shards import columns
from routing.tasks import registry

_FINDERS = ('tag', 'hash')


@unittest.skipUnless(
    importlib.util.find_spec('reasoning_gym'),
    'reasoning-gym is not installed: pip install reasoning-gym',
)
class GeneratorTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.grade = equivalence.by_name('generator', _FINDERS)
    cls.addClassCleanup(cls.grade.close)

  def problem(self, name, index=0, **settings):
    task = registry.make(
        'reasoning_gym', generators=(name,), settings={name: settings}
    )
    return task.source.load({'test': index + 1}, 3).parts['test'][index]

  def verdict(self, problem, answer):
    return self.grade(
        f'So:\n<answer>{answer}</answer>', problem.answer, problem.meta
    )

  def test_another_right_answer_is_right(self):
    # Four numbers make the target; others than the reference do, too.
    problem = self.problem('countdown', min_numbers=4, max_numbers=4)
    metadata = _entry(problem)['metadata']
    other = next(
        x
        for x in _sums(metadata['numbers'], metadata['target'])
        if x != problem.answer
    )
    self.assertFalse(
        equivalence.exact(f'#### {other}', problem.answer).is_correct
    )
    verdict = self.verdict(problem, other)
    self.assertEqual((verdict.is_correct, verdict.method), (True, 'generator'))
    # The right value is wrong, since it is not made of the numbers. Rules would
    # compare values, and say right.
    alone = str(metadata['target'])
    self.assertTrue(
        self.grade._rules(f'#### {alone}', problem.answer).is_correct
    )
    self.assertFalse(self.verdict(problem, alone).is_correct)

  def test_a_generator_without_reference(self):
    problem = self.problem('graph_color')
    metadata = _entry(problem)['metadata']
    colours = {str(k): v for k, v in metadata['possible_answer'].items()}
    self.assertTrue(self.verdict(problem, json.dumps(colours)).is_correct)
    # Another colouring: two colours exchanged.
    swap = {1: 2, 2: 1, 3: 3}
    other = {k: swap[v] for k, v in colours.items()}
    self.assertTrue(self.verdict(problem, json.dumps(other)).is_correct)
    same = dict.fromkeys(colours, 1)
    self.assertNotEmpty(metadata['puzzle']['edges'])
    self.assertFalse(self.verdict(problem, json.dumps(same)).is_correct)
    self.assertFalse(self.verdict(problem, problem.answer).is_correct)

  def test_part_of_the_score_is_wrong(self):
    problem = self.problem('knights_knaves', n_people=3)
    solution = _entry(problem)['metadata']['solution']
    self.assertTrue(self.verdict(problem, problem.answer).is_correct)
    first, rest = problem.answer.split(',', 1)
    terms = _entry(problem)['metadata']['knight_knave_terms']
    words = terms['a_knight'], terms['a_knave']
    old, new = words if solution[0] else words[::-1]
    nearly = f'{first.replace(old, new)},{rest}'
    self.assertNotEqual(nearly, problem.answer)
    verdict = self.verdict(problem, nearly)
    self.assertEqual((verdict.is_correct, verdict.reason), (False, 'differs'))

  def test_an_answer_of_several_lines(self):
    problem = self.problem('mini_sudoku')
    self.assertIn('\n', problem.answer)
    verdict = self.verdict(problem, f'\n{problem.answer}\n')
    self.assertEqual(
        (verdict.is_correct, verdict.answer), (True, problem.answer)
    )
    self.assertFalse(self.verdict(problem, problem.answer[:-1]).is_correct)

  def test_without_a_score_of_its_own_rules_decide(self):
    problem = self.problem('lcm')
    self.assertIsNone(problem.meta[generator.META])
    verdict = self.verdict(problem, f'{problem.answer}.0')
    self.assertEqual((verdict.is_correct, verdict.method), (True, 'number'))

  def test_a_problem_is_the_same_after_it_was_stored(self):
    problem = self.problem('rearc')  # Its score compares tuples.
    (stored,) = [
        json.loads(x) for x in columns.encode_problems([problem])['meta']
    ]
    self.assertEqual(stored, dict(problem.meta))
    text = f'<answer>{problem.answer}</answer>'
    self.assertTrue(self.grade(text, problem.answer, stored).is_correct)

  @parameterized.parameters('71zz', '', '9' * 5_000, '\x00', '((((')
  def test_what_a_generator_cannot_read_is_wrong(self, answer):
    problem = self.problem('prime_factorization')
    self.assertFalse(self.verdict(problem, answer).is_correct)

  def test_no_answer(self):
    problem = self.problem('countdown')
    for text in ('', 'I do not know', '<answer>'):
      verdict = self.grade(text, problem.answer, problem.meta)
      self.assertEqual(verdict.reason, 'no answer found')

  def test_a_late_score_is_wrong_and_the_next_one_is_right(self):
    rules = equivalence.MathVerify(_FINDERS)
    grade = generator.Generator(_FINDERS, rules, workers=1, timeout=2.0)
    self.addCleanup(grade.close)
    problem = self.problem('polynomial_multiplication')
    right = f'<answer>{problem.answer}</answer>'
    self.assertTrue(grade(right, problem.answer, problem.meta).is_correct)
    start = time.monotonic()
    tower = '<answer>9**9**9**9 * x</answer>'
    verdict = grade(tower, problem.answer, problem.meta)
    self.assertEqual((verdict.is_correct, verdict.reason), (False, 'timed out'))
    self.assertLess(time.monotonic() - start, 12 * 2.0 + 5.0)
    other = f'<answer> {problem.answer} + 0</answer>'  # Not remembered.
    self.assertTrue(grade(other, problem.answer, problem.meta).is_correct)

  def test_from_worker_threads(self):
    problems = [self.problem('countdown', i) for i in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
      got = threads.map(lambda p: self.verdict(p, p.answer), problems)
    self.assertEqual([x.is_correct for x in got], [True] * 4)


def _entry(problem):
  return ast.literal_eval(problem.meta[generator.META]['entry'])


def _sums(numbers, target):
  """Yields sums and differences of all the numbers that are the target."""
  for first, *rest in itertools.permutations(numbers):
    for signs in itertools.product((1, -1), repeat=len(rest)):
      terms = [s * x for s, x in zip(signs, rest, strict=True)]
      if first + sum(terms) == target:
        yield ' '.join([str(first), *(f'{x:+d}' for x in terms)])


if __name__ == '__main__':
  absltest.main()
