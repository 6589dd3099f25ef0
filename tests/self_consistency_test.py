"""Self-consistency and repeated sampling: votes, coverage, and their cost."""

import asyncio
import itertools
import math

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import costs
from routing.grading import equivalence
from routing.rollout import step_requests
from routing.rollout import steps as steps_lib
from tests import scripted_pair
from third_party.self_consistency import coverage
from third_party.self_consistency import voting

_SAMPLING = step_requests.Sampling(max_tokens=100)
_PROBLEMS = scripted_pair.make_problems(10)


def _answer(system, problem, **fields):
  given = dict(seed=3, sampling=_SAMPLING, grade=equivalence.exact) | fields
  return asyncio.run(
      system.answer(problem, scripted_pair.make_engines(), **given)
  )


def _samples(problem, count, **fields):
  given = dict(seed=3, sampling=_SAMPLING, grade=equivalence.exact) | fields
  return asyncio.run(
      coverage.graded_samples(
          problem,
          scripted_pair.make_engines(),
          num_samples=count,
          route=0,
          temperature=0.7,
          **given,
      )
  )


class VoteTest(parameterized.TestCase):

  @parameterized.parameters(
      (['#### 4', '#### 5', '#### 5'], 1),
      # Two to two: the answer that was sampled first, in its first text.
      (['#### 4', '#### 5', '#### 5', '#### 4'], 0),
      (['none', '#### 5', '#### 4', '#### 4'], 2),
      (['none', 'none either'], 0),
      (['none', 'none', '#### 1'], 2),
  )
  def test_by_hand(self, texts, elected):
    self.assertEqual(voting.majority(texts, equivalence.exact), elected)

  def test_equal_answers_in_other_words_vote_together(self):
    grade = equivalence.by_name('math_verify')
    self.addCleanup(grade.close)
    texts = [r'\boxed{3}', r'\boxed{0.5}', r'\boxed{\frac12}', '#### 3.0']
    self.assertEqual(voting.majority(texts[:3], grade), 1)
    self.assertEqual(voting.majority(texts, grade), 0)
    self.assertEqual(voting.majority(texts[:3], equivalence.exact), 0)

  def test_the_answer_is_that_of_most_samples(self):
    elected_right = []
    for problem in _PROBLEMS:
      sampled, right = _samples(problem, 5)
      found = _answer(voting, problem, num_samples=5)
      answers = [x[-1].text.split('#### ')[1] for x in sampled.answers]
      most = max(answers, key=lambda x: (answers.count(x), -answers.index(x)))
      self.assertEqual(found.text.split('#### ')[1], most)
      self.assertEqual(found.is_correct, most == problem.answer)
      elected_right.append((found.is_correct, np.mean(right)))
    # Some votes go against the problem's first sample, and some are lost.
    self.assertLen({x for x, _ in elected_right}, 2)

  def test_all_samples_are_charged_and_the_question_is_read_once(self):
    sampled, _ = _samples(_PROBLEMS[4], 4)
    found = _answer(voting, _PROBLEMS[4], num_samples=4)
    # Seconds are measured.
    fields = ('route', 'read', 'cached', 'written', 'in_context', 'kind')
    self.assertEqual(
        [[getattr(c, x) for x in fields] for c in found.calls],
        [[getattr(c, x) for x in fields] for c in sampled.calls],
    )
    first, *others = found.calls
    self.assertGreater(first.read, 0)
    self.assertEqual({(c.read, c.cached) for c in others}, {(0, first.read)})
    spec = scripted_pair.SPECS[0]
    by_hand = first.read * spec.price_input
    for call, steps in zip(found.calls, sampled.answers, strict=True):
      self.assertEqual(call.written, steps_lib.count_tokens(steps))
      by_hand += call.written * spec.price_output
      by_hand += call.cached * spec.price_cached
    self.assertAlmostEqual(
        costs.total_cost(found.calls, scripted_pair.SPECS, 'price'),
        by_hand / 1e6,
    )

  @parameterized.parameters(0, 1)
  def test_one_sample_is_the_model_alone(self, route):
    for problem in _PROBLEMS[:3]:
      found = _answer(voting, problem, num_samples=1, route=route)
      engine = scripted_pair.make_engines()[route]

      async def alone(problem=problem, engine=engine):
        async with engine.open(problem.question) as session:
          return await step_requests.write(
              problem, (), session, to_end=True, seed=3, sampling=_SAMPLING
          )

      self.assertEqual(found.text, steps_lib.join(asyncio.run(alone())))
      self.assertEqual([c.route for c in found.calls], [route])

  def test_what_is_not_allowed(self):
    for fields, message in (
        (dict(num_samples=0), 'num_samples is 0'),
        (dict(num_samples=2, temperature=None), 'all 2 samples would be equal'),
        (dict(route=2), 'The route is 2; allowed: 0 to 1'),
    ):
      with self.assertRaisesRegex(ValueError, message):
        _answer(voting, _PROBLEMS[0], **fields)


class CoverageTest(parameterized.TestCase):

  # n = 4, c = 2, k = 2: of the 6 pairs one has no right sample.
  @parameterized.parameters((4, 2, 2, 5 / 6), (4, 0, 3, 0.0), (4, 2, 3, 1.0))
  def test_by_hand(self, n, c, k, expected):
    self.assertAlmostEqual(coverage.pass_at_k(n, c, k), expected)

  def test_is_the_share_of_subsets_with_a_right_sample(self):
    for n in range(1, 7):
      for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        subsets = list(
            itertools.combinations([True] * c + [False] * (n - c), k)
        )
        self.assertAlmostEqual(
            coverage.pass_at_k(n, c, k), np.mean([any(x) for x in subsets])
        )

  def test_many_samples_do_not_overflow(self):
    found = coverage.pass_at_k(10_000, 3, 5_000)
    exact = 1 - math.comb(9_997, 5_000) / math.comb(10_000, 5_000)
    self.assertAlmostEqual(found, exact)

  def test_coverage_never_falls_with_more_samples(self):
    for problem in _PROBLEMS:
      _, right = _samples(problem, 5)
      found = [
          _answer(coverage, problem, num_samples=k).is_correct
          for k in (2, 3, 5)
      ]
      self.assertEqual(found, [any(right[:k]) for k in (2, 3, 5)])

  def test_the_text_is_a_right_one_where_there_is_any(self):
    for problem in _PROBLEMS:
      found = _answer(coverage, problem, num_samples=5)
      verdict = equivalence.exact(found.text, problem.answer)
      self.assertEqual(verdict.is_correct, found.is_correct)
      self.assertLen(found.calls, 5)

  def test_what_is_not_allowed(self):
    with self.assertRaisesRegex(ValueError, 'k is 5'):
      coverage.pass_at_k(4, 2, 5)


if __name__ == '__main__':
  absltest.main()
