"""A routing process with known dynamics: hidden difficulty, hidden errors.

A problem takes T steps. Each has a difficulty, a Markov chain that no route
influences. A route writes a step right with a chance that falls with the
difficulty; one wrong step makes the trace wrong, and it stays wrong, whatever
is written after it, unless a later step repairs it. The answer is right if the
trace is right in the end. Of all this a router sees the confidence of a step: a
level whose chances depend on difficulty and rightness, so it tells, but not
enough.

Each step has one draw of luck for each route. So the largest model's own answer
exists beside whatever is routed, as it does for a recorded problem: a router
that always takes the largest loses nothing to it, and a draft that is kept is
the step that would have been written anyway.
"""

import dataclasses

import numpy as np

from routing import protocols

Table = tuple[tuple[float, ...], ...]


@dataclasses.dataclass(frozen=True)
class Process:
  """Who errs when, what it looks like, and what it costs. D difficulties.

  The defaults are two routes. Nested tuples, so that a process is hashable.

  num_steps: T >= 1.
  start: `[D]`, chance of each difficulty of the first step, easiest first.
  moves: `[D][D]`, chance of the next difficulty, given this one.
  right: `[A][D]`, chance that a route's step leaves a right trace right.
  repair: `[A]`, chance that a route's step makes a wrong trace right.
  confidence: `[D][2][L]`, chance of each level of confidence, lowest first,
    after a step that leaves the trace right (0) or wrong (1).
  prices: `[A]`, of a step, in any unit.
  """

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
      raise ValueError(f'num_steps is {self.num_steps}; allowed: >= 1.')
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
        raise ValueError(f'{name} must sum to 1 along its last axis.')
    for name in ('start', *shapes):
      value = np.asarray(getattr(self, name))
      if not ((value >= 0) & (value <= 1)).all():
        raise ValueError(f'{name} has chances outside [0, 1].')
    if routes < 2 or min(self.prices) < 0 or not self.prices[-1] > 0:
      raise ValueError(
          f'prices are {self.prices}; needed: 2 or more, >= 0, the last > 0.'
      )

  @property
  def num_routes(self) -> int:
    """A."""
    return len(self.prices)

  @property
  def num_levels(self) -> int:
    """L, levels of confidence."""
    return len(self.confidence[0][0])

  @property
  def step_costs(self) -> np.ndarray:
    """`[A]` cost of a step, as a fraction of the all-large cost."""
    return np.asarray(self.prices) / (self.num_steps * self.prices[-1])

  @property
  def stays_right(self) -> np.ndarray:
    """`[A, D, 2]` chance of a right trace after a step, by what it was."""
    right = np.asarray(self.right)
    repair = np.broadcast_to(np.asarray(self.repair)[:, None], right.shape)
    return np.stack([right, repair], axis=-1)


def three_routes(num_steps: int = 4) -> Process:
  """The default process with a middle model between its two."""
  return Process(
      num_steps=num_steps,
      right=((0.995, 0.8, 0.4), (0.996, 0.92, 0.6), (0.998, 0.97, 0.9)),
      repair=(0.0, 0.1, 0.25),
      prices=(0.1, 0.4, 1.0),
  )


def unseen(process: Process) -> Process:
  """The same process, but all steps look alike; its optimum is a fixed plan."""
  says_nothing = (((1.0,), (1.0,)),) * len(process.start)
  return dataclasses.replace(process, confidence=says_nothing)


def action_costs(process: Process, protocol: protocols.Protocol) -> np.ndarray:
  """`[T, A]`: what is paid from one decision up to the next, by the action.

  Fractions of the all-large cost. The draft that the next decision is shown is
  paid here; the first draft belongs to step 0.
  """
  num_steps, routes = process.num_steps, np.arange(process.num_routes)
  ends = np.array([protocol.is_absorbing(a) for a in routes])
  left = num_steps - np.arange(num_steps)[:, None]
  written = np.where(ends, left, 1)
  if not protocol.has_draft:
    return process.step_costs * written
  drafts = (left == num_steps) + 1 * ((left > 1) & ~ends)
  rewritten = np.where(routes > 0, process.step_costs * written, 0.0)
  return process.step_costs[0] * drafts + rewritten
