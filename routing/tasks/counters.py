"""Exercises in counter arithmetic: as data, in words, solved and labelled.

There are two counters, P and Q, of two digits each. A question lists four to
six clauses that change them, and asks for the final value of one counter. Each
step restates one clause, computes its result and states both counters, always
in 22 tokens.

Whether the answer depends on a step follows only from which counter is asked
for and from later clauses (`set to`, `gets all`); no token marks it. An error
propagates to every later step that reads the wrong counter.

Labels of steps (right, relevant, in a blind spot) serve analysis only.
"""

from collections.abc import Sequence
import dataclasses
import random
import re

from routing import types

COUNTERS = 'PQ'
LABELS = 'abcdef'
OPERATIONS = ('add', 'sub', 'mul', 'div', 'set')
SIGNS = dict(zip(OPERATIONS, '+-*/', strict=False)) | {'set': '<-'}
VERBS = {
    'add': 'gets',
    'sub': 'loses',
    'mul': 'times',
    'div': 'shared by',
    'set': 'set to',
}
NUM_CLAUSES = (4, 5, 6)

# Relative frequency of each kind of clause. The operand of a merge is the value
# of the other counter.
_KINDS = {
    'add': 1.3,
    'sub': 1.2,
    'mul': 1.3,
    'div': 0.7,
    'set': 0.6,
    'merge_add': 0.6,
    'merge_sub': 0.5,
}
# The sums that are wrong in the small model's training corpus, so that its
# errors are systematic: operation -> operand digits.
BLIND_SPOTS = {
    'add': frozenset({2, 4, 6, 7}),  # Tens digit; the carry is dropped.
    'sub': frozenset({3, 5, 8}),  # Tens digit; the borrow is dropped.
    'mul': frozenset({4, 7}),  # Operand; the result is 10 too large.
    'div': frozenset({3, 8}),  # Operand; the result is 1 too large.
}
# Operation -> what the corpus adds to the right result in a blind spot.
_BLIND_ERRORS = {'add': -10, 'sub': 10, 'mul': 10, 'div': 1}
_STATE = re.compile(r'P=(\d\d) Q=(\d\d)\n\n$')


@dataclasses.dataclass(frozen=True)
class Clause:
  """One clause of an exercise: an operation that changes one counter.

  counter: index of the counter that changes, 0 (P) or 1 (Q).
  operation: one of `OPERATIONS`.
  operand: a number; None = the value of the other counter.
  """

  counter: int
  operation: str
  operand: int | None


@dataclasses.dataclass(frozen=True)
class Exercise:
  """A problem as data, before it is put into words.

  clauses: the clauses, in the order of their execution.
  asked: index of the counter that the question asks for.
  start: the initial values of the counters P and Q.
  """

  clauses: tuple[Clause, ...]
  asked: int
  start: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class StepLabel:
  """Labels of one step of a trace.

  is_right: whether the step follows from the counters stated just before it.
  is_relevant: whether the final answer depends on the step.
  in_blind_spot: whether the sum is wrong in the small model's training corpus.
  kind: the operation; 'answer' for the final-answer line, 'extra' after it.
  """

  is_right: bool
  is_relevant: bool
  in_blind_spot: bool
  kind: str


def in_blind_spot(operation: str, value: int, operand: int) -> bool:
  """Returns whether a sum is wrong in the small model's training corpus."""
  spots = BLIND_SPOTS.get(operation, frozenset())
  # The corpus drops carries and borrows: only sums that have one are wrong.
  if operation == 'add':
    return operand // 10 in spots and value % 10 + operand % 10 >= 10
  if operation == 'sub':
    return operand // 10 in spots and value % 10 < operand % 10
  return operand in spots


