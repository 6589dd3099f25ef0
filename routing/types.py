"""The nouns of the project: what flows between rooms, with shapes and units.

Host types (frozen dataclasses) hold text and NumPy; batches (chex dataclasses)
hold arrays only and may enter jit. Axes, here and everywhere: B batch, T steps,
F features, A routes, N problems, K thresholds. Route 0 is the smallest model.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import chex
import flax.struct
import numpy as np

DELIMITER = '\n\n'  # Ends a step; the delimiter belongs to the step it ends.


@dataclasses.dataclass(frozen=True)
class Problem:
  """A question with a gradable reference answer.

  id: unique within its source, e.g. 'arithmetic/train/17'.
  question: the text that the models are asked.
  answer: the reference answer, as the grader expects it.
  subject: the group that group-conditional figures use; may be empty.
  meta: whatever the source knows besides (difficulty, labels); JSON-like.
  """

  id: str
  question: str
  answer: str
  subject: str = ''
  meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Usage:
  """What one model call consumed. Fields may be arrays of one shape.

  route: index of the model that was called.
  read: tokens read anew (prompt tokens that were in no cache).
  cached: prompt tokens that this model had already read or written in this
    trace, hence read from its prefix cache.
  written: tokens generated.
  seconds: wall-clock attributed to the call: a batch's time, shared evenly.
  in_context: tokens before these that the request, still under way, had read or
    written by then; told, and paid for, in an earlier usage of it. All that
    they cost here is the attention over them.
  """

  route: int
  read: int | np.ndarray
  cached: int | np.ndarray
  written: int | np.ndarray
  seconds: float | np.ndarray = 0.0
  in_context: int | np.ndarray = 0


@dataclasses.dataclass(frozen=True)
class Step:
  """One step as one model wrote it, with the evidence it left.

  text: the step, delimiter included.
  token_ids: the writer's own tokens, n of them.
  log_probs: `[n]` float32, log-probability of each token, before temperature.
  top_log_probs: `[n, k]` float32, the k largest, descending; k may be 0.
  is_final: the model ended its answer with this step.
  usage: what writing it consumed.
  hidden: `[H]` float32, the writer's state at the step's end; None if the
    engine has none to give.
  """

  text: str
  token_ids: tuple[int, ...]
  log_probs: np.ndarray
  top_log_probs: np.ndarray
  is_final: bool
  usage: Usage
  hidden: np.ndarray | None = None

  @property
  def route(self) -> int:
    """The model that wrote this step."""
    return self.usage.route


@dataclasses.dataclass(frozen=True)
class Trace:
  """What a router may look at before it decides; nothing from the future.

  question: the problem's text.
  steps: the steps already in the trace.
  draft: the small model's next step, seen but not yet accepted; None where
    the protocol decides before drafting.
  spent: cost so far (the draft included), as a fraction of the all-large cost
    expected of a problem, in the cost metric of the configuration.
  previous: what the router saw at the decision before, drafts that were thrown
    away since included; None at the first.
  """

  question: str
  steps: tuple[Step, ...]
  draft: Step | None = None
  spent: float = 0.0
  previous: 'Trace | None' = dataclasses.field(default=None, repr=False)

  @property
  def history(self) -> 'tuple[Trace, ...]':
    """What the router saw at each decision so far, this one last."""
    seen, trace = [], self
    while trace is not None:
      seen.append(trace)
      trace = trace.previous
    return tuple(reversed(seen))

  @property
  def text(self) -> str:
    """The accepted steps, joined."""
    return ''.join(step.text for step in self.steps)


@dataclasses.dataclass(frozen=True)
class Decision:
  """A router's choice at one step boundary.

  route: the model that writes the next step.
  score: the number that was held against the threshold, higher = escalate.
  probability: chance with which the router takes `route` at this trace.
  """

  route: int
  score: float
  probability: float = 1.0


@dataclasses.dataclass(frozen=True)
class Trajectory:
  """One problem, answered live: everything decided, written and paid.

  problem: the problem.
  steps: the final trace.
  discarded: drafts that were seen, paid and thrown away.
  decisions: one per step boundary at which the router was asked.
  calls: every model call in order, discarded drafts included.
  is_correct: the final answer grades right.
  """

  problem: Problem
  steps: tuple[Step, ...]
  discarded: tuple[Step, ...]
  decisions: tuple[Decision, ...]
  calls: tuple[Usage, ...]
  is_correct: bool

  @property
  def text(self) -> str:
    """The answer as the user reads it."""
    return ''.join(step.text for step in self.steps)


@dataclasses.dataclass(frozen=True)
class Completion:
  """A larger model's ending of one prefix of the small trace.

  step: t, the number of small steps kept before the hand-over.
  route: the larger model, 1..A-1.
  sample: index of this completion among the k of its prefix.
  text: what the larger model wrote.
  read: tokens of question and kept steps, under this model's tokeniser.
  written: tokens generated.
  seconds: wall-clock of writing it; pro rata by tokens when reused.
  is_correct: the whole answer (kept steps + text) grades right.
  is_reused: taken over from the completion of a shorter prefix, whose next
    step was the same text (exact under greedy decoding).
  """

  step: int
  route: int
  sample: int
  text: str
  read: int
  written: int
  seconds: float
  is_correct: bool
  is_reused: bool = False


@dataclasses.dataclass(frozen=True)
class Ladder:
  """The small trace of a problem and every graded way out of it.

  From a ladder the accuracy and cost of *any* `escalate` policy follow exactly,
  with no further model call.

  problem: the problem.
  steps: the small model's own trace, to its end. Only the first T steps are
    decided on; after the last decision the small model writes by itself.
  is_correct: the small trace alone grades right.
  completions: for each step t in 0..min(len(steps), T)-1, each larger route and
    each sample, one completion; sorted by (step, route, sample).
  """

  problem: Problem
  steps: tuple[Step, ...]
  is_correct: bool
  completions: tuple[Completion, ...]

  @property
  def num_decisions(self) -> int:
    """How many of the steps are decided on."""
    return 1 + max((x.step for x in self.completions), default=-1)


@dataclasses.dataclass(frozen=True)
class Rollouts:
  """A problem as a behaviour policy answered it, once or several times.

  problem: the problem.
  reference: the largest model's own answer, from the empty prefix: what costs
    are fractions of, and what relative loss and gain are relative to.
  trajectories: complete ones; each decision carries the probability with which
    the behaviour policy took it.
  """

  problem: Problem
  reference: Completion
  trajectories: tuple[Trajectory, ...]


@flax.struct.dataclass
class OutcomeBatch:
  """Every way through B problems as arrays, padded level by level.

  A level holds the decisions that come after equally many others. Level d is
  `widths[d]` decisions wide, the most that any problem has there, and levels
  stand one after another, so D is the sum of all widths. Taking action a at a
  decision leads to a decision of the next level or ends the answer. Costs are
  fractions of the all-large cost of the same problem.

  A ladder is the case in which every level is one decision wide: action 0 leads
  to the next decision, all others end the answer.

  features: `[B, D, F]` float32, the observation at each decision.
  mask: `[B, D]` bool, the decision exists.
  branch: `[B, D]` int32, for a decision of level d > 0 the branch that leads to
    it: A times the place of the earlier decision within its level, plus the
    action taken there. 0 at level 0 and where there is no decision.
  correct: `[B, D, A]` float32 in [0, 1], chance that the answer in which action
    a ends is right; 0 where it leads to another decision or does not exist.
  cost: `[B, D, A]` float32 >= 0, cost of that whole answer, 0 likewise.
  loss: `[B, D, A]` float32 in [0, 1], its relative loss: chance that the
    largest model alone is right and this answer is wrong; 0 likewise.
  widths: decisions in each level; static under jit.
  """

  features: chex.Array
  mask: chex.Array
  branch: chex.Array
  correct: chex.Array
  cost: chex.Array
  loss: chex.Array
  widths: tuple[int, ...] = flax.struct.field(pytree_node=False)

  @property
  def is_chain(self) -> bool:
    """Whether each decision has one successor at most, as in a ladder."""
    return all(width == 1 for width in self.widths)


@chex.dataclass(frozen=True)
class TrajectoryBatch:
  """Behaviour trajectories as arrays, padded to T decision points.

  Action a at decision t is the route of `protocols`: who writes the next step
  (`switch`), who rewrites the draft, 0 keeping it (`redraft`), or who takes
  over for good, 0 staying (`escalate`). Costs are fractions of the all-large
  cost of the same problem.

  features: `[B, T, F]` float32, the observation at decision t.
  mask: `[B, T]` bool, decision t was taken; True first, then False.
  available: `[B, T, A]` bool, the routes that were allowed at decision t.
  actions: `[B, T]` int32 in 0..A-1, what the behaviour policy did.
  behaviour: `[B, T]` float32 in (0, 1], with which probability it did so.
  costs: `[B, T]` float32 >= 0, paid from decision t up to the next one, the
    draft shown at the next one included; the first draft belongs to t = 0. A
    row sums to the cost of its trajectory.
  correct: `[B]` float32 in {0, 1}, the final answer grades right.
  loss, gain: `[B]` float32 in {0, 1}, relative to the largest model.
  """

  features: chex.Array
  mask: chex.Array
  available: chex.Array
  actions: chex.Array
  behaviour: chex.Array
  costs: chex.Array
  correct: chex.Array
  loss: chex.Array
  gain: chex.Array
