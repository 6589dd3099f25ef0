"""Data types that the stages exchange, with the shape and unit of each field.

Records (frozen dataclasses: `Problem` ... `Rollouts`) hold text and NumPy
arrays and stay on the host. Batches (`OutcomeBatch`, `TrajectoryBatch`) hold
arrays only and may enter jit.

Axes here and everywhere: B batch, T steps, F features, A routes, N problems,
K thresholds. A route is the index of a model; route 0 is the smallest model.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import chex
import flax.struct
import numpy as np

DELIMITER = '\n\n'  # Ends a step, and is part of the step that it ends.


@dataclasses.dataclass(frozen=True)
class Problem:
  """A question with a reference answer that a grader can check.

  id: unique within its source, e.g. 'arithmetic/train/17'.
  question: the text that the models are prompted with.
  answer: the reference answer, in the form that the grader expects.
  subject: the group of the problem, for results by group; may be empty.
  meta: further facts that the problem source gives, e.g. difficulty; JSON-like.
  """

  id: str
  question: str
  answer: str
  subject: str = ''
  meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Usage:
  """The tokens and seconds that one model call consumed.

  If a call wrote several steps, each step has its own part of the call's usage.
  The first part counts the prompt in `read` and `cached`. Each later part has 0
  for both, and counts everything before its step in `in_context`. So the costs
  of the steps sum to the cost of the call.

  One `Usage` may also describe many calls of one route at once: all fields
  other than `route` are then arrays of the same shape.

  route: index of the model that was called.
  read: number of prompt tokens that the model processed, because they were not
    in its prefix cache.
  cached: number of prompt tokens taken from the model's prefix cache, because
    the model had read or written them earlier in the same session.
  written: number of tokens generated.
  seconds: wall-clock time attributed to the call. The time of a batch is
    divided evenly among its requests.
  in_context: tokens that were in the context of the running request before this
    usage. An earlier usage of the same request charged them; here they add only
    the cost of attending to them.
  """

  route: int
  # Disjoint, as each has its own price; some APIs count the cached ones twice.
  read: int | np.ndarray
  cached: int | np.ndarray
  written: int | np.ndarray
  seconds: float | np.ndarray = 0.0
  in_context: int | np.ndarray = 0


# What the text of a call was written for: the small model's proposal of the
# next step; the next step; the rest of the answer, at a hand-over or after the
# last decision; nothing, as it was speculative and then cancelled; to inform
# the router, as text that can never be a step.
CALL_KINDS = ('draft', 'step', 'hand_over', 'wasted', 'probe')


@dataclasses.dataclass(frozen=True)
class Call(Usage):
  """The usage of one whole model call, with its kind.

  kind: one of `CALL_KINDS`; '' = not recorded, as in older files.
  """

  kind: str = ''

  def __post_init__(self):
    if self.kind and self.kind not in CALL_KINDS:
      raise ValueError(
          f'The kind of a call is {self.kind!r}; allowed: {CALL_KINDS}.'
      )


@dataclasses.dataclass(frozen=True)
class Step:
  """One step of an answer, with the log-probabilities of its tokens.

  text: the text of the step, including the delimiter at its end.
  token_ids: the n tokens of the step, under the writer's own tokenizer.
  log_probs: `[n]` float32, log-probability of each token before temperature is
    applied; `[0]` if the engine gives none.
  top_log_probs: `[n, k]` float32, the k largest log-probabilities over the
    vocabulary at each token position, in descending order; k may be 0.
  is_final: whether the model ended its answer with this step.
  usage: tokens and seconds that the writer consumed for this step; it may
    include text that was dropped, so `num_tokens` is the length of the step.
  hidden: `[H]` float32, the writer's hidden state at the step's end, or None.
  is_complete: a delimiter ended it, not the token limit; None = not known.
  pieces: the text of each token; None = not known. They join to `text`, except
    where a token of the step before has its beginning.
  """

  text: str
  token_ids: tuple[int, ...]
  # Empty although `token_ids` is not, if a server returns text only.
  log_probs: np.ndarray
  top_log_probs: np.ndarray
  is_final: bool
  usage: Usage
  hidden: np.ndarray | None = None
  is_complete: bool | None = None
  pieces: tuple[str, ...] | None = None

  @property
  def route(self) -> int:
    """The route (index) of the model that wrote this step."""
    return self.usage.route

  @property
  def num_tokens(self) -> int:
    """The length of the step's own text in tokens of its writer."""
    return len(self.token_ids)


