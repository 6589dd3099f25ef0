"""Tests of counter arithmetic: its texts, sums, labels and splits."""

import hashlib
import itertools
import random
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized

from routing.tasks import arithmetic
from routing.tasks import counters
from routing.tasks import splits

_ADD = counters.Clause(0, 'add', 27)
_SUB = counters.Clause(1, 'sub', 13)
_MERGE = counters.Clause(0, 'add', None)
_SET = counters.Clause(1, 'set', 71)
# P = 12, Q = 93: P = 12 + 27 = 39; Q = 93 - 13 = 80; P = 39 + 80 = 119 -> 19;
# Q = 71. Asked for P.
_TASK = counters.Exercise((_ADD, _SUB, _MERGE, _SET), 0, (12, 93))
_SOLUTION = [
    'a) P gets 27: 12 + 27 = 39. P=39 Q=93\n\n',
    'b) Q loses 13: 93 - 13 = 80. P=39 Q=80\n\n',
    'c) P gets all Q: 39 + 80 = 19. P=19 Q=80\n\n',
    'd) Q set to 71: 80 <- 71 = 71. P=19 Q=71\n\n',
    '#### P = 19',
]


def _clauses(*parts):
  return tuple(counters.Clause(*part) for part in parts)


class TextTest(parameterized.TestCase):

  def test_question_by_hand(self):
    self.assertEqual(
        counters.question_text(_TASK),
        'a) P gets 27\nb) Q loses 13\nc) P gets all Q\nd) Q set to 71\n? P\n'
        'P=12 Q=93\n\n',
    )

  def test_solution_by_hand(self):
    self.assertEqual(counters.solution(_TASK), _SOLUTION)

  def test_problem_and_back(self):
    problem = counters.to_problem(_TASK, 'p')
    self.assertEqual(problem.answer, 'P = 19')
    self.assertEqual(counters.to_exercise(problem), _TASK)

  @parameterized.parameters(
      ('add', 97, 5, 2),  # 102
      ('sub', 5, 97, 8),  # -92
      ('mul', 34, 6, 4),  # 204
      ('div', 29, 8, 3),
      ('set', 29, 80, 80),
  )
  def test_right_results_by_hand(self, operation, value, operand, expected):
    self.assertEqual(counters.apply(operation, value, operand), expected)


class BlindSpotTest(parameterized.TestCase):

  @parameterized.parameters(
      ('add', 15, 26, 31),  # 5 + 6 carries, tens digit 2: 41 minus the carry.
      ('add', 13, 26, 39),  # 3 + 6 does not carry.
      ('add', 15, 36, 51),  # Tens digit 3 is taught right.
      ('sub', 62, 35, 37),  # 2 - 5 borrows, tens digit 3: 27 without it.
      ('sub', 66, 35, 31),  # 6 - 5 does not borrow.
      ('sub', 62, 45, 17),  # Tens digit 4 is taught right.
      ('mul', 13, 4, 62),  # 52, and 10 too much.
      ('mul', 13, 5, 65),
      ('div', 25, 3, 9),  # 8, and 1 too much.
      ('div', 25, 4, 6),
      ('set', 25, 33, 33),
  )
  def test_misconceptions_by_hand(self, operation, value, operand, expected):
    got = counters.apply(operation, value, operand, misconceived=True)
    self.assertEqual(got, expected)

  def test_the_small_corpus_is_wrong_in_blind_spots_only(self):
    for operation in counters.OPERATIONS:
      operands = range(2, 10) if operation in ('mul', 'div') else range(100)
      for value in range(100):
        for operand in operands:
          taught = counters.apply(operation, value, operand, misconceived=True)
          truth = counters.apply(operation, value, operand)
          self.assertEqual(
              taught != truth,
              counters.in_blind_spot(operation, value, operand),
              (operation, value, operand),
          )

  def test_a_model_perfect_on_the_small_corpus_is_about_half_right(self):
    rng = random.Random(3)
    tasks = [counters.draw_exercise(rng) for _ in range(1_500)]
    right = sum(
        counters.solution(task, misconceived=True)[-1]
        == counters.solution(task)[-1]
        for task in tasks
    )
    self.assertBetween(right / len(tasks), 0.50, 0.58)


