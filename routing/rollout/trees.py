"""Reply trees: every course that a problem can take under any router.

A reply tree is for `switch` and `redraft` what a ladder is for `escalate`. Each
node is a decision with what the router sees there, each branch is a route that
it may name, and each leaf is a graded answer with all its calls. A tree is
built from collected replies, without a model. On each path it holds the steps
and the calls that the driver would have recorded.
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
  """A finished answer.

  calls: the usage of every call in order, discarded drafts included.
  is_correct: whether the answer grades right.
  """

  calls: tuple[types.Usage, ...]
  is_correct: bool


@dataclasses.dataclass(frozen=True)
class Node:
  """A decision.

  steps: the accepted steps.
  draft: the draft that the router sees; None where the protocol has no drafts.
  calls: the calls paid so far, that of the draft included.
  branches: `[A]`, entry m is what follows if the router names route m.
  """

  steps: tuple[types.Step, ...]
  draft: types.Step | None
  calls: tuple[types.Usage, ...]
  branches: tuple[Node | Leaf, ...]


@dataclasses.dataclass(frozen=True)
class ReplyTree:
  """A problem with every possible course of its answer.

  problem: the problem.
  root: the first decision.
  reference: the largest model's own answer, as in `types.Rollouts`.
  """

  problem: types.Problem
  root: Node
  reference: types.Completion


@dataclasses.dataclass(frozen=True)
class TreeBuilder:
  """Builds reply trees from collected replies.

  protocol: `switch` or `redraft`; for `escalate` use ladders.
  sampling: the settings with which the replies were collected.
  grade: the grader.
  """

  protocol: protocols.Protocol
  sampling: driver.Sampling
  grade: equivalence.Grader

  def __post_init__(self):
    if self.protocol.name == 'escalate':
      raise ValueError(
          'Reply trees need the protocol switch or redraft, got escalate; use '
          'ladders for escalate.'
      )

  def build(self, record: all_replies.Replies) -> ReplyTree:
    """Returns the reply tree of one problem.

    Raises:
      ValueError: naming the problem, if a reply is missing, e.g. because a
        limit ended its collection early.
    """
    walk = _Walk(self, record)
    return ReplyTree(
        record.problem, walk.node((), (), walk.empty_caches), walk.reference()
    )


class _Walk:
  """Builds the tree of one problem by recursion over its decisions."""

  def __init__(self, builder: TreeBuilder, record: all_replies.Replies):
    self._builder, self._problem = builder, record.problem
    self._caches = record.caches
    # A reply depends on the text of the trace only, not on who wrote its steps.
    self._replies = {(x.step.route, x.trace): x for x in record.replies}
    # The prefix cache of each engine at the start of a session. Contents are
    # immutable tuples, since each path through the tree needs its own.
    self.empty_caches: tuple[prefix_cache.Contents, ...] = ((),) * len(
        self._caches
    )
    # By text: many leaves have the same answer, and grading may be slow.
    self._grades: dict[str, bool] = {}

  def node(self, steps, calls, contents) -> Node:
    """Returns the decision after `steps`, with all that may follow it.

    Args:
      steps: the accepted steps.
      calls: the calls paid so far.
      contents: what the session's prefix cache holds at each engine.
    """
    draft = None
    if self._builder.protocol.has_draft:
      (draft,), contents = self._write(0, steps, contents)
      calls = *calls, draft.usage
    is_last = len(steps) + 1 >= self._builder.sampling.max_decisions
    branches = []
    for route in range(len(contents)):
      # As in `driver.answer`: route 0 keeps the draft at no further cost, any
      # other call comes on top of the draft's.
      written, after, paid = (draft,), contents, calls
      if route > 0 or draft is None:
        written, after = self._write(route, steps, contents, to_end=is_last)
        paid = *calls, steps_lib.call_usage(written)
      branches.append(
          self._after((*steps, *written), paid, after, route, is_last)
      )
    return Node(steps, draft, calls, tuple(branches))

  def reference(self) -> types.Completion:
    """Returns the largest model's own answer, written in a single call."""
    route = len(self._caches) - 1
    # In a session of its own, as `behaviour_rollouts` collects it.
    written, _ = self._write(route, (), self.empty_caches, to_end=True)
    usage, text = steps_lib.call_usage(written), steps_lib.join(written)
    return types.Completion(
        step=0,
        route=route,
        sample=0,
        text=text,
        # A completion counts its whole prompt as read.
        read=int(usage.read + usage.cached),
        written=int(usage.written),
        seconds=float(usage.seconds),
        is_correct=self._is_correct(text),
    )

  def _after(self, steps, calls, contents, route, is_last) -> Node | Leaf:
    """Returns the next decision, or the leaf, once `route` has written."""
    is_open = driver.is_open(steps, self._builder.sampling)
    if is_open and not is_last:
      return self.node(steps, calls, contents)
    if is_open:  # The last draft was kept; its writer continues to the end.
      rest, _ = self._write(route, steps, contents, to_end=True)
      steps, calls = (*steps, *rest), (*calls, steps_lib.call_usage(rest))
    return Leaf(calls, self._is_correct(steps_lib.join(steps)))

  def _write(self, route, steps, contents, *, to_end=False):
    """Looks up one call of a route, and charges it for its prompt.

    Args:
      route: the writer.
      steps: the accepted steps.
      contents: what the session's prefix cache holds at each engine.
      to_end: True = the rest of the answer; False = one step.

    Returns:
      The steps, with the usage that the call would have in this session, and
      the contents after it. If the prompt's token ids are not known, the cached
      tokens are an upper bound; see `prefix_cache.charged`.
    """
    written = [self._reply(route, steps)]
    sampling = self._builder.sampling
    # A call to the end is a chain of replies, each to the trace before it.
    while to_end and driver.is_open((*steps, *_steps(written)), sampling):
      written.append(self._reply(route, (*steps, *_steps(written))))
    # The prompt is that of the call, hence of its first reply.
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
    """Returns the reply of a route to the trace of `steps`."""
    reply = self._replies.get((route, steps_lib.join(steps)))
    # By the counts of this path's writers, fewer tokens may be left than when
    # the reply was collected. The engine would then cut it off earlier.
    left = driver.tokens_left(steps, self._builder.sampling.max_tokens)
    if reply is None or reply.step.usage.written > left:
      raise ValueError(
          f'Problem {self._problem.id}: the reply of route {route} to a trace '
          f'of {len(steps)} steps is not known; collect replies without a '
          'limit, or leave this problem out.'
      )
    return reply

  def _is_correct(self, text: str) -> bool:
    if text not in self._grades:
      self._grades[text] = self._builder.grade(text, self._problem.answer)
    return self._grades[text]


def _steps(replies: Sequence[all_replies.Reply]) -> list[types.Step]:
  return [reply.step for reply in replies]


def nodes(tree: ReplyTree) -> Iterator[Node]:
  """Yields all decisions of a reply tree, each before those that follow it.

  Branches come in the order of their routes, depth first.
  """
  # A stack instead of recursion; reversed, so that route 0 is popped first.
  pending: list[Node | Leaf] = [tree.root]
  while pending:
    node = pending.pop()
    if isinstance(node, Node):
      yield node
      pending.extend(reversed(node.branches))
