"""Data classes of a calibration's results: operating points and promises."""

import dataclasses
from typing import Any

from routing.routers import promises as promises_lib


@dataclasses.dataclass(frozen=True)
class Promise:
  """A promise about the mean of one quantity at a threshold, and its evidence.

  quantity: 'cost', 'loss' or 'miscoverage'.
  level: upper bound on the mean of the quantity on new problems.
  delta: probability that the promise is broken. None where no probability is
    known: for a threshold chosen on the sample, which promises nothing, and for
    a marginal promise.
  num_problems: number of calibration problems.
  p_value: p-value of the test at this threshold; None if there was no test.
  cost_cap: the promise is about min(cost, cost_cap); None if the quantity is
    not the cost.
  test: one of `risks.P_VALUES`, or 'growing', 'conformal', or
    `off_policy_risks.TEST`; None if there was no test.
  is_marginal: the level holds on average over calibration samples; nothing is
    promised for any single sample.
  num_joint: number of promises that share one delta, this one included.
  num_choices: number of proven points or training seeds that may be chosen
    among, each tested at this delta; see `risks.corrected`.
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
    """The promise in short: 'loss<=0.05@0.9'; 'cost<=0.4' if delta is None."""
    return promises_lib.name_of([self])

  def to_json(self) -> dict[str, Any]:
    """Returns a JSON-like mapping; entries that do not apply are left out."""
    # Readers of `operating_points.json` rely on these keys; the key of
    # `quantity` is 'what'.
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
    # Without a delta nothing was divided by num_choices: the promise is
    # marginal, or the threshold was chosen on the sample.
    if self.delta is not None:
      content['num_choices'] = self.num_choices
    return content

  def __str__(self) -> str:
    """Returns the promise in words, and what the promise does not cover."""
    return promises_lib.in_words(self)


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
  """A threshold, its promises, and its means on the calibration sample.

  threshold: one number; or one number per channel or decision, if several
    thresholds are set together.
  promises: one or more; each holds with its own probability 1 - delta.
  accuracy: mean share of right answers, in [0, 1].
  cost: mean cost, uncapped, as a fraction of the all-large cost.
  loss: mean relative loss, in [0, 1].
  gain: mean relative gain, in [0, 1].
  """

  threshold: float | tuple[float, ...]
  promises: tuple[Promise, ...]
  accuracy: float
  cost: float
  loss: float
  gain: float

  @property
  def promise(self) -> Promise:
    """The first of `promises`, which is the only one of most points."""
    return self.promises[0]

  @property
  def name(self) -> str:
    """All promises in short, e.g. 'loss<=0.05@0.9&cost<=0.6@0.9'.

    Promises that share one delta state it once: 'loss<=0.05&cost<=0.6@0.9'.
    """
    return promises_lib.name_of(self.promises)

  @property
  def joint_delta(self) -> float | None:
    """Bound on P(any promise is broken); None if no promise has a delta."""
    deltas = [x.delta for x in self.promises if x.delta is not None]
    # Union bound: nothing is assumed about how the promises depend on each
    # other.
    return min(sum(deltas), 1.0) if deltas else None

  def to_json(self) -> dict[str, Any]:
    """Returns the first promise as JSON-like entries, others under 'also'.

    With several promises the entry 'joint_delta' bounds the probability that
    any of them is broken.
    """
    first, *others = (promise.to_json() for promise in self.promises)
    if not others:
      return first
    return first | {'also': others, 'joint_delta': self.joint_delta}

  def __str__(self) -> str:
    """Returns all promises in words, and what the promises do not cover."""
    return promises_lib.in_words(self)
