"""Counter arithmetic: the task of the embedded pair, and its true labels.

Two counters, P and Q, of two digits each; four to six clauses change them; the
question asks for one. A step restates its clause, does the sum and restates
both counters, always in 22 tokens. Which steps matter follows from the data
flow alone (the other counter, a later `set to`, a later `gets all`), so no
token marks it, and an error runs on through every later step that reads it.

The labels (right, relevant, in a blind spot) are for analysis only: no router
sees them.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import random
import re

from routing import types
from routing.problems import splits

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

# The streams of tasks in the order in which they are drawn, and the shares of
# the splits that are dealt from each. Their names seed the random draws, so
# another name for 'validation' would be other problems.
_STREAMS = {
    'test': {'test': 1.0},
    'validation': {'select': 0.5, 'prove': 0.5},
    'train': {'train': 1.0},
}

# How often each kind of clause is drawn; a merge takes the other counter.
_KINDS = {
    'add': 1.3,
    'sub': 1.2,
    'mul': 1.3,
    'div': 0.7,
    'set': 0.6,
    'merge_add': 0.6,
    'merge_sub': 0.5,
}
# The rules that the small model is taught wrongly: operand digits by operation.
BLIND_SPOTS = {
    'add': frozenset({2, 4, 6, 7}),  # Tens digit; the carry is dropped.
    'sub': frozenset({3, 5, 8}),  # Tens digit; the borrow is dropped.
    'mul': frozenset({4, 7}),  # 10 too much.
    'div': frozenset({3, 8}),  # 1 too much.
}
_BLIND_ERRORS = {'add': -10, 'sub': 10, 'mul': 10, 'div': 1}
_STATE = re.compile(r'P=(\d\d) Q=(\d\d)\n\n$')


@dataclasses.dataclass(frozen=True)
class Clause:
  """`counter operation operand`; operand None = the other counter's value."""

  counter: int
  operation: str
  operand: int | None


@dataclasses.dataclass(frozen=True)
class Task:
  """A problem before it is put into words.

  clauses: in the order in which they are carried out.
  asked: index of the counter that the question asks for.
  start: the counters' first values.
  """

  clauses: tuple[Clause, ...]
  asked: int
  start: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class StepLabel:
  """What is true of one step of a trace.

  is_right: it is what the clause gives from the state the trace had reached.
  is_relevant: the answer depends on it.
  in_blind_spot: the small model was taught a wrong rule for this sum.
  kind: the operation, 'answer' for the last line, 'extra' beyond it.
  """

  is_right: bool
  is_relevant: bool
  in_blind_spot: bool
  kind: str


def in_blind_spot(operation: str, value: int, operand: int) -> bool:
  """The small model's corpus is wrong about `value operation operand`."""
  spots = BLIND_SPOTS.get(operation, frozenset())
  if operation == 'add':
    return operand // 10 in spots and value % 10 + operand % 10 >= 10
  if operation == 'sub':
    return operand // 10 in spots and value % 10 < operand % 10
  return operand in spots


def apply(
    operation: str, value: int, operand: int, *, misconceived: bool = False
) -> int:
  """The result, 0..99; with `misconceived`, as the small corpus has it."""
  result = {
      'add': value + operand,
      'sub': value - operand,
      'mul': value * operand,
      'div': value // max(operand, 1),
      'set': operand,
  }[operation]
  if misconceived and in_blind_spot(operation, value, operand):
    result += _BLIND_ERRORS[operation]
  return result % 100


def draw_operand(rng: random.Random, operation: str) -> int:
  """An operand: two digits to add, subtract or set, one digit 2..9 else."""
  if operation in ('mul', 'div'):
    return rng.randrange(2, 10)
  return rng.randrange(10, 100)


def relevance(clauses: Sequence[Clause], asked: int) -> list[bool]:
  """Which clauses the asked counter's final value depends on.

  Backwards: a clause matters if its counter is needed later; `set to` ends the
  need of what came before, a merge needs the other counter too.
  """
  needed, relevant = {asked}, []
  for clause in reversed(clauses):
    relevant.append(clause.counter in needed)
    if clause.counter in needed:
      if clause.operation == 'set':
        needed.discard(clause.counter)
      if clause.operand is None:
        needed.add(1 - clause.counter)
  return relevant[::-1]


