"""Promises to each group of problems, not to their average.

A threshold that loses 5 % on average may lose 15 % of the hard problems. Here
every group (a subject, a level of difficulty) is tested on its own problems and
gets a threshold of its own; a group too small for its promise is refused, the
others are not.

Given the labels, which the router knows beforehand too, the problems of a group
are independent draws of that group. So the groups that occur are known when
outcomes come, and it is enough to share delta among these.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

import numpy as np

from routing import types
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from routing.outcomes import frontier as frontier_lib
from routing.outcomes import stopping as stopping_lib


def labels_of(problems: Sequence[types.Problem], by: str) -> np.ndarray:
  """`[N]` str, the group of each problem.

  Args:
    problems: N of them.
    by: 'subject', or a key of `meta`, e.g. 'level'.

  Raises:
    ValueError: if a problem does not say its group.
  """
  labels = [
      problem.subject if by == 'subject' else str(problem.meta.get(by, ''))
      for problem in problems
  ]
  for problem, label in zip(problems, labels, strict=True):
    if not label:
      raise ValueError(f'Problem {problem.id!r} has no {by}.')
  return np.array(labels)


def for_groups(
    scores: np.ndarray,
    outcomes: stopping_lib.Outcomes,
    risks: Sequence[risks_lib.Risk],
    *,
    labels: np.ndarray,
    thresholds: np.ndarray,
    names: Sequence[str] | None = None,
    is_shared: bool = True,
    procedure: str = 'fixed_sequence',
    max_cost: float = 1.0,
) -> dict[str, thresholds_lib.OperatingPoint | risks_lib.Refusal]:
  """A point or a refusal for each group.

  Args:
    scores: `[N, T]` float, of a policy frozen before these problems came.
    outcomes: the table of the same problems.
    risks: what is promised to every group; see `thresholds.for_risks`.
    labels: `[N]`, the group of each problem, known before its outcome.
    thresholds: `[K]` rising, fixed without these problems.
    names: the G groups that ask for a promise; those that occur if None.
    is_shared: True: with probability 1 - delta the promises of *all* groups
      hold, each tested at delta / G. False: each holds with its own 1 - delta.
    procedure: of `risks.PROCEDURES`.
    max_cost: see `thresholds.from_values`.

  Returns:
    By name, in the order of `names`. A point's promises name the delta at which
    they were tested; a refusal's `needed` counts problems of that group.

  Raises:
    ValueError: if labels are not `[N]`, or one of them is not in `names`.
  """
  thresholds = frontier_lib.check_rising(thresholds)
  # Which test is used depends on all problems, not on those of one group.
  risks = [risk.settled(getattr(outcomes, risk.quantity)) for risk in risks]
  return from_values(
      thresholds_lib.values_at(scores, outcomes, thresholds),
      thresholds,
      risks,
      labels=labels,
      names=names,
      is_shared=is_shared,
      procedure=procedure,
      max_cost=max_cost,
  )


def from_values(
    values: Mapping[str, np.ndarray],
    thresholds: np.ndarray,
    risks: Sequence[risks_lib.Risk],
    *,
    labels: np.ndarray,
    names: Sequence[str] | None = None,
    is_shared: bool = True,
    procedure: str = 'fixed_sequence',
    max_cost: float = 1.0,
) -> dict[str, thresholds_lib.OperatingPoint | risks_lib.Refusal]:
  """A point or a refusal for each group, from outcomes at each threshold.

  Args:
    values: correct, cost, loss, gain, each `[K, n]`; see
      `thresholds.from_values`.
    thresholds: `[K]` rising, fixed without these problems.
    risks, labels, names, is_shared, procedure, dearest: see `for_groups`.

  Returns, Raises: as `for_groups` does.
  """
  labels, names = _check_labels(labels, names, values['cost'].shape[1])
  share = len(names) if is_shared else 1
  risks = [
      dataclasses.replace(
          risk.settled(values[risk.quantity]), delta=risk.delta / share
      )
      for risk in risks
  ]
  found = {}
  for name in names:
    rows = labels == name
    try:
      for risk in risks:  # Before values of no problems are asked for.
        risks_lib.check_size(risk, risk.delta, rows.sum(), procedure)
      found[str(name)] = thresholds_lib.from_values(
          {quantity: x[:, rows] for quantity, x in values.items()},
          thresholds,
          risks,
          procedure=procedure,
          max_cost=max_cost,
      )
    except risks_lib.Refusal as refusal:
      found[str(name)] = refusal
  return found


def _check_labels(
    labels: np.ndarray, names: Sequence[str] | None, num: int
) -> tuple[np.ndarray, np.ndarray]:
  """The labels, and the groups that ask for a promise."""
  labels = np.asarray(labels)
  if labels.shape != (num,):
    raise ValueError(f'labels must be [N] = {(num,)}, got {labels.shape}.')
  names = np.unique(labels) if names is None else np.asarray(names)
  if not np.isin(labels, names).all():
    strange = labels[~np.isin(labels, names)][0]
    raise ValueError(f'Label {str(strange)!r} is none of {names.tolist()}.')
  return labels, names
