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
  question: the text that the models are asked.
  answer: the reference answer, in the form that the grader expects.
  subject: the group for group-conditional results; may be empty.
  meta: further facts from the source (difficulty, labels); JSON-like.
  """

  id: str
  question: str
  answer: str
  subject: str = ''
  meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Usage:
  """The tokens and seconds that one model call consumed.

  If a call wrote several steps, each step has its part of the usage. The first
  part has the prompt (`read` and `cached`). Each later part has 0 for both, and
  counts everything before its step in `in_context`. So the costs of the steps
  sum to the cost of the call.

  Fields other than `route` may be arrays of one shape, for many calls at once.

  route: index of the model that was called.
  read: prompt tokens that were processed, because no cache held them.
  cached: prompt tokens that came from the model's prefix cache, because the
    model had read or written them earlier in the same session.
  written: tokens generated.
  seconds: wall-clock time attributed to the call. The time of a batch is
    divided evenly among its requests.
  in_context: tokens that were already in the context of the running request
    before this usage. An earlier usage of the same request reported and charged
    them, so here they add only the attention over them.
  """

  route: int
  # Disjoint counts, because each has a price of its own: an API that reports
  # prompt tokens with the cached ones included needs the difference in `read`.
  read: int | np.ndarray
  cached: int | np.ndarray
  written: int | np.ndarray
  seconds: float | np.ndarray = 0.0
  in_context: int | np.ndarray = 0


@dataclasses.dataclass(frozen=True)
class Step:
  """One step of an answer as one model wrote it, with its log-probabilities.

  text: the step, its delimiter included.
  token_ids: the n tokens of the step, under the writer's own tokenizer.
  log_probs: `[n]` float32, log-probability of each token before temperature is
    applied; `[0]` if the engine gives none.
  top_log_probs: `[n, k]` float32, the k largest log-probabilities at each
    token, in descending order; k may be 0.
  is_final: whether the model ended its answer with this step.
  usage: tokens and seconds that writing the step consumed.
  hidden: `[H]` float32, the writer's hidden state at the end of the step; None
    if the engine gives none.
  """

  text: str
  token_ids: tuple[int, ...]
  # Empty while `token_ids` is not, where a server returns only the text.
  log_probs: np.ndarray
  top_log_probs: np.ndarray
  # Not derivable from the text: a step without a delimiter at its end may also
  # have been cut off by the token limit.
  is_final: bool
  usage: Usage
  hidden: np.ndarray | None = None

  @property
  def route(self) -> int:
    """The route of the model that wrote this step."""
    return self.usage.route


@dataclasses.dataclass(frozen=True)
class Trace:
  """What a router may look at before a decision; nothing from the future.

  question: the text of the problem.
  steps: the accepted steps.
  draft: the small model's proposal for the next step, not yet accepted; None
    where the protocol decides before drafting.
  spent: cost so far, that of the draft included, in the configured cost metric,
    as a fraction of the expected all-large cost of a problem.
  previous: what the router saw at the decision before this one, with the draft
    of that decision even if it was discarded; None at the first decision.
  """

  question: str
  steps: tuple[Step, ...]
  draft: Step | None = None
  spent: float = 0.0
  # Left out of the repr: each trace would print all earlier ones as well.
  previous: 'Trace | None' = dataclasses.field(default=None, repr=False)

  @property
  def history(self) -> 'tuple[Trace, ...]':
    """What the router saw at each decision so far, oldest first, ending here.

    Policies over the step history (`gru`, `attention`) need it: the accepted
    steps alone do not show the drafts that were discarded.
    """
    seen, trace = [], self
    while trace is not None:
      seen.append(trace)
      trace = trace.previous
    return tuple(reversed(seen))

  @property
  def text(self) -> str:
    """The text of the accepted steps."""
    return ''.join(step.text for step in self.steps)


@dataclasses.dataclass(frozen=True)
class Decision:
  """A router's choice at one step boundary.

  route: the model that writes the next step.
  score: the number that was compared with the threshold; higher = escalate.
  probability: the action probability, i.e. the probability with which the
    router takes `route` at this trace; 1 for a deterministic router.
  """

  route: int
  score: float
  probability: float = 1.0


@dataclasses.dataclass(frozen=True)
class Trajectory:
  """One problem as a router answered it: decisions, steps and model calls.

  problem: the problem.
  steps: the final trace.
  discarded: the drafts that were paid for but not kept, in order.
  decisions: one per step boundary at which the router was asked.
  calls: the usage of every model call in order, including those that wrote
    discarded drafts or wasted tokens.
  is_correct: whether the final answer grades right.
  """

  problem: Problem
  steps: tuple[Step, ...]
  discarded: tuple[Step, ...]
  decisions: tuple[Decision, ...]
  # Not derivable from `steps`: one call may write many steps, and some calls
  # wrote none that was kept.
  calls: tuple[Usage, ...]
  is_correct: bool

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
  read: tokens of the question and the kept steps, under this model's tokenizer.
  written: tokens generated.
  seconds: wall-clock time of writing it. For a reused completion this is its
    share, by tokens, of the time of the call that wrote it.
  is_correct: whether the whole answer (kept steps and `text`) grades right.
  is_reused: whether the text was taken from the completion of a shorter prefix
    instead of generated again. Under greedy decoding this is exact if that
    completion began with the very step that the longer prefix adds.
  """

  step: int
  route: int
  sample: int
  text: str
  # The whole prompt, whatever was cached while collecting: a live hand-over is
  # the first call to this model.
  read: int
  written: int
  seconds: float
  is_correct: bool
  is_reused: bool = False


