"""Operating points, what they promise, and how they are written down."""

import dataclasses
from typing import Any

import numpy as np


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
  tested_at: level of significance of the test, delta or a share of it; None
    without a test.
  """

  quantity: str
  level: float
  delta: float | None
  num_problems: int
  p_value: float | None = None
  cost_cap: float | None = None
  test: str | None = None
  is_marginal: bool = False
  tested_at: float | None = None

  @property
  def name(self) -> str:
    """E.g. 'loss<=0.05@0.9'; without the confidence where there is none."""
    name = f'{self.quantity}<={self.level:g}'
    return name if self.delta is None else f'{name}@{1 - self.delta:g}'


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
  """A threshold, its promises, and what the calibration sample showed.

  threshold: one number; or one per channel, where several are set together.
  promises: one or more. Each holds with its own 1 - delta, or all together if
    `is_joint`.
  among: how many proven points or seeds may be chosen among afterwards.
  accuracy, cost, loss, gain: means of the sample.
  """

  threshold: float | tuple[float, ...]
  promises: tuple[Promise, ...]
  accuracy: float
  cost: float
  loss: float
  gain: float
  is_joint: bool = False
  among: int = 1

  @property
  def joint_delta(self) -> float | None:
    """Chance that any of the promises is broken; None without promises."""
    deltas = [x.delta for x in self.promises]
    if None in deltas:
      return None
    return max(deltas) if self.is_joint else min(sum(deltas), 1.0)

  @property
  def promise(self) -> Promise:
    """The first promise."""
    return self.promises[0]

  @property
  def name(self) -> str:
    """All promises, e.g. 'loss<=0.05@0.9&cost<=0.6@0.9'.

    Those that hold together name one probability: 'loss<=0.05&cost<=0.6@0.9'.
    """
    if not self.is_joint:
      return '&'.join(promise.name for promise in self.promises)
    parts = [f'{x.quantity}<={x.level:g}' for x in self.promises]
    return f'{"&".join(parts)}@{1 - self.joint_delta:g}'


def to_json(
    name: str,
    member: int,
    point: OperatingPoint,
    hashes: dict[str, str],
    **extra: Any,
) -> dict[str, Any]:
  """One entry of `operating_points.json`.

  Scores are chances, so 0 is 'always' and 2 is 'never' as well as -inf and inf
  are, and JSON knows these.

  Args:
    name: of the point.
    member: index of the policy.
    point: the point.
    hashes: of checkpoint and shards.
    **extra: what else to say of the promise, JSON-like.
  """
  first, *others = (_promise_json(promise) for promise in point.promises)
  measured = {
      key: round(getattr(point, key), 4)
      for key in ('accuracy', 'cost', 'loss', 'gain')
  }
  return {
      'name': name,
      'member': member,
      'threshold': np.clip(point.threshold, 0.0, 2.0).tolist(),
      'promise': {
          **first,
          **extra,
          **({'also': others} if others else {}),
          **_together(point),
          'measured': measured,
      },
      **hashes,
  }


def _together(point: OperatingPoint) -> dict[str, Any]:
  """What holds of all promises together, and of several points."""
  if point.joint_delta is None:
    return {}
  return {
      'is_joint': point.is_joint,
      'joint_delta': point.joint_delta,
      'among': point.among,
  }


def _promise_json(promise: Promise) -> dict[str, Any]:
  content = {
      'what': promise.quantity,
      'level': promise.level,
      'delta': promise.delta,
      'n': promise.num_problems,
      'p_value': promise.p_value,
  }
  for key in ('test', 'cost_cap', 'tested_at'):
    if getattr(promise, key) is not None:
      content[key] = getattr(promise, key)
  return content
