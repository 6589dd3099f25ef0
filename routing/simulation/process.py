"""A simulated routing process with hidden difficulty and hidden errors.

A problem has T steps. The difficulty of a step follows a Markov chain that no
route influences. The probability that a route writes a step right falls with
the difficulty. One wrong step makes the trace wrong, and it stays wrong unless
a later step repairs it. The answer is right if the trace is right at the end.

A router sees only the confidence of a step: a discrete level whose distribution
depends on the difficulty and on whether the trace is right. So the confidence
is informative about both, but does not determine them.

Each step has one random draw per route, made before any decision (common random
numbers). So every problem has the largest model's own answer, its *reference*,
beside the routed answer, as a recorded problem has. A router that always takes
the largest route has no relative loss, and a draft that is kept is the step
that the small model would have written.
"""

import dataclasses

import numpy as np

from routing import protocols

# A matrix, as tuples of its rows.
Table = tuple[tuple[float, ...], ...]


@dataclasses.dataclass(frozen=True)
class Process:
  """The parameters of a process: difficulties, errors, confidence and prices.

  Axes: D difficulties, L confidence levels, A routes. The default has 2 routes.

  num_steps: T >= 1, steps of every trace.
  start: `[D]`, distribution of the first step's difficulty, easiest first.
  moves: `[D][D]`, distribution of the next step's difficulty (last axis), given
    the difficulty of this step.
  right: `[A][D]`, probability that a route's step leaves a right trace right.
  repair: `[A]`, probability that a route's step makes a wrong trace right.
  confidence: `[D][2][L]`, distribution of the confidence level, lowest first,
    after a step that leaves the trace right (0) or wrong (1).
  prices: `[A]`, price of a step, in any unit.
  """

  # The fields are tuples, not arrays: a process must be hashable, since it is a
  # static field of the pytree `history_tree.HistoryTree`.

  num_steps: int = 5
  start: tuple[float, ...] = (0.5, 0.3, 0.2)
  moves: Table = ((0.85, 0.1, 0.05), (0.2, 0.6, 0.2), (0.1, 0.2, 0.7))
  right: Table = ((0.995, 0.85, 0.5), (0.998, 0.97, 0.9))
  repair: tuple[float, ...] = (0.0, 0.2)
  confidence: tuple[Table, ...] = (
      ((0.05, 0.15, 0.8), (0.4, 0.4, 0.2)),
      ((0.15, 0.6, 0.25), (0.5, 0.4, 0.1)),
      ((0.4, 0.5, 0.1), (0.8, 0.18, 0.02)),
  )
  prices: tuple[float, ...] = (0.15, 1.0)

  def __post_init__(self):
    if self.num_steps < 1:
      raise ValueError(f'num_steps is {self.num_steps}; it must be at least 1.')
    routes, levels = self.num_routes, np.shape(self.confidence)[-1]
    difficulties = len(self.start)
    shapes = {
        'moves': (difficulties, difficulties),
        'right': (routes, difficulties),
        'repair': (routes,),
        'confidence': (difficulties, 2, levels),
    }
    for name, shape in shapes.items():
      if np.shape(getattr(self, name)) != shape:
        raise ValueError(
            f'{name} has shape {np.shape(getattr(self, name))}; it must be '
            f'{shape}.'
        )
    for name in ('start', 'moves', 'confidence'):
      if not np.allclose(np.sum(getattr(self, name), axis=-1), 1.0):
        raise ValueError(
            f'{name} is {getattr(self, name)}; it must sum to 1 along its last '
            'axis.'
        )
    for name in ('start', *shapes):
      value = np.asarray(getattr(self, name))
      if not ((value >= 0) & (value <= 1)).all():
        raise ValueError(
            f'{name} has probabilities from {value.min()} to {value.max()}; '
            'they must be in [0, 1].'
        )
    if routes < 2 or min(self.prices) < 0 or not self.prices[-1] > 0:
      raise ValueError(
          f'prices are {self.prices}; there must be 2 or more, all at least 0 '
          'and the last above 0.'
      )

  @property
  def num_routes(self) -> int:
    """A, the number of routes."""
    return len(self.prices)

  @property
  def num_levels(self) -> int:
    """L, the number of confidence levels."""
    return len(self.confidence[0][0])

  @property
  def step_costs(self) -> np.ndarray:
    """`[A]` costs of one step, as fractions of the all-large cost."""
    # The all-large cost is that of T steps of the largest model.
    return np.asarray(self.prices) / (self.num_steps * self.prices[-1])

  @property
  def stays_right(self) -> np.ndarray:
    """`[A, D, 2]` P(the trace is right after a step), by route and difficulty.

    Last axis: the trace was right (0) or wrong (1) before the step.
    """
    right = np.asarray(self.right)
    repair = np.broadcast_to(np.asarray(self.repair)[:, None], right.shape)
    return np.stack([right, repair], axis=-1)


def three_routes(num_steps: int = 4) -> Process:
  """Returns a variant of the default process with a model of medium size."""
  return Process(
      num_steps=num_steps,
      right=((0.995, 0.8, 0.4), (0.996, 0.92, 0.6), (0.998, 0.97, 0.9)),
      repair=(0.0, 0.1, 0.25),
      prices=(0.1, 0.4, 1.0),
  )


def uninformative(process: Process) -> Process:
  """Returns the process with a single confidence level, hence no information.

  The best policy for this process is a plan that is fixed in advance.
  """
  # The single level has probability 1 for every difficulty and for right and
  # wrong traces.
  says_nothing = (((1.0,), (1.0,)),) * len(process.start)
  return dataclasses.replace(process, confidence=says_nothing)


def action_costs(process: Process, protocol: protocols.Protocol) -> np.ndarray:
  """Returns `[T, A]` costs of taking action a at decision t.

  The cost is a fraction of the all-large cost. It includes the step that the
  action makes a model write, or all steps that are left after a hand-over for
  good; the small model's draft that is shown at the next decision; and at
  decision 0 also the first draft.
  """
  num_steps, routes = process.num_steps, np.arange(process.num_routes)
  ends = np.array([protocol.is_absorbing(a) for a in routes])
  left = num_steps - np.arange(num_steps)[:, None]
  # A hand-over for good writes all steps that are left.
  written = np.where(ends, left, 1)  # [T, A]
  if not protocol.has_draft:
    return process.step_costs * written
  # Number of drafts charged, [T, A]: the first draft at step 0, and the next
  # draft if there is a next decision.
  drafts = (left == num_steps) + 1 * ((left > 1) & ~ends)
  # Route 0 keeps the draft, which was charged when it was drafted.
  rewritten = np.where(routes > 0, process.step_costs * written, 0.0)
  return process.step_costs[0] * drafts + rewritten