@dataclasses.dataclass(frozen=True)
class Ladder:
  """The small model's trace, and a larger model's ending from each prefix.

  The accuracy and cost of *any* policy of the protocol `escalate` follow
  exactly from a ladder, with no further model call.

  problem: the problem.
  steps: the small model's own trace, to its end. Decisions are made at the
    first T steps only; after the last decision the small model writes on alone.
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
    """The number of steps at which a router is asked, at most T."""
    # From the completions, since the small model may write more than T steps.
    return 1 + max((x.step for x in self.completions), default=-1)


@dataclasses.dataclass(frozen=True)
class Rollouts:
  """One problem as a behaviour policy answered it, once or several times.

  problem: the problem.
  reference: the largest model's answer from the empty prefix. Costs are
    fractions of its cost; relative loss and gain compare with its correctness.
  trajectories: complete answers; the `probability` of each decision is the
    action probability of the behaviour policy, for importance weights.
  """

  problem: Problem
  reference: Completion
  trajectories: tuple[Trajectory, ...]


# A flax dataclass, because `widths` must be a static field: array shapes under
# jit depend on it. `chex.dataclass` turns every field into a pytree leaf.
@flax.struct.dataclass
class OutcomeBatch:
  """Every possible course of B problems, with known outcomes, as arrays.

  The decisions of a problem form a tree, stored level by level: level d holds
  the decisions that are made after exactly d others. It is `widths[d]` wide,
  the largest number of such decisions in any problem; the rest is padding.
  Levels are concatenated along one axis, so D = sum(widths). Action a at a
  decision either leads to a decision of the next level or ends the answer.
  Costs are fractions of the all-large cost of the same problem.

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
  cost: `[B, D, A]` float32 >= 0, cost of that whole answer; 0 likewise.
  loss: `[B, D, A]` float32 in [0, 1], relative loss of that answer, i.e. the
    probability that the largest model alone is right and the answer is wrong;
    0 likewise.
  widths: number of columns of each level; static under jit.
  """

  # Zeros at inner branches let a sum over all D x A branches, weighted by their
  # probabilities, be the expectation over answers.
  features: chex.Array
  mask: chex.Array
  branch: chex.Array
  correct: chex.Array
  cost: chex.Array
  loss: chex.Array
  widths: tuple[int, ...] = flax.struct.field(pytree_node=False)

  @property
  def is_chain(self) -> bool:
    """Whether each decision has at most one successor, as in a ladder."""
    return all(width == 1 for width in self.widths)


@chex.dataclass(frozen=True)
class TrajectoryBatch:
  """Trajectories of a behaviour policy as arrays, padded to T decisions.

  An action is a route. Its meaning depends on the protocol (`protocols`): in
  `switch` the model that writes the next step; in `redraft` the model that
  rewrites the draft, where 0 keeps the draft; in `escalate` the model that
  takes over for good, where 0 continues with the small model. Costs are
  fractions of the all-large cost of the same problem.

  features: `[B, T, F]` float32, the observation at decision t.
  mask: `[B, T]` bool, True where decision t was made: a prefix of each row.
  available: `[B, T, A]` bool, the routes that were allowed at decision t.
  actions: `[B, T]` int32 in 0..A-1, the behaviour policy's action.
  behaviour: `[B, T]` float32 in (0, 1], its action probability for that action.
  costs: `[B, T]` float32 >= 0, paid from decision t to the next one. This
    includes the draft shown at the next decision; the first draft is charged to
    t = 0. A row sums to the cost of its trajectory.
  correct: `[B]` float32 in {0, 1}, whether the final answer grades right.
  loss, gain: `[B]` float32 in {0, 1}, relative loss and relative gain.
  """

  # The last three fields are one number per trajectory: the reward comes at its
  # end, without discount. Costs alone are attributed to single decisions.
  features: chex.Array
  mask: chex.Array
  available: chex.Array
  actions: chex.Array
  behaviour: chex.Array
  costs: chex.Array
  correct: chex.Array
  loss: chex.Array
  gain: chex.Array
