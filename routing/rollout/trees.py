"""Reply trees: every answer that any router can produce on a problem.

A reply tree is for `switch` and `redraft` what a ladder is for `escalate`. Each
node is a decision with the trace that the router sees, each branch is a route
that the router may choose, and each leaf is a graded answer with all its calls.
A reply tree is built from collected replies, without calling a model. The steps
and calls on each path are those that the driver would record in a live answer.
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
from routing.rollout import cut_answers
from routing.rollout import step_requests
from routing.rollout import steps as steps_lib


@dataclasses.dataclass(frozen=True)
class Leaf:
  """A finished answer.

  steps: all steps of the answer.
  calls: every call of the answer in order, including those that wrote discarded
    drafts.
  is_correct: whether the answer grades right.
  is_cut: whether the token limit cut the answer off.
  """

  steps: tuple[types.Step, ...]
  calls: tuple[types.Call, ...]
  is_correct: bool
  is_cut: bool


@dataclasses.dataclass(frozen=True)
class Node:
  """A decision of the router at one step boundary.

  steps: the accepted steps before the decision.
  draft: the draft that the router sees; None if the protocol has no drafts.
  calls: every call before the decision in order, including the one that wrote
    the draft.
  branches: `[A]`; entry m is the next decision, or the finished answer, if the
    router chooses route m.
  """

  steps: tuple[types.Step, ...]
  draft: types.Step | None
  calls: tuple[types.Call, ...]
  branches: tuple[Node | Leaf, ...]


@dataclasses.dataclass(frozen=True)
class ReplyTree:
  """A problem with every answer that a router can produce.

  problem: the problem.
  root: the first decision.
  reference: the answer that the largest model writes alone, as in
    `types.Rollouts`.
  """

  problem: types.Problem
  root: Node
  reference: types.Completion


@dataclasses.dataclass(frozen=True)
class TreeBuilder:
  """Builds reply trees from collected replies.

  protocol: `switch` or `redraft`; for `escalate` use ladders.
  sampling: the settings and limits with which the replies were collected.
  grade: the grader of final answers.
  """

  protocol: protocols.Protocol
  sampling: step_requests.Sampling
  grade: equivalence.Grader

  def __post_init__(self):
    if self.protocol.name == 'escalate':
      raise ValueError(
          'Reply trees need the protocol switch or redraft, got escalate; use '
          'ladders for escalate.'
      )

  def build(self, record: all_replies.Replies) -> ReplyTree:
    """Returns the reply tree of the problem of `record`.

    Args:
      record: all replies that were collected on the problem.

    Raises:
      ValueError: naming the problem, if a reply is missing, e.g. because the
        collection stopped at its limit on replies.
    """
    walk = _Walk(self, record)
    return ReplyTree(
        record.problem, walk.node((), (), walk.empty_caches), walk.reference()
    )


class _Walk:
  """Builds the reply tree of one problem by recursion over its decisions."""

  def __init__(self, builder: TreeBuilder, record: all_replies.Replies):
    self._builder, self._problem = builder, record.problem
    self._caches = record.caches
    # A reply depends only on the text of the trace, whichever models wrote it.
    self._replies = {(x.step.route, x.trace): x for x in record.replies}
    # The prefix cache of each engine is empty at the start of a session. The
    # contents are immutable tuples, because paths that begin with the same
    # calls must not change each other's contents.
    self.empty_caches: tuple[prefix_cache.Contents, ...] = ((),) * len(
        self._caches
    )
    # Text of an answer -> its grade. Many leaves have the same answer, and
    # grading may be slow.
    self._grades: dict[str, bool] = {}

  def node(self, steps, calls, contents) -> Node:
    """Returns the decision after `steps`, with the subtree below it.

    Args:
      steps: the accepted steps.
      calls: every call so far.
      contents: `[A]`, the contents of each engine's prefix cache.
    """
    draft = None
    if self._builder.protocol.has_draft:
      (draft,), contents = self._write(0, steps, contents)
      calls = *calls, _call('draft', (draft,))
    is_last = len(steps) + 1 >= self._builder.sampling.max_decisions
    branches = []
    for route in range(len(contents)):
      # As in `driver.answer`: route 0 accepts the draft without another call.
      # Any other route makes a call, which is charged in addition to the draft.
      written, after, paid = (draft,), contents, calls
      if route > 0 or draft is None:
        written, after = self._write(route, steps, contents, to_end=is_last)
        paid = *calls, _call('hand_over' if is_last else 'step', written)
      branches.append(
          self._after((*steps, *written), paid, after, route, is_last)
      )
    return Node(steps, draft, calls, tuple(branches))

  def reference(self) -> types.Completion:
    """Returns the answer that the largest model writes alone, in one call."""
    route = len(self._caches) - 1
    # The prefix cache is empty, because `behaviour_rollouts` collects this
    # answer in a separate session.
    written, _ = self._write(route, (), self.empty_caches, to_end=True)
    usage, text = steps_lib.call_usage(written), steps_lib.join(written)
    return types.Completion(
        step=0,
        route=route,
        sample=0,
        text=text,
        read=int(usage.read),
        cached=int(usage.cached),
        written=int(usage.written),
        seconds=float(usage.seconds),
        is_correct=self._is_correct(text),
        is_cut=not written[-1].is_final,
    )

  def _after(self, steps, calls, contents, route, is_last) -> Node | Leaf:
    """Returns the subtree after a decision: the next node, or a leaf.

    Args:
      steps: the accepted steps, including what `route` wrote.
      calls: every call so far.
      contents: `[A]`, the contents of each engine's prefix cache.
      route: the route that the router chose.
      is_last: whether this was the last decision that is allowed.
    """
    is_open = step_requests.is_open(steps, self._builder.sampling)
    if is_open and not is_last:
      return self.node(steps, calls, contents)
    # Only an accepted draft leaves the answer open after the last decision. Its
    # writer then continues to the end.
    if is_open:
      rest, _ = self._write(route, steps, contents, to_end=True)
      steps, calls = (*steps, *rest), (*calls, _call('hand_over', rest))
    return Leaf(
        steps,
        calls,
        self._is_correct(steps_lib.join(steps)),
        cut_answers.of_steps(steps),
    )

  def _write(self, route, steps, contents, *, to_end=False):
    """Looks up the steps that one model call would write, and their usage.

    Args:
      route: index of the model that writes.
      steps: the accepted steps.
      contents: `[A]`, the contents of each engine's prefix cache.
      to_end: True = the rest of the answer; False = one step.

    Returns:
      The steps, with the usage that the call would have on this path, and the
      contents of the prefix caches after the call. If the prompt's token ids
      are not known, the number of cached tokens is an upper bound; see
      `prefix_cache.charged`.
    """
    written = [self._reply(route, steps)]
    sampling = self._builder.sampling
    # The rest of an answer is a chain of replies: each is the model's reply to
    # the trace that the replies before it have extended.
    while to_end and step_requests.is_open(
        (*steps, *_steps(written)), sampling
    ):
      written.append(self._reply(route, (*steps, *_steps(written))))
    # One call has one prompt, which is the prompt of its first reply.
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
    """Returns the reply of `route` to the trace that consists of `steps`.

    Raises:
      ValueError: if the reply was not collected, or is longer than the token
        limit allows after `steps`.
    """
    reply = self._replies.get((route, steps_lib.join(steps)))
    # The same text has different token counts under different models. If other
    # models wrote it on this path than in the collection, fewer tokens may be
    # left, and a live engine would cut the reply off earlier.
    left = step_requests.tokens_left(steps, self._builder.sampling.max_tokens)
    if reply is None or reply.step.num_tokens > left:
      raise ValueError(
          f'Problem {self._problem.id}: the reply of route {route} to a trace '
          f'of {len(steps)} steps is not known. Collect replies without a '
          'limit on their number, or leave this problem out.'
      )
    return reply

  def _is_correct(self, text: str) -> bool:
    """Returns whether the answer in `text` is correct; caches the grade."""
    if text not in self._grades:
      problem = self._problem
      verdict = self._builder.grade(text, problem.answer, problem.meta)
      self._grades[text] = verdict.is_correct
    return self._grades[text]


def _steps(replies: Sequence[all_replies.Reply]) -> list[types.Step]:
  """Returns the steps that a sequence of replies consists of."""
  return [reply.step for reply in replies]


def _call(kind: str, written: Sequence[types.Step]) -> types.Call:
  """Returns the call of this kind that wrote all of these steps."""
  return steps_lib.as_call(kind, steps_lib.call_usage(written))


def nodes(tree: ReplyTree) -> Iterator[Node]:
  """Yields all decisions of a reply tree, depth first.

  Each decision comes before the decisions below it; branches come in the order
  of their routes.
  """
  # The last entry of this stack is visited next. Branches are pushed in reverse
  # order, so that route 0 comes first.
  pending: list[Node | Leaf] = [tree.root]
  while pending:
    node = pending.pop()
    if isinstance(node, Node):
      yield node
      pending.extend(reversed(node.branches))