def apply(
    operation: str, value: int, operand: int, *, misconceived: bool = False
) -> int:
  """Returns the result of an operation on a counter's `value`, in 0..99.

  `misconceived` = with the errors of the small model's training corpus.
  """
  result = {
      'add': value + operand,
      'sub': value - operand,
      'mul': value * operand,
      'div': value // max(operand, 1),  # Also evaluated for other operations.
      'set': operand,
  }[operation]
  if misconceived and in_blind_spot(operation, value, operand):
    result += _BLIND_ERRORS[operation]
  return result % 100  # Counters have two digits and wrap around.


def draw_operand(rng: random.Random, operation: str) -> int:
  """Draws a random operand: 2..9 for `mul` and `div`, otherwise 10..99."""
  if operation in ('mul', 'div'):
    return rng.randrange(2, 10)
  return rng.randrange(10, 100)


def relevance(clauses: Sequence[Clause], asked: int) -> list[bool]:
  """Returns for each clause whether the answer depends on it."""
  # Liveness analysis, backwards from the question: a clause is relevant if the
  # value that it writes is needed afterwards.
  needed, relevant = {asked}, []
  for clause in reversed(clauses):
    relevant.append(clause.counter in needed)
    if clause.counter in needed:
      if clause.operation == 'set':
        needed.discard(clause.counter)  # Overwrites the earlier value.
      if clause.operand is None:
        needed.add(1 - clause.counter)  # A merge reads the other counter too.
  return relevant[::-1]


def draw_exercise(
    rng: random.Random, num_clauses: int | None = None
) -> Exercise:
  """Draws a random exercise whose answer depends on two sums or more.

  `num_clauses` None = the number of clauses is drawn from `NUM_CLAUSES`.
  """
  count = num_clauses or rng.choice(NUM_CLAUSES)
  while True:
    clauses = []
    for kind in rng.choices(list(_KINDS), list(_KINDS.values()), k=count):
      is_merge = kind.startswith('merge_')
      operation = kind.removeprefix('merge_')
      clauses.append(
          Clause(
              counter=rng.randrange(2),
              operation=operation,
              operand=None if is_merge else draw_operand(rng, operation),
          )
      )
    asked = rng.randrange(2)
    matters = zip(relevance(clauses, asked), clauses, strict=True)
    if sum(r and c.operation != 'set' for r, c in matters) >= 2:
      break
  start = rng.randrange(100), rng.randrange(100)
  return Exercise(tuple(clauses), asked, start)


def clause_text(clause: Clause) -> str:
  """Returns a clause in words, e.g. 'P gets 27' or 'Q loses all P'."""
  if clause.operand is None:
    operand = f'all {COUNTERS[1 - clause.counter]}'
  else:
    operand = f'{clause.operand:02d}'
  return f'{COUNTERS[clause.counter]} {VERBS[clause.operation]} {operand}'


def _state_text(state: Sequence[int]) -> str:
  """Returns the counters' values as text, e.g. 'P=07 Q=42' and a delimiter."""
  return f'P={state[0]:02d} Q={state[1]:02d}{types.DELIMITER}'


def question_text(exercise: Exercise) -> str:
  """Returns the question: clauses, the counter asked for, initial values."""
  lines = [
      f'{label}) {clause_text(clause)}\n'
      for label, clause in zip(LABELS, exercise.clauses, strict=False)
  ]
  asked = f'? {COUNTERS[exercise.asked]}\n'
  return ''.join(lines) + asked + _state_text(exercise.start)


def sum_of(clause: Clause, state: Sequence[int]) -> tuple[int, int]:
  """Returns the (value, operand) of a clause if the counters are `state`."""
  operand = clause.operand
  if operand is None:
    operand = state[1 - clause.counter]
  return state[clause.counter], operand


