"""Tests of the four splits, which depend on the hash of a question only."""

import random
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
from scipy import stats

from routing import types
from routing.tasks import splits

_HALVES = {'select': 0.5, 'prove': 0.5}
_ALL = {'train': 0.7, 'select': 0.1, 'prove': 0.15, 'test': 0.05}


def _problems(num):
  return [
      types.Problem(id=f'made up/{i}', question=f'What is {i}?', answer='0')
      for i in range(num)
  ]


def _split_by_id(problems, shares):
  """Returns problem id -> split."""
  return {
      problem.id: name
      for name, part in splits.divide(problems, shares).items()
      for problem in part
  }


class DivideTest(parameterized.TestCase):

  def test_by_hand(self):
    # The hash is a number in [0, 1), to one hex digit its first digit / 16.
    # Train owns [0, 0.25), that is 0 to 3; prove the rest.
    shares = {'prove': 0.75, 'train': 0.25}
    names = set()
    for problem in _problems(50):
      digit = splits.question_hash(problem.question)[0]
      name = splits.split_of(problem.question, shares)
      self.assertEqual(name, 'train' if digit in '0123' else 'prove')
      names.add(name)
    self.assertLen(names, 2)

  @parameterized.parameters(_HALVES, _ALL)
  def test_order_does_not_matter(self, **shares):
    problems = _problems(300)
    shuffled = random.Random(0).sample(problems, len(problems))
    turned = dict(reversed(shares.items()))
    self.assertEqual(
        _split_by_id(problems, shares), _split_by_id(shuffled, turned)
    )
    for part in splits.divide(problems, shares).values():
      self.assertEqual(part, sorted(part, key=problems.index))

  def test_removing_a_problem_moves_no_other(self):
    problems = _problems(100)
    whole = _split_by_id(problems, _ALL)
    for i in range(0, 100, 7):
      rest = _split_by_id(problems[:i] + problems[i + 1 :], _ALL)
      self.assertEqual(rest, {k: whole[k] for k in rest})
      self.assertLen(rest, 99)

  def test_variants_of_one_question_stay_together(self):
    for problem in _problems(40):
      question = problem.question
      variants = (
          question.upper(),
          f' {question}\n',
          'what  is\t' + question[8:],
      )
      for variant in variants:
        self.assertNotEqual(variant, question)
        self.assertEqual(
            splits.split_of(variant, _ALL), splits.split_of(question, _ALL)
        )

  def test_sizes_match_the_shares(self):
    num = 10_000
    parts = splits.divide(_problems(num), _ALL)
    self.assertEqual(sum(map(len, parts.values())), num)
    for name, share in _ALL.items():
      low, high = stats.binom.ppf([1e-4, 1 - 1e-4], num, share)
      self.assertBetween(len(parts[name]), low, high, name)

  def test_parts_are_disjoint_and_named_even_if_empty(self):
    parts = splits.divide(_problems(200), _ALL)
    splits.check_disjoint(
        **{
            name: [splits.question_hash(x.question) for x in part]
            for name, part in parts.items()
        }
    )
    self.assertEqual(splits.divide([], _HALVES), {'select': [], 'prove': []})

  def test_shares_that_round_to_below_one(self):
    # 3 * 0.1 + 0.7 adds up to 0.9999999999999999 in this order; the largest
    # hash lies above that and belongs to the last split.
    shares = {'train': 0.7, 'select': 0.1, 'prove': 0.1, 'test': 0.1}
    self.assertLess(0.7 + 0.1 + 0.1 + 0.1, 1)
    self.enter_context(
        mock.patch.object(splits, 'question_hash', lambda _: 'f' * 16)
    )
    self.assertEqual(splits.split_of('?', shares), 'test')

  @parameterized.parameters(
      (dict(select=0.5, validation=0.5), 'validation.*train, select, prove'),
      (dict(select=0.5, prove=0.4), '0.4.*sum to 1'),
      (dict(select=1.5, prove=-0.5), 'positive'),
      (dict(select=1.0, prove=0.0), 'positive'),
      ({}, 'sum to 1'),
  )
  def test_wrong_shares_raise_an_error(self, shares, says):
    with self.assertRaisesRegex(ValueError, says):
      splits.split_of('What is 1?', shares)


class HashTest(absltest.TestCase):

  def test_hash_ignores_case_and_spacing(self):
    self.assertEqual(
        splits.question_hash('What  is\n2 + 2? '),
        splits.question_hash('what is 2 + 2?'),
    )
    self.assertNotEqual(
        splits.question_hash('2 + 2'), splits.question_hash('2 + 3')
    )

  def test_a_shared_question_raises_an_error_that_names_it(self):
    with self.assertRaisesRegex(ValueError, "'a' and 'c' share 1 .*x2"):
      splits.check_disjoint(a=['x1', 'x2'], b=['x3'], c=['x2', 'x4'])


if __name__ == '__main__':
  absltest.main()