@dataclasses.dataclass(frozen=True)
class Trace:
  """The unfinished answer that a router sees when it makes a decision.

  question: the text of the problem's question.
  steps: the accepted steps, in order.
  draft: the small model's proposal for the next step; None without drafts.
  spent: cost of all calls so far, including the call that wrote the draft, in
    the configured cost metric. The unit is the expected all-large cost: what
    the largest model alone costs on an average problem.
  previous: the trace at the previous decision, including the draft shown there,
    even if it was discarded; None at the first decision.
  evidence: what the router's informant said, if any; see `rollout.inquiry`.
  """

  question: str
  steps: tuple[Step, ...]
  draft: Step | None = None
  spent: float = 0.0
  # `repr` leaves `previous` out, or each trace would print all earlier traces.
  previous: 'Trace | None' = dataclasses.field(default=None, repr=False)
  evidence: tuple[float, ...] = ()

  @property
  def history(self) -> 'tuple[Trace, ...]':
    """The traces at all decisions so far, oldest first; the last is this one.

    The accepted steps alone do not show the drafts that were discarded.
    """
    seen, trace = [], self
    while trace is not None:
      seen.append(trace)
      trace = trace.previous
    return tuple(reversed(seen))

  @property
  def text(self) -> str:
    """The concatenated text of the accepted steps."""
    return ''.join(step.text for step in self.steps)


@dataclasses.dataclass(frozen=True)
class Decision:
  """A router's choice at one step boundary.

  route: index of the model that writes the next step.
  score: the number that the router compared with its threshold; a higher score
    speaks for a larger model.
  probability: the action probability, i.e. the probability with which the
    router chooses `route` at this trace; 1 for a deterministic router.
  """

  route: int
  score: float
  probability: float = 1.0


@dataclasses.dataclass(frozen=True)
class Trajectory:
  """The answer to one problem under a router: decisions, steps, model calls.

  problem: the problem that was answered.
  steps: the accepted steps, which together are the whole answer.
  discarded: the drafts that were charged but not accepted, in order.
  decisions: one per step boundary at which the router was asked, in order.
  calls: every model call in order, including those that wrote discarded drafts
    or wasted tokens.
  is_correct: whether the final answer grades right; None = nobody graded it.
  """

  problem: Problem
  steps: tuple[Step, ...]
  discarded: tuple[Step, ...]
  decisions: tuple[Decision, ...]
  # `calls` cannot be derived from `steps`: one call may write many steps, and
  # the steps of other calls were discarded.
  calls: tuple[Call, ...]
  is_correct: bool | None

  @property
  def text(self) -> str:
    """The whole answer as the user reads it."""
    return ''.join(step.text for step in self.steps)


@dataclasses.dataclass(frozen=True)
class Completion:
  """The rest of an answer that a larger model wrote after a step prefix.

  step: t, the number of the small model's steps kept before the hand-over.
  route: the larger model, in 1..A-1.
  sample: index of this completion among the samples for the same prefix.
  text: what the larger model wrote.
  read: number of tokens of the question and the kept steps, under the tokenizer
    of this larger model, without those in `cached`.
  cached: number of tokens with which every prompt begins and which are in the
    cache before any hand-over, e.g. those of solved examples.
  written: number of tokens generated.
  seconds: wall-clock time to write `text`. For a reused completion this is a
    share, in proportion to its tokens, of the time of the original call.
  is_correct: whether the whole answer (kept steps and `text`) grades right.
  is_reused: whether the text was taken from the completion of a shorter prefix
    instead of generated again. Under greedy decoding the text is the same,
    provided that the shorter prefix's completion began with exactly the step
    that the longer prefix adds.
  is_cut: whether the token limit cut the answer off; None = not recorded.
  """

  step: int
  route: int
  sample: int
  text: str
  # `read` counts the whole prompt of the problem, even if part of it was cached
  # during the collection: a live hand-over is the first call to the larger
  # model, so none of it can be cached then.
  read: int
  written: int
  seconds: float
  is_correct: bool
  is_reused: bool = False
  cached: int = 0
  is_cut: bool | None = None


@dataclasses.dataclass(frozen=True)
class Ladder:
  """The small model's answer, and a larger model's ending from each prefix.

  On this problem, the accuracy and cost of *any* policy of the protocol
  `escalate` follow exactly from the ladder, without another model call.

  problem: the problem.
  steps: the small model's whole answer, written without a hand-over. Decisions
    are made at its first T steps only.
  is_correct: whether the small model's own answer grades right.
  completions: one for each step t in 0..min(len(steps), T)-1, each larger route
    and each sample; sorted by (step, route, sample).
  """

  problem: Problem
  steps: tuple[Step, ...]
  is_correct: bool
  completions: tuple[Completion, ...]

  @property
  def num_decisions(self) -> int:
    """The number of steps at which a router makes a decision, at most T."""
    # Counted from the completions, because `steps` may be longer than T.
    return 1 + max((x.step for x in self.completions), default=-1)