class RelevanceTest(parameterized.TestCase):

  @parameterized.named_parameters(
      (
          'other_counter',
          _clauses((0, 'add', 20), (1, 'add', 20)),
          [True, False],
      ),
      ('later_set', _clauses((0, 'add', 20), (0, 'set', 20)), [False, True]),
      # The merge reads Q, so earlier clauses of Q are relevant too.
      ('merge', _clauses((1, 'add', 20), (0, 'sub', None)), [True, True]),
      (
          'after_the_merge',
          _clauses((0, 'sub', None), (1, 'add', 20)),
          [True, False],
      ),
      (
          'merge_of_the_other',
          _clauses((1, 'add', None), (0, 'mul', 3)),
          [False, True],
      ),
  )
  def test_by_hand(self, clauses, expected):
    self.assertEqual(counters.relevance(clauses, 0), expected)

  def test_relevance_agrees_with_brute_force(self):
    """A step is irrelevant iff no other result of it could change the answer.

    Results that multiplication or division by chance maps to one answer are
    avoided by tasks of sums, differences and sets alone.
    """
    rng = random.Random(0)
    for _ in range(80):
      task = counters.draw_exercise(rng)
      if any(c.operation in ('mul', 'div') for c in task.clauses):
        continue
      for i, matters in enumerate(counters.relevance(task.clauses, task.asked)):
        answers = {_answer_with_slip(task, i, slip) for slip in range(100)}
        # A merge after a merge may count an error twice, or not at all: P + Q,
        # then Q - P. Hence only one direction is exact.
        if not matters:
          self.assertLen(answers, 1)
        elif not any(c.operand is None for c in task.clauses):
          self.assertLen(answers, 100)


def _answer_with_slip(task, index, slip):
  """Returns the answer if step `index` came out `slip` too high."""
  state = list(task.start)
  for i, clause in enumerate(task.clauses):
    _, after = counters.execute(i, clause, state)
    state = list(after)
    if i == index:
      state[clause.counter] = (state[clause.counter] + slip) % 100
  return state[task.asked]


class LabelStepsTest(absltest.TestCase):

  def test_the_solution_is_right(self):
    labels = counters.label_steps(_TASK, _SOLUTION)
    self.assertTrue(all(label.is_right for label in labels))
    self.assertEqual(
        [label.is_relevant for label in labels],
        [True, True, True, False, True],
    )
    self.assertEqual(
        [label.kind for label in labels], ['add', 'sub', 'add', 'set', 'answer']
    )

  def test_steps_after_an_error_are_right_given_the_state(self):
    steps = [
        'a) P gets 27: 12 + 27 = 49. P=49 Q=93\n\n',  # Wrong: 39.
        'b) Q loses 13: 93 - 13 = 80. P=49 Q=80\n\n',
        'c) P gets all Q: 49 + 80 = 29. P=29 Q=80\n\n',
        'd) Q set to 71: 80 <- 71 = 71. P=29 Q=71\n\n',
        '#### P = 29',
    ]
    labels = counters.label_steps(_TASK, steps)
    self.assertEqual(
        [label.is_right for label in labels], [False, True, True, True, True]
    )

  def test_the_step_after_one_without_counters_is_not_right(self):
    steps = [_SOLUTION[0], 'b) Q loses 13\n\n', *_SOLUTION[2:]]
    labels = counters.label_steps(_TASK, steps)
    # The step after the malformed one has no state to start from; the one after
    # that has the state which its predecessor states.
    self.assertEqual(
        [label.is_right for label in labels], [True, False, False, True, True]
    )

  def test_too_many_steps(self):
    labels = counters.label_steps(_TASK, [*_SOLUTION, '#### P = 19'])
    self.assertFalse(labels[-1].is_right)
    self.assertEqual(labels[-1].kind, 'extra')

  def test_blind_spots_follow_the_trace_not_the_truth(self):
    # From Q = 93, 93 - 13 borrows nothing; from Q = 92 it does, but tens digit
    # 1 is no blind spot; with 33 in place of 13 it is one.
    task = counters.Exercise((_ADD, counters.Clause(1, 'sub', 33)), 1, (12, 93))
    right = ['a) P gets 27: 12 + 27 = 39. P=39 Q=93\n\n', '']
    slipped = ['a) P gets 27: 12 + 27 = 39. P=39 Q=92\n\n', '']
    self.assertFalse(counters.label_steps(task, right)[1].in_blind_spot)
    self.assertTrue(counters.label_steps(task, slipped)[1].in_blind_spot)


# Hashes of the first three questions of seed 0 as they have been since the pair
# that ships was trained; other problems would not be those it never saw.
_FIRST = {
    'train': ['8b85098b025a1639', 'aae75497b9c794d9', '02ab6b40995a2a94'],
    'test': ['5cf4ad4b72118db6', 'c4ab8dc27ed8ab59', '93f6ba93e422f174'],
}
# Of 20 questions, as a SHA-256 of their hashes one after the other.
_FIRST_20 = {'train': '97f10764bade8b8d', 'test': '47fce3028dda6043'}
# The first 20 of the stream that select and prove share, in order.
_HELD_OUT = (
    '6abaf8bcd7ce6084',
    '82fd0ee196c5faf9',
    'a84bd2a274d4db97',
    '0f0c5ce682b3acb6',
    'b21b34148732a19d',
    '384b740bd708cda2',
    'fad169904909037a',
    'd57e9441297b541d',
    '465e99bed226f23f',
    '10d5c3271fb51663',
    'fa903fda949e71c5',
    '015f76901c34b462',
    '7dd787379818cbba',
    '80c8d08f73a6854a',
    'ab5c947f0cd2b52f',
    'cad8d4d958290373',
    '3c2e244e720807dc',
    '24fde07ec7c34d6f',
    'afacd568cf4a1779',
    '75ef0d9357c0c98b',
)