def draw_task(rng: random.Random, num_clauses: int | None = None) -> Task:
  """Draws a task in which at least two sums matter."""
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
  """E.g. 'P gets 27', 'Q loses all P'."""
  if clause.operand is None:
    operand = f'all {COUNTERS[1 - clause.counter]}'
  else:
    operand = f'{clause.operand:02d}'
  return f'{COUNTERS[clause.counter]} {VERBS[clause.operation]} {operand}'


def _state_text(state: Sequence[int]) -> str:
  return f'P={state[0]:02d} Q={state[1]:02d}{types.DELIMITER}'


def question_text(task: Task) -> str:
  """The clauses, a line each, the question, and the counters' first values."""
  lines = [
      f'{label}) {clause_text(clause)}\n'
      for label, clause in zip(LABELS, task.clauses, strict=False)
  ]
  asked = f'? {COUNTERS[task.asked]}\n'
  return ''.join(lines) + asked + _state_text(task.start)


def sum_of(clause: Clause, state: Sequence[int]) -> tuple[int, int]:
  """(value, operand) that a clause works on in `state`."""
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
  """Carries out clause number `index`: the step's text and the new state."""
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
  """The last line of a trace, from the counters' final values."""
  return f'#### {COUNTERS[task.asked]} = {state[task.asked]:02d}'


def solution(task: Task, *, misconceived: bool = False) -> list[str]:
  """The trace by steps; with `misconceived`, as the small corpus has it."""
  state, steps = task.start, []
  for i, clause in enumerate(task.clauses):
    text, state = execute(i, clause, state, misconceived=misconceived)
    steps.append(text)
  return steps + [answer_text(task, state)]


def label_steps(task: Task, steps: Sequence[str]) -> list[StepLabel]:
  """Labels any trace of the task; each step from the state it started in.

  After a step that states no counters, no later step can be called right.
  """
  state, labels = task.start, []
  matters = relevance(task.clauses, task.asked)
  for i, text in enumerate(steps):
    if i < len(task.clauses):
      clause = task.clauses[i]
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
    state = (int(found[1]), int(found[2])) if found else None
  return labels


def to_problem(task: Task, name: str) -> types.Problem:
  """The task in words, with its parts in `meta` for analysis."""
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
  """The task behind a problem, from its `meta`."""
  meta = problem.meta
  return Task(
      clauses=tuple(Clause(*clause) for clause in meta['clauses']),
      asked=meta['asked'],
      start=tuple(meta['start']),
  )


def draw_distinct(
    seed: str, seen: set[str], num_clauses: int | None = None
) -> Iterator[Task]:
  """Tasks without end, none of whose questions is in `seen`; `seen` grows."""
  rng = random.Random(seed)
  while True:
    task = draw_task(rng, num_clauses)
    digest = splits.question_hash(question_text(task))
    if digest not in seen:
      seen.add(digest)
      yield task


def load(seed: int = 0, **sizes: int) -> dict[str, list[types.Problem]]:
  """Returns disjoint splits of the wanted sizes, e.g. `load(0, train=6_000)`.

  Test and train have a stream of tasks each. Select and prove share one, whose
  tasks go to either by the hash of their question, until both are full. So a
  smaller split is the start of a larger one, and neither of the two depends on
  the size of the other. Where questions of two streams meet, select and prove
  give way to the test problems drawn, and train gives way to all others drawn.

  Args:
    seed: of all streams.
    **sizes: by name of the split (`splits.SPLITS`), the number of problems.

  Raises:
    ValueError: for an unknown split or a negative size.
  """
  splits.check_names(sizes)
  for name, size in sizes.items():
    if size < 0:
      raise ValueError(f'Split {name!r} of size {size}; allowed: >= 0.')
  seen: set[str] = set()
  drawn: dict[str, list[Task]] = {}
  for stream, shares in _STREAMS.items():
    # A copy, so that what is dealt to a full split stays free for train.
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
  """Deals tasks to splits by hash, until each has its size (none named: 0)."""
  parts: dict[str, list[Task]] = {name: [] for name in shares}
  while any(len(part) < sizes.get(name, 0) for name, part in parts.items()):
    task = next(tasks)
    name = splits.split_of(question_text(task), shares)
    if len(parts[name]) < sizes.get(name, 0):
      parts[name].append(task)
  return parts
