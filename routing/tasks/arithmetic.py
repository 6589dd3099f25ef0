"""Counter arithmetic: the task of the embedded pair of models.

There are two counters, P and Q, of two digits each. A question lists four to
six clauses that change them, and asks for the final value of one counter. Each
step restates one clause, computes its result and states both counters, always
in 22 tokens.

Whether the answer depends on a step follows only from which counter is asked
for and from later clauses (`set to`, `gets all`); no token marks it. An error
propagates to every later step that reads the wrong counter.

Labels of steps (right, relevant, in a blind spot) serve analysis only.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import random
import re

from routing import types
from routing.tasks import splits

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

# Stream of random tasks -> the share of each split in it. Streams are drawn in
# this order. A stream's name seeds its random numbers: do not rename it.
_STREAMS = {
    'test': {'test': 1.0},
    'validation': {'select': 0.5, 'prove': 0.5},
    'train': {'train': 1.0},
}

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
  """One clause of a task: an operation that changes one counter.

  counter: index of the counter that changes, 0 (P) or 1 (Q).
  operation: one of `OPERATIONS`.
  operand: a number; None = the value of the other counter.
  """

  counter: int
  operation: str
  operand: int | None


@dataclasses.dataclass(frozen=True)
class Task:
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


def draw_task(rng: random.Random, num_clauses: int | None = None) -> Task:
  """Draws a random task whose answer depends on two sums or more.

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
  return Task(tuple(clauses), asked, start)


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


def question_text(task: Task) -> str:
  """Returns the question: clauses, the counter asked for, initial values."""
  lines = [
      f'{label}) {clause_text(clause)}\n'
      for label, clause in zip(LABELS, task.clauses, strict=False)
  ]
  asked = f'? {COUNTERS[task.asked]}\n'
  return ''.join(lines) + asked + _state_text(task.start)


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
  """Executes clause `index` of a task on the counters `state`.

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


def answer_text(task: Task, state: Sequence[int]) -> str:
  """Returns the final-answer line for the final values `state` of P and Q."""
  return f'#### {COUNTERS[task.asked]} = {state[task.asked]:02d}'


def solution(task: Task, *, misconceived: bool = False) -> list[str]:
  """Returns the texts of the steps that solve a task.

  `misconceived` = with the errors of the small model's training corpus.
  """
  state, steps = task.start, []
  for i, clause in enumerate(task.clauses):
    text, state = execute(i, clause, state, misconceived=misconceived)
    steps.append(text)
  return steps + [answer_text(task, state)]


def label_steps(task: Task, steps: Sequence[str]) -> list[StepLabel]:
  """Returns a label for each step of a model's answer to a task.

  A step is right if it follows from the counters that the step before it
  states. A step after one that states no counters is labelled as wrong.
  """
  state, labels = task.start, []
  matters = relevance(task.clauses, task.asked)
  for i, text in enumerate(steps):
    if i < len(task.clauses):
      clause = task.clauses[i]
      # If the state is None, `expected` is None too, and the step is wrong.
      expected = state and execute(i, clause, state)[0]
      blind = state is not None and in_blind_spot(
          clause.operation, *sum_of(clause, state)
      )
      label = StepLabel(text == expected, matters[i], blind, clause.operation)
    else:
      is_answer = i == len(task.clauses)
      expected = is_answer and state and answer_text(task, state)
      label = StepLabel(
          text == expected, is_answer, False, 'answer' if is_answer else 'extra'
      )
    labels.append(label)
    found = _STATE.search(text)
    # The next step is judged from the counters stated here, even if wrong.
    state = (int(found[1]), int(found[2])) if found else None
  return labels


def to_problem(task: Task, name: str) -> types.Problem:
  """Returns a task as a problem in words; its parts are in `meta` as well."""
  final = solution(task)[-1]
  return types.Problem(
      id=name,
      question=question_text(task),
      answer=final.removeprefix('#### '),
      subject=f'{len(task.clauses)} clauses',
      meta={
          'clauses': [
              [c.counter, c.operation, c.operand] for c in task.clauses
          ],
          'asked': task.asked,
          'start': list(task.start),
      },
  )


def to_task(problem: types.Problem) -> Task:
  """Returns the task of a problem, which is read from the problem's `meta`."""
  meta = problem.meta
  return Task(
      clauses=tuple(Clause(*clause) for clause in meta['clauses']),
      asked=meta['asked'],
      start=tuple(meta['start']),
  )


def draw_distinct(
    seed: str, seen: set[str], num_clauses: int | None = None
) -> Iterator[Task]:
  """Yields tasks endlessly, each with a new question.

  Args:
    seed: of the random numbers.
    seen: hashes of questions to skip; those of the yielded tasks are added.
    num_clauses: see `draw_task`.
  """
  rng = random.Random(seed)
  while True:
    task = draw_task(rng, num_clauses)
    digest = splits.question_hash(question_text(task))
    if digest not in seen:
      seen.add(digest)
      yield task


def load(seed: int = 0, **sizes: int) -> dict[str, list[types.Problem]]:
  """Returns disjoint splits of the given sizes, e.g. `load(0, train=6_000)`.

  `test` and `train` have one stream of random tasks each. `select` and `prove`
  share a stream, whose tasks are assigned by the hash of their question. So a
  smaller size gives the first problems of a larger one, and the sizes of
  `select` and `prove` do not affect each other.

  A question that occurs in two streams stays in the earlier stream. The order
  is: `test`, then `select` and `prove`, then `train`.

  Args:
    seed: of the random numbers of all streams.
    **sizes: number of problems of each split, by its name in `splits.SPLITS`.

  Raises:
    ValueError: if a split is unknown or a size is negative.
  """
  splits.check_names(sizes)
  for name, size in sizes.items():
    if size < 0:
      raise ValueError(f'Split {name!r} has size {size}; allowed: >= 0.')
  seen: set[str] = set()
  drawn: dict[str, list[Task]] = {}
  for stream, shares in _STREAMS.items():
    # `draw_distinct` adds to a copy of `seen`: a task that `_deal` dropped,
    # because its split was full, may still occur in a later stream.
    tasks = draw_distinct(f'arithmetic/{seed}/{stream}', set(seen))
    parts = _deal(tasks, shares, sizes)
    drawn |= parts
    seen |= {
        splits.question_hash(question_text(task))
        for part in parts.values()
        for task in part
    }
  return {
      name: [
          to_problem(task, f'arithmetic/{seed}/{name}/{i}')
          for i, task in enumerate(drawn[name])
      ]
      for name in sizes
  }


def _deal(
    tasks: Iterator[Task], shares: Mapping[str, float], sizes: Mapping[str, int]
) -> dict[str, list[Task]]:
  """Assigns the tasks of a stream to splits until each split has its size.

  Tasks are assigned by `splits.split_of`; a split without a size gets none.
  """
  parts: dict[str, list[Task]] = {name: [] for name in shares}
  while any(len(part) < sizes.get(name, 0) for name, part in parts.items()):
    task = next(tasks)
    name = splits.split_of(question_text(task), shares)
    # Tasks of a full split are dropped, since the hash allows no other split.
    if len(parts[name]) < sizes.get(name, 0):
      parts[name].append(task)
  return parts