@dataclasses.dataclass(frozen=True)
class Rollouts:
  """One or more answers of a behaviour policy to the same problem.

  problem: the problem.
  reference: the answer that the largest model wrote alone. Costs are reported
    as fractions of the cost of this answer; relative loss and relative gain
    compare trajectories with its correctness.
  trajectories: complete answers. The `probability` of each decision is the
    behaviour policy's action probability, from which training computes
    importance weights.
  """

  problem: Problem
  reference: Completion
  trajectories: tuple[Trajectory, ...]


# `OutcomeBatch` is a flax dataclass, because array shapes under jit depend on
# `widths`, which must be static. `chex.dataclass` has no static fields: it
# turns every field into a pytree leaf.
@flax.struct.dataclass
class OutcomeBatch:
  """Every possible course of B problems, with known outcomes, as arrays.

  The decisions of a problem form a tree, stored level by level: level d holds
  the decisions that are made after exactly d others. Level d has `widths[d]`
  columns, as many as the problem with the most decisions at this level needs;
  other problems are padded. Levels are concatenated along one axis, so
  D = sum(widths). Each action at a decision either leads to a decision of the
  next level or ends the answer. Costs are fractions of the all-large cost, i.e.
  of what the largest model alone costs on the same problem.

  A ladder is the special case in which every level is one decision wide: action
  0 leads to the next decision, all others end the answer.

  Example, A = 2 and widths = (1, 2): column 0 is the first decision, columns 1
  and 2 follow it. If column 1 is reached by action 0 and column 2 by action 1,
  then `branch` is [0, 0, 1].

  features: `[B, D, F]` float32, the observation at each decision.
  mask: `[B, D]` bool, True where the decision exists.
  branch: `[B, D]` int32. For a decision of level d > 0, A * i + a, where i is
    the index of its parent decision within level d - 1 and a the action taken
    there. 0 at level 0 and in padding.
  correct: `[B, D, A]` float32 in [0, 1], probability that the answer that ends
    with action a is right; 0 where the action leads to another decision or
    does not exist.
  cost: `[B, D, A]` float32 >= 0, cost of the whole answer that ends with action
    a; 0 in the same places as `correct`.
  loss: `[B, D, A]` float32 in [0, 1], relative loss of the answer that ends
    with action a: the probability that the largest model alone is right and
    this answer is wrong; 0 in the same places as `correct`.
  widths: number of columns of each level; static under jit.
  """

  # An answer's outcome is stored at the action that ends it; all other actions
  # hold 0. So the expected outcome is one sum over all D x A actions, each
  # weighted by the probability that the policy reaches its decision and takes
  # it.
  features: chex.Array
  mask: chex.Array
  branch: chex.Array
  correct: chex.Array
  cost: chex.Array
  loss: chex.Array
  widths: tuple[int, ...] = flax.struct.field(pytree_node=False)

  @property
  def is_chain(self) -> bool:
    """True if each decision has at most one successor, as in a ladder."""
    return all(width == 1 for width in self.widths)


@chex.dataclass(frozen=True)
class TrajectoryBatch:
  """Trajectories of a behaviour policy as arrays, padded to T decisions.

  An action is a route. Its meaning depends on the protocol (`protocols`): in
  `switch` the model that writes the next step; in `redraft` the model that
  rewrites the draft, where 0 keeps the draft; in `escalate` the model that
  takes over for good, where 0 continues with the small model. Costs are
  fractions of what the largest model alone costs on the same problem.

  features: `[B, T, F]` float32, the observation at decision t.
  mask: `[B, T]` bool, True where decision t was made. The decisions of a row
    come first, its padding last.
  available: `[B, T, A]` bool, the routes that were allowed at decision t.
  actions: `[B, T]` int32 in 0..A-1, the action that the behaviour policy took.
  behaviour: `[B, T]` float32 in (0, 1], the probability with which the
    behaviour policy took `actions`.
  costs: `[B, T]` float32 >= 0, cost of the calls between decision t and the
    next one. This includes the draft shown at the next decision; the draft
    shown at t = 0 is charged to t = 0. A row sums to the trajectory's cost.
  correct: `[B]` float32 in {0, 1}, whether the final answer grades right.
  loss: `[B]` float32 in {0, 1}, relative loss: 1 if the largest model alone is
    right and the trajectory is wrong.
  gain: `[B]` float32 in {0, 1}, relative gain: 1 in the reverse case.
  """

  # `correct`, `loss` and `gain` are one number per trajectory, because the
  # reward is given at its end, without discount. Only costs are attributed to
  # single decisions.
  features: chex.Array
  mask: chex.Array
  available: chex.Array
  actions: chex.Array
  behaviour: chex.Array
  costs: chex.Array
  correct: chex.Array
  loss: chex.Array
  gain: chex.Array