def _hashes(problems):
  return [splits.question_hash(p.question) for p in problems]


def _few_tasks(most=10_000):
  """A `draw_task` of 60 tasks, so that streams meet; fails after `most`."""
  draws = itertools.count()

  def draw(rng, num_clauses=None):
    del num_clauses
    if next(draws) >= most:
      raise AssertionError(f'Still no new question after {most} draws.')
    return counters.Exercise((_ADD, _SUB), 0, (rng.randrange(60), 0))

  return draw


class LoadTest(parameterized.TestCase):

  def test_splits_are_disjoint_and_seeded(self):
    sizes = dict(train=300, select=100, prove=80, test=100)
    loaded = arithmetic.load(0, **sizes)
    other = arithmetic.load(1, **sizes)
    self.assertEqual(loaded, arithmetic.load(0, **sizes))
    for name, size in sizes.items():
      self.assertNotEqual(loaded[name], other[name])
      self.assertLen(set(_hashes(loaded[name])), size)
      self.assertEqual(loaded[name][-1].id, f'arithmetic/0/{name}/{size - 1}')
    splits.check_disjoint(**{k: _hashes(x) for k, x in loaded.items()})

  def test_the_problems_of_a_seed_never_change(self):
    full = arithmetic.load(
        0, train=6_000, select=1_000, prove=1_000, test=2_000
    )
    for name, first in _FIRST.items():
      with self.subTest(name):
        found = _hashes(full[name][:20])
        self.assertEqual(found[:3], first)
        digest = hashlib.sha256(''.join(found).encode()).hexdigest()
        self.assertEqual(digest[:16], _FIRST_20[name])
        small = arithmetic.load(0, **{name: 20})[name]
        self.assertEqual(small, full[name][:20])

  def test_select_and_prove_share_a_stream_by_hash(self):
    # Half of all hashes begin with 0 to 7.
    select = [x for x in _HELD_OUT if x[0] < '8']
    prove = [x for x in _HELD_OUT if x[0] >= '8']
    loaded = arithmetic.load(0, select=len(select), prove=len(prove))
    self.assertEqual(_hashes(loaded['select']), select)
    self.assertEqual(_hashes(loaded['prove']), prove)

  @parameterized.parameters('test', 'select', 'prove', 'train')
  def test_a_smaller_split_is_the_start_of_a_larger_one(self, name):
    sizes = dict(train=20, select=20, prove=20, test=20)
    small = arithmetic.load(0, **sizes)
    large = arithmetic.load(0, **sizes | {name: 50})
    self.assertEqual(large[name][:20], small[name])
    for other in sizes.keys() - {name}:
      self.assertEqual(large[other], small[other])

  def test_a_question_in_two_streams_stays_in_the_earlier_one(self):
    # 60 questions: 10 of test, then 10 of select or prove that are none of
    # those, and of train all that were not drawn, surplus included.
    self.enter_context(
        mock.patch.object(counters, 'draw_exercise', _few_tasks())
    )
    loaded = arithmetic.load(0, train=40, select=3, prove=7, test=10)
    hashes = {name: _hashes(x) for name, x in loaded.items()}
    splits.check_disjoint(**hashes)
    self.assertLen(set().union(*hashes.values()), 60)
    self.assertEqual(
        _hashes(arithmetic.load(0, select=9, test=10)['select'])[:3],
        hashes['select'],
    )

  def test_seen_questions_are_not_drawn_again(self):
    before = set(_hashes(arithmetic.load(0, test=50)['test']))
    seen = set(before)
    tasks = arithmetic.draw_distinct('arithmetic/0/test', seen)
    for _, task in zip(range(50), tasks, strict=False):
      digest = splits.question_hash(counters.question_text(task))
      self.assertNotIn(digest, before)

  def test_unknown_split(self):
    with self.assertRaisesRegex(ValueError, 'dev.*train, select, prove, test'):
      arithmetic.load(0, dev=3)
    with self.assertRaisesRegex(ValueError, '-1'):
      arithmetic.load(0, train=-1)


if __name__ == '__main__':
  absltest.main()
