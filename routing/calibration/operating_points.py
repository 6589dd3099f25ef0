"""An operating point as calibration finds it, and what it promises."""

import dataclasses
from typing import Any

from routing.routers import promises as promises_lib


@dataclasses.dataclass(frozen=True)
class Promise:
  """What is promised of a threshold, and by how much evidence.

  quantity: 'cost', 'loss' or 'miscoverage'.
  level: its mean is at most this.
  delta: chance that the promise is broken; None for a pick on the sample, which
    promises nothing, and for a marginal promise.
  num_problems: calibration problems.
  p_value: of the test at this threshold; None without a test.
  cost_cap: a promise about cost counts dearer problems as this; else None.
  test: how the p-value was had, of `risks.P_VALUES`; None without a test.
  is_marginal: the level holds on average over calibration samples; of any one
    sample nothing is promised.
  num_joint: how many promises share one delta, this one included.
  num_choices: how many proven points or seeds may be chosen among, each with
    this delta; see `risks.corrected`.
  """

  quantity: str
  level: float
  delta: float | None
  num_problems: int
  p_value: float | None = None
  cost_cap: float | None = None
  test: str | None = None
  is_marginal: bool = False
  num_joint: int = 1
  num_choices: int = 1

  @property
  def name(self) -> str:
    """E.g. 'loss<=0.05@0.9'; without the confidence where there is none."""
    return promises_lib.name_of([self])

  def to_json(self) -> dict[str, Any]:
    """JSON-like; what does not apply is left out."""
    content = {
        'what': self.quantity,
        'level': self.level,
        'delta': self.delta,
        'n': self.num_problems,
        'p_value': self.p_value,
    }
    for key in ('test', 'cost_cap'):
      if getattr(self, key) is not None:
        content[key] = getattr(self, key)
    if self.is_marginal:
      content['is_marginal'] = True
    if self.delta is not None:
      content['num_choices'] = self.num_choices
    return content

  def __str__(self) -> str:
    """What is promised, and what this does not cover."""
    return promises_lib.in_words(self)


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
  """A threshold, its promises, and what the calibration sample showed.

  threshold: one number; or one per channel, where several are set together.
  promises: one or more. Each holds with its own 1 - delta.
  accuracy, cost, loss, gain: means of the sample.
  """

  threshold: float | tuple[float, ...]
  promises: tuple[Promise, ...]
  accuracy: float
  cost: float
  loss: float
  gain: float

  @property
  def promise(self) -> Promise:
    """The first promise."""
    return self.promises[0]

  @property
  def name(self) -> str:
    """All promises, e.g. 'loss<=0.05@0.9&cost<=0.6@0.9'.

    If they share one delta, 'loss<=0.05&cost<=0.6@0.9'.
    """
    return promises_lib.name_of(self.promises)

  @property
  def joint_delta(self) -> float | None:
    """Chance that any promise is broken; None without a promise."""
    deltas = [x.delta for x in self.promises if x.delta is not None]
    return min(sum(deltas), 1.0) if deltas else None

  def to_json(self) -> dict[str, Any]:
    """All promises, JSON-like: the first, with the others in 'also'.

    'joint_delta' says with which chance any of several is broken.
    """
    first, *others = (promise.to_json() for promise in self.promises)
    if not others:
      return first
    return first | {'also': others, 'joint_delta': self.joint_delta}

  def __str__(self) -> str:
    """All that is promised, and what this does not cover."""
    return promises_lib.in_words(self)
