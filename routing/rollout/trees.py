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
from routing.engines import prefix_cache
from routing.grading import equivalence
from routing.rollout import all_replies
from routing.rollout import driver
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
class ReplyTree:
  """A problem with all ways through it.

  problem: the problem.
  root: the first decision.
  reference: the largest model's own answer, as `types.Rollouts` has it.
  """

  problem: types.Problem
  root: Node
  reference: types.Completion


@dataclasses.dataclass(frozen=True)
class TreeBuilder:
  """Grows trees from replies.

  protocol: `switch` or `redraft`; of `escalate`, the ladder holds everything.
  sampling: as the replies were collected with.
  grade: the grader.
  """

  protocol: protocols.Protocol
  sampling: driver.Sampling
  grade: equivalence.Grader

  def __post_init__(self):
    if self.protocol.name == 'escalate':
      raise ValueError('Trees are of switch and redraft, not of escalate.')

  def build(self, record: all_replies.Replies) -> ReplyTree:
    """The tree of one problem.

    Raises:
      ValueError: naming the problem, if a reply is missing, e.g. since a limit
        cut it short.
    """
    walk = _Walk(self, record)
    return ReplyTree(
        record.problem, walk.node((), (), walk.nothing_held), walk.reference()
    )


class _Walk:
  """One problem's replies by route and trace, and what was made of them."""

  def __init__(self, grower: TreeBuilder, record: all_replies.Replies):
    self._grower, self._problem = grower, record.problem
    self._caches = record.caches
    self._replies = {(x.step.route, x.trace): x for x in record.replies}
    # What the session holds at each model: nothing yet.
    self.nothing_held: tuple[prefix_cache.Held, ...] = ((),) * len(self._caches)
    self._grades: dict[str, bool] = {}

  def node(self, steps, calls, contents) -> Node:
    """The decision after `steps`, and all that may follow."""
    draft = None
    if self._grower.protocol.has_draft:
      (draft,), contents = self._write(0, steps, contents)
      calls = *calls, draft.usage
    is_last = len(steps) + 1 >= self._grower.sampling.max_decisions
    branches = []
    for route in range(len(contents)):
      written, after, paid = (draft,), contents, calls
      if route > 0 or draft is None:
        written, after = self._write(route, steps, contents, to_end=is_last)
        paid = *calls, steps_lib.call_usage(written)
      branches.append(
          self._after((*steps, *written), paid, after, route, is_last)
      )
    return Node(steps, draft, calls, tuple(branches))

  def reference(self) -> types.Completion:
    """The largest model alone, in one call."""
    route = len(self._caches) - 1
    written, _ = self._write(route, (), self.nothing_held, to_end=True)
    usage, text = steps_lib.call_usage(written), steps_lib.join(written)
    return types.Completion(
        step=0,
        route=route,
        sample=0,
        text=text,
        read=int(usage.read + usage.cached),
        written=int(usage.written),
        seconds=float(usage.seconds),
        is_correct=self._is_correct(text),
    )

  def _after(self, steps, calls, contents, route, is_last) -> Node | Leaf:
    """What follows once a route has written."""
    is_open = driver.is_open(steps, self._grower.sampling)
    if is_open and not is_last:
      return self.node(steps, calls, contents)
    if is_open:  # The last draft was kept: its writer goes on to the end.
      rest, _ = self._write(route, steps, contents, to_end=True)
      steps, calls = (*steps, *rest), (*calls, steps_lib.call_usage(rest))
    return Leaf(calls, self._is_correct(steps_lib.join(steps)))

  def _write(self, route, steps, contents, *, to_end=False):
    """The steps of one call of a route, paid, and what is held after it.

    Without the prompt's ids what is cached is an upper bound; see
    `prefix_cache.charged`.
    """
    written = [self._reply(route, steps)]
    sampling = self._grower.sampling
    while to_end and driver.is_open((*steps, *_steps(written)), sampling):
      written.append(self._reply(route, (*steps, *_steps(written))))
    prompt = prefix_cache.prompt(
        self._problem.question,
        written[0].trace,
        prefix_cache.num_read(written[0].step),
        written[0].prompt_ids,
    )
    paid, now = prefix_cache.charged(
        _steps(written), prompt, contents[route], self._caches[route]
    )
    return paid, (*contents[:route], now, *contents[route + 1 :])

  def _reply(self, route, steps) -> all_replies.Reply:
    """What a route writes after some steps."""
    reply = self._replies.get((route, steps_lib.join(steps)))
    left = driver.tokens_left(steps, self._grower.sampling.max_tokens)
    if reply is None or reply.step.usage.written > left:
      raise ValueError(
          f'Problem {self._problem.id}: the reply of route {route} to a trace '
          f'of {len(steps)} steps is not known.'
      )
    return reply

  def _is_correct(self, text: str) -> bool:
    if text not in self._grades:
      self._grades[text] = self._grower.grade(text, self._problem.answer)
    return self._grades[text]


def _steps(replies: Sequence[all_replies.Reply]) -> list[types.Step]:
  return [reply.step for reply in replies]


def nodes(tree: ReplyTree) -> Iterator[Node]:
  """Yields all decisions of a tree, each before those that follow it."""
  pending: list[Node | Leaf] = [tree.root]
  while pending:
    node = pending.pop()
    if isinstance(node, Node):
      yield node
      pending.extend(reversed(node.branches))
