"""All that any router could bring about on a problem, decision by decision.

What a ladder is to `escalate`, a tree is to `switch` and `redraft`: each node
is what the router sees, each branch a route that it may name, and each leaf an
answer, graded, with all its calls. It is grown from remembered replies without
a model, and holds what the one driver would have seen and paid on each way.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses

from routing import protocols
from routing import types
from routing.engines import remembered
from routing.grading import equivalence
from routing.rollout import driver
from routing.rollout import replies as replies_lib
from routing.rollout import steps as steps_lib


@dataclasses.dataclass(frozen=True)
class Leaf:
  """An answer.

  calls: every call in order, discarded drafts included.
  is_correct: it grades right.
  """

  calls: tuple[types.Usage, ...]
  is_correct: bool


@dataclasses.dataclass(frozen=True)
class Node:
  """A decision.

  steps: accepted so far.
  draft: the step on view; None where the protocol shows none.
  calls: paid when the decision is taken, that of the draft included.
  branches: what follows when route m is named, for each m.
  """

  steps: tuple[types.Step, ...]
  draft: types.Step | None
  calls: tuple[types.Usage, ...]
  branches: tuple[Node | Leaf, ...]


@dataclasses.dataclass(frozen=True)
class Tree:
  """A problem with all ways through it.

  problem: the problem.
  root: the first decision.
  reference: the largest model's own answer, as `types.Rollouts` has it.
  """

  problem: types.Problem
  root: Node
  reference: types.Completion


@dataclasses.dataclass(frozen=True)
class Grower:
  """Grows trees from replies.

  protocol: `switch` or `redraft`; of `escalate`, the ladder holds everything.
  sampling: as the replies were collected with.
  encode: the tokeniser of all models.
  grade: the grader.
  """

  protocol: protocols.Protocol
  sampling: driver.Sampling
  encode: remembered.Encode
  grade: equivalence.Grader

  def __post_init__(self):
    if self.protocol.name == 'escalate':
      raise ValueError('Trees are of switch and redraft, not of escalate.')

  def grow(self, record: replies_lib.Replies) -> Tree:
    """The tree of one problem.

    Raises:
      ValueError: naming the problem, if a reply is missing, e.g. since a limit
        cut it short.
    """
    walk = _Walk(self, record)
    return Tree(
        record.problem, walk.node((), (), walk.no_books), walk.reference()
    )


class _Walk:
  """One problem's replies by route and trace, and what was made of them."""

  def __init__(self, grower: Grower, record: replies_lib.Replies):
    self._grower, self._problem = grower, record.problem
    self._replies = {(x.step.route, x.trace): x.step for x in record.replies}
    num_routes = 1 + max(x.step.route for x in record.replies)
    # What each model's session holds; nothing yet.
    self.no_books: tuple[Sequence[int], ...] = ((),) * num_routes
    self._prompts: dict[str, list[int]] = {}
    self._grades: dict[str, bool] = {}

  def node(self, steps, calls, books) -> Node:
    """The decision after `steps`, and all that may follow."""
    draft = None
    if self._grower.protocol.has_draft:
      draft, books = self._write(0, steps, books)
      calls = *calls, draft.usage
    branches = []
    for route in range(len(books)):
      step, after, paid = draft, books, calls
      if route > 0 or draft is None:
        step, after = self._write(route, steps, books)
        paid = *calls, step.usage
      branches.append(self._after((*steps, step), paid, after))
    return Node(steps, draft, calls, tuple(branches))

  def reference(self) -> types.Completion:
    """The largest model alone, in one call."""
    route, steps, books = len(self.no_books) - 1, (), self.no_books
    while driver.is_open(steps, self._grower.sampling):
      step, books = self._write(route, steps, books)
      steps = *steps, step
    prompt = self._prompt('')
    text = steps_lib.join(steps)
    return types.Completion(
        step=0,
        route=route,
        sample=0,
        text=text,
        read=len(prompt),
        written=steps_lib.count_written(steps),
        seconds=sum(step.usage.seconds for step in steps),
        is_correct=self._is_correct(text),
    )

  def _after(self, steps, calls, books) -> Node | Leaf:
    if driver.is_open(steps, self._grower.sampling):
      return self.node(steps, calls, books)
    return Leaf(calls, self._is_correct(steps_lib.join(steps)))

  def _write(self, route, steps, books):
    """The step of a route, paid, and the books after it."""
    trace = steps_lib.join(steps)
    step = self._replies.get((route, trace))
    left = driver.tokens_left(steps, self._grower.sampling.max_tokens)
    if step is None or step.usage.written > left:
      raise ValueError(
          f'Problem {self._problem.id}: the reply of route {route} to a trace '
          f'of {len(steps)} steps is not known.'
      )
    (step,), book = remembered.charged(
        [step], self._prompt(trace), books[route]
    )
    return step, (*books[:route], book, *books[route + 1 :])

  def _prompt(self, trace: str) -> list[int]:
    if trace not in self._prompts:
      self._prompts[trace] = self._grower.encode(self._problem.question + trace)
    return self._prompts[trace]

  def _is_correct(self, text: str) -> bool:
    if text not in self._grades:
      self._grades[text] = self._grower.grade(text, self._problem.answer)
    return self._grades[text]


def nodes(tree: Tree) -> Iterator[Node]:
  """Yields all decisions of a tree, each before those that follow it."""
  pending: list[Node | Leaf] = [tree.root]
  while pending:
    node = pending.pop()
    if isinstance(node, Node):
      yield node
      pending.extend(reversed(node.branches))