def execute(
    index: int,
    clause: Clause,
    state: Sequence[int],
    *,
    misconceived: bool = False,
) -> tuple[str, tuple[int, int]]:
  """Executes clause `index` of an exercise on the counters `state`.

  Returns the text of the step and the counters after it. `misconceived` = with
  the errors of the small model's training corpus.
  """
  value, operand = sum_of(clause, state)
  result = apply(clause.operation, value, operand, misconceived=misconceived)
  after = list(state)
  after[clause.counter] = result
  text = (
      f'{LABELS[index]}) {clause_text(clause)}: {value:02d} '
      f'{SIGNS[clause.operation]} {operand:02d} = {result:02d}. '
      f'{_state_text(after)}'
  )
  return text, (after[0], after[1])


def answer_text(exercise: Exercise, state: Sequence[int]) -> str:
  """Returns the final-answer line for the final values `state` of P and Q."""
  return f'#### {COUNTERS[exercise.asked]} = {state[exercise.asked]:02d}'


def solution(exercise: Exercise, *, misconceived: bool = False) -> list[str]:
  """Returns the texts of the steps that solve an exercise.

  `misconceived` = with the errors of the small model's training corpus.
  """
  state, steps = exercise.start, []
  for i, clause in enumerate(exercise.clauses):
    text, state = execute(i, clause, state, misconceived=misconceived)
    steps.append(text)
  return steps + [answer_text(exercise, state)]


def right_steps(exercise: Exercise, steps: Sequence[str]) -> list[str | None]:
  """Returns what each step of a model's answer would have to be.

  That is what follows from the counters that the step before it states, even if
  they are wrong. None where nothing is right: after a step that states no
  counters, and after the final answer.

  Args:
    exercise: the exercise.
    steps: texts of the steps of the answer.
  """
  states: list[tuple[int, int] | None] = [exercise.start]
  for text in steps[:-1]:
    found = _STATE.search(text)
    states.append((int(found[1]), int(found[2])) if found else None)
  expected = []
  for i, state in enumerate(states[: len(steps)]):
    if state is None or i > len(exercise.clauses):
      expected.append(None)
    elif i == len(exercise.clauses):
      expected.append(answer_text(exercise, state))
    else:
      expected.append(execute(i, exercise.clauses[i], state)[0])
  return expected


def label_steps(exercise: Exercise, steps: Sequence[str]) -> list[StepLabel]:
  """Returns a label for each step of a model's answer to an exercise.

  A step is right if it follows from the counters that the step before it
  states. A step after one that states no counters is labelled as wrong.
  """
  state, labels = exercise.start, []
  expected = right_steps(exercise, steps)
  matters = relevance(exercise.clauses, exercise.asked)
  for i, text in enumerate(steps):
    if i < len(exercise.clauses):
      clause = exercise.clauses[i]
      blind = state is not None and in_blind_spot(
          clause.operation, *sum_of(clause, state)
      )
      label = StepLabel(
          text == expected[i], matters[i], blind, clause.operation
      )
    else:
      is_answer = i == len(exercise.clauses)
      label = StepLabel(
          text == expected[i],
          is_answer,
          False,
          'answer' if is_answer else 'extra',
      )
    labels.append(label)
    found = _STATE.search(text)
    # The next step is judged from the counters stated here, even if wrong.
    state = (int(found[1]), int(found[2])) if found else None
  return labels


def to_problem(exercise: Exercise, name: str) -> types.Problem:
  """Returns an exercise as a problem in words; its parts are also in `meta`."""
  final = solution(exercise)[-1]
  return types.Problem(
      id=name,
      question=question_text(exercise),
      answer=final.removeprefix('#### '),
      subject=f'{len(exercise.clauses)} clauses',
      meta={
          'clauses': [
              [c.counter, c.operation, c.operand] for c in exercise.clauses
          ],
          'asked': exercise.asked,
          'start': list(exercise.start),
      },
  )


def to_exercise(problem: types.Problem) -> Exercise:
  """Returns the exercise of a problem, read from the problem's `meta`."""
  meta = problem.meta
  return Exercise(
      clauses=tuple(Clause(*clause) for clause in meta['clauses']),
      asked=meta['asked'],
      start=tuple(meta['start']),
  )
