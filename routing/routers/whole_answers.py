"""Makes a method's family from a function that writes whole answers."""

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
from typing import Any

from routing import types
from routing.engines import engine as engine_lib
from routing.grading import equivalence
from routing.rollout import step_requests


@dataclasses.dataclass(frozen=True)
class Family:
  """The answers of one function at several values of one of its arguments.

  function: `await function(problem, engines, *, seed, sampling, grade, ...)`
    returns a `types.Trajectory` with every call.
  knob: name of the argument that is swept.
  knobs: its values, from the cheapest to the dearest.
  settings: its other arguments, JSON-like.
  """

  function: Callable[..., Awaitable[types.Trajectory]]
  knob: str
  knobs: tuple[float, ...]
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def fingerprint(self) -> str:
    """The name of the function and its settings."""
    name = f'{self.function.__module__}.{self.function.__qualname__}'
    settings = json.dumps(dict(self.settings), sort_keys=True)
    return f'{name}/{self.knob}/{settings}'

  def at(self, knob: float) -> 'Answerer':
    """Returns the system at one value, which keeps its type, e.g. int.

    Raises:
      ValueError: if the value is not among `knobs`.
    """
    for value in self.knobs:
      if value == knob:
        return Answerer(self, value)
    raise ValueError(f'{self.knob} is {knob}; allowed: {self.knobs}.')


@dataclasses.dataclass(frozen=True)
class Answerer:
  """A function that writes whole answers, at one value of its knob."""

  family: Family
  value: float

  async def answer(
      self,
      problem: types.Problem,
      engines: Sequence[engine_lib.Engine],
      *,
      seed: int,
      sampling: step_requests.Sampling,
      grade: equivalence.Grader,
  ) -> types.Trajectory:
    """Answers one problem; see `routers.router.Answerer`."""
    return await self.family.function(
        problem,
        engines,
        seed=seed,
        sampling=sampling,
        grade=grade,
        **self.family.settings,
        **{self.family.knob: self.value},
    )
