"""Promises for each group of problems rather than for the mean over all groups.

A threshold that loses 5 % on average may lose 15 % of the hard problems. Here
every group (a subject, a level of difficulty) is tested on its own problems and
gets its own threshold. A group with too few problems for its promise is
refused; the other groups are not affected.

The router knows the group label of a problem before it answers. Given the
labels, the problems of a group are independent draws from that group. So the
set of groups is known before any outcome, and it is enough to split delta among
the groups that occur.
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
  """Returns `[N]` str, the group label of each problem.

  Args:
    problems: N problems.
    by: the field that names the group: 'subject', or a key of `Problem.meta`,
      e.g. 'level'.

  Raises:
    ValueError: if the field is missing or empty in a problem.
  """
  labels = [
      problem.subject if by == 'subject' else str(problem.meta.get(by, ''))
      for problem in problems
  ]
  for problem, label in zip(problems, labels, strict=True):
    if not label:
      raise ValueError(
          f'Problem {problem.id!r} has no {by}, so it is in no group. Group by '
          'a field that every problem has.'
      )
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
  """Returns an operating point or a refusal for each group.

  Args:
    scores: `[N, T]` float, of a policy frozen before these problems came.
    outcomes: outcomes of the same problems, by stopping time.
    risks: what is promised to every group; see `thresholds.for_risks`.
    labels: `[N]`, the group of each problem, known before its outcome.
    thresholds: `[K]` rising, fixed without these problems.
    names: the G groups that need a promise; None = the groups in `labels`.
    is_shared: True: with probability 1 - delta the promises of *all* groups
      hold, each tested at delta / G. False: each group is tested at delta, and
      its promise holds with its own probability 1 - delta.
    procedure: one of `risks.PROCEDURES`.
    max_cost: see `thresholds.from_values`.

  Returns:
    A mapping from group to result, in the order of `names`. A point's promises
    state the delta at which they were tested; a refusal's `needed` counts
    problems of that group.

  Raises:
    ValueError: if labels are not `[N]`, or a label is not in `names`.
  """
  thresholds = frontier_lib.check_rising(thresholds)
  # 'auto' is settled on all problems and stopping times: the choice of the test
  # must not depend on the outcomes of one group.
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
  """Returns a point or a refusal for each group, from outcomes per threshold.

  Args:
    values: correct, cost, loss, gain, each `[K, n]`, at K thresholds on n
      problems; see `thresholds.from_values`.
    thresholds: `[K]` rising, fixed without these problems.
    risks, labels, names, is_shared, procedure, max_cost: see `for_groups`.

  Returns, Raises: as `for_groups` does.
  """
  labels, names = _check_labels(labels, names, values['cost'].shape[1])
  # Union bound over the groups. A refused group keeps its share of delta: which
  # groups are refused depends on the sample, so shares must not.
  num_sharing = len(names) if is_shared else 1
  risks = [
      dataclasses.replace(
          risk.settled(values[risk.quantity]), delta=risk.delta / num_sharing
      )
      for risk in risks
  ]
  found = {}
  for name in names:
    rows = labels == name
    try:
      # The size is checked before anything is tested: a group may have no
      # problems, and the mean over none is nan.
      for risk in risks:
        risks_lib.check_size(risk, risk.delta, rows.sum(), procedure)
      found[str(name)] = thresholds_lib.from_values(
          {quantity: x[:, rows] for quantity, x in values.items()},
          thresholds,
          risks,
          procedure=procedure,
          max_cost=max_cost,
      )
    except risks_lib.Refusal as refusal:
      # A result, not an error: other groups may have enough problems.
      found[str(name)] = refusal
  return found


def _check_labels(
    labels: np.ndarray, names: Sequence[str] | None, num: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns `labels` `[num]` and the group names `[G]`, as arrays.

  Args:
    labels: the group of each problem.
    names: the groups; None = the distinct labels, sorted.
    num: number of problems.

  Raises:
    ValueError: if labels are not `[num]`, or a label is not in `names`.
  """
  labels = np.asarray(labels)
  if labels.shape != (num,):
    raise ValueError(f'labels must be [N] = {(num,)}, got {labels.shape}.')
  names = np.unique(labels) if names is None else np.asarray(names)
  if not np.isin(labels, names).all():
    unknown = labels[~np.isin(labels, names)][0]
    raise ValueError(
        f'Label {str(unknown)!r} is not in names, which are {names.tolist()}.'
    )
  return labels, names
