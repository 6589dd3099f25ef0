"""The one calibrator: chooses a policy and thresholds, and proves promises.

It depends neither on the protocol nor on how outcomes were collected: it asks
two sources for the outcomes of thresholds. On `select` problems it chooses the
policy of one budget level, and which thresholds are worth testing. On `prove`
problems, which no stage has seen before, it tests these thresholds. Points
without a probability are chosen on `select` and promise nothing.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np

from routing.calibration import groups as groups_lib
from routing.calibration import joint as joint_lib
from routing.calibration import named_points
from routing.calibration import off_policy_risks
from routing.calibration import risks as risks_lib
from routing.calibration import settings as settings_lib
from routing.calibration import thresholds as thresholds_lib
from routing.outcomes import frontier as frontier_lib
from routing.outcomes import sources
from routing.routers import promises as promises_lib

CalibrationSettings = settings_lib.CalibrationSettings
Risks = Sequence[risks_lib.Risk]
Json = dict[str, Any]


def loss_test(prove: sources.Source) -> str:
  """Returns the test of a relative loss, of `risks.P_VALUES`.

  It depends on how outcomes were collected, not on what they show: a test that
  was chosen by the data would not keep its level.

  Args:
    prove: the source that is tested on.
  """
  # One graded answer has a loss of 0 or 1; several are averaged to a share.
  return 'binomial' if prove.is_graded_once else 'betting'


class Calibrator:
  """Makes the named operating points of one router.

  A promise that cannot be made is listed in `refused`, with the reason and,
  where more problems would help, how many fresh ones are needed. The other
  points are made all the same.

  Args:
    families: one per policy of the router, i.e. per budget level.
    select: source of the problems to choose on.
    prove: source of the problems to test on; `points` is the first to read
      their outcomes.
    settings: which points to make.
    metric: cost metric of budgets and promises.
    max_decisions: of the protocol; the number of thresholds of a point that has
      one per decision.
    hashes: of the checkpoint and of the shards it is calibrated on; stored with
      each point.

  Raises:
    ValueError: if the source of `prove` cannot support the settings, or a
      problem does not say its group.
  """

  def __init__(
      self,
      families: Sequence[sources.Family],
      select: sources.Source,
      prove: sources.Source,
      settings: CalibrationSettings,
      *,
      metric: str,
      max_decisions: int,
      hashes: dict[str, str],
  ):
    settings.check_source(prove.kind)
    self._families, self._settings = families, settings
    self._select, self._prove = select, prove
    self._metric, self._hashes = metric, hashes
    self._max_decisions = max_decisions
    self._labels: dict[str, np.ndarray] = {}
    if settings.group_by:
      self._labels = {
          name: groups_lib.labels_of(source.problems, settings.group_by)
          for name, source in (('select', select), ('prove', prove))
      }
    self.refused: list[Json] = []
    # One frontier per policy on `select`; all choices below are made from
    # these.
    self._frontiers = [
        select.frontier(family, metric, settings.num_thresholds)
        for family in families
    ]

  def points(self) -> list[Json]:
    """Returns all points, as entries of `operating_points.json`.

    It lists what was refused in `refused`.
    """
    settings, self.refused = self._settings, []
    points = []
    for budget in settings.budgets:
      points += self._points_or_refusal(
          self._unproven_promise(budget).name,
          # The default argument binds this budget now; without it every lambda
          # would see the loop's last one.
          lambda x=budget: [self._budget_point(x)],
      )
    promises = settings.risks(loss_test(self._prove))
    # `CalibrationSettings.risks` lists the alphas first.
    losses = promises[: len(settings.alphas)]
    starts = f'/steps{",".join(map(str, settings.joint_starts))}'
    for risks in promises:
      points += self._points_or_refusal(
          promises_lib.name_of(risks), lambda x=risks: [self._proven_point(x)]
      )
    for risks in losses if settings.group_by else ():
      points += self._points_or_refusal(
          promises_lib.name_of(risks), lambda x=risks: self._group_points(x)
      )
    for risks in losses if settings.joint_starts else ():
      points += self._points_or_refusal(
          promises_lib.name_of(risks) + starts,
          lambda x=risks: [self._step_point(x)],
      )
    return points

  def _points_or_refusal(
      self, name: str, make: Callable[[], list[Json]]
  ) -> list[Json]:
    """Returns the points that `make` returns; none if it refuses.

    Args:
      name: of the point, for the record of a refusal.
      make: may raise `risks.Refusal`.
    """
    try:
      return make()
    except risks_lib.Refusal as refusal:
      self._record_refusal(name, refusal)
      return []

  def _record_refusal(self, name: str, refusal: risks_lib.Refusal) -> None:
    """Adds an entry to `refused`."""
    self.refused.append(
        {'name': name, 'reason': str(refusal), 'needed': refusal.needed}
    )

  def _json(
      self,
      name: str,
      policy_index: int,
      point: thresholds_lib.OperatingPoint,
      **extra,
  ) -> dict[str, Any]:
    """Returns an entry of `operating_points.json`.

    Args:
      **extra: further entries of its promise.
    """
    return named_points.to_json(
        name,
        policy_index,
        point,
        self._hashes,
        source=self._prove.kind,
        **extra,
    )

  def _check_budget(self, budget: float) -> None:
    """Raises Refusal if every policy costs more than `budget` on `select`."""
    cheapest = min(x.cost.min() for x in self._frontiers)
    try:
      thresholds_lib.check_budget(budget, cheapest)
    except ValueError as error:
      # A refusal is recorded and the other points are made; a ValueError would
      # end the calibration.
      raise risks_lib.Refusal(str(error), None, note='') from error

  def _unproven_promise(self, budget: float) -> thresholds_lib.Promise:
    """Returns the promise of a budget without a probability: delta is None."""
    num = len(self._select.problems)
    return thresholds_lib.Promise('cost', budget, None, num)

  def _budget_point(self, budget: float) -> dict[str, Any]:
    """Returns the most accurate policy and threshold within `budget`.

    Both are chosen on `select`, and nothing is promised.
    """
    self._check_budget(budget)
    promise = self._unproven_promise(budget)
    best = None
    for policy_index, frontier in enumerate(self._frontiers):
      allowed = np.flatnonzero(frontier.cost <= budget)
      if allowed.size:
        index = thresholds_lib.best(allowed, frontier.accuracy, frontier.cost)
        point = thresholds_lib.point_at(frontier, index, promise)
        # Among equally accurate policies the first one stays.
        if best is None or point.accuracy > best[1].accuracy:
          best = policy_index, point
    return self._json(best[1].name, *best)

  def _choose(self, risks: Risks) -> tuple[int, np.ndarray]:
    """Returns the policy and its `[K]` thresholds that are worth testing."""
    for risk in risks:
      if risk.quantity == 'cost':
        self._check_budget(risk.level)
    # Chosen first, so that one policy only is tested on `prove`: K hypotheses
    # rather than K for each policy.
    policy_index = best_policy(self._frontiers, risks)
    grid = self._select.grid(
        self._families[policy_index], self._settings.num_thresholds
    )
    return policy_index, grid

  def _proven_point(self, risks: Risks) -> dict[str, Any]:
    """Returns a point that was chosen on `select` and proven on `prove`."""
    policy_index, grid = self._choose(risks)
    family = self._families[policy_index]
    if isinstance(self._prove, sources.Recorded):
      scores, routes = self._prove.scores(family)
      # Weighted trajectories need an off-policy interval: their values are not
      # in [0, 1], as the p-values require.
      point = off_policy_risks.for_risks(
          scores,
          self._prove.in_metric(self._metric),
          risks,
          thresholds=grid,
          routes=routes,
          problems=self._prove.owner,
          min_effective_size=self._prove.min_effective_size,
      )
    else:
      values = self._prove.evaluate(family, grid, self._metric).values()
      point = thresholds_lib.from_values(
          values,
          grid,
          risks,
          procedure=self._settings.procedure,
      )
    return self._json(point.name, policy_index, point)

  def _group_points(self, risks: Risks) -> list[dict[str, Any]]:
    """Returns a point for each group whose promise is proven.

    It adds the other groups to `refused`.
    """
    policy_index, grid = self._choose(risks)
    # Groups of `select` only: the number of groups that share delta must be
    # fixed before the problems of `prove` are seen.
    names = np.unique(self._labels['select'])
    labels = self._labels['prove']
    # `[N]` bool, problems of `prove` in one of these groups.
    rows = np.isin(labels, names)
    for label in np.unique(labels[~rows]):
      self._record_refusal(
          f'{risks[0].name}[{label}]',
          risks_lib.Refusal(
              f'No problem of select is in the group {str(label)!r}, so it has '
              f'no share of delta; groups with one: {", ".join(names)}.',
              None,
              note='',
          ),
      )
    points_on_prove = self._prove.evaluate(
        self._families[policy_index], grid, self._metric
    )
    found = groups_lib.from_values(
        points_on_prove.on(rows).values(),
        grid,
        risks,
        labels=labels[rows],
        names=names,
        procedure=self._settings.procedure,
    )
    points = []
    for label, point in found.items():
      name = f'{risks[0].name}[{label}]'
      if isinstance(point, risks_lib.Refusal):
        self._record_refusal(name, point)
        continue
      extra = {'group': label, 'delta_of_all_groups': risks[0].delta}
      points.append(self._json(name, policy_index, point, **extra))
    return points

  def _step_point(self, risks: Risks) -> dict[str, Any]:
    """Returns a point with one threshold for each of T decisions.

    The candidates that no other beats in both loss and cost on `select` are
    tested on `prove`, in rising order of loss; see `calibration.joint`.
    """
    starts = self._settings.joint_starts
    policy_index, _ = self._choose(risks)
    family = self._families[policy_index]
    table = self._select.table
    scores, _ = family.score(table.decisions)
    depth = table.decisions.depth
    if depth.max() < starts[-1]:
      raise risks_lib.Refusal(
          f'No problem of select has a decision {starts[-1]}; the last one is '
          f'{depth.max()}. Lower the last of calibration.joint_starts.',
          None,
          note='',
      )
    candidates = joint_lib.depth_grid(
        scores, depth, starts, self._max_decisions
    )
    # `[K, T]` candidates: every combination of thresholds per group of
    # decisions.
    found = self._select.evaluate(family, candidates, self._metric)
    # Safest first. Fixed before `prove` is read, as a fixed sequence requires.
    path = joint_lib.pareto_path(found.loss.mean(axis=1), found.mean_cost)
    rising = np.arange(len(path))
    values = self._prove.evaluate(
        family, candidates[path], self._metric
    ).values()
    point = thresholds_lib.from_values(
        values,
        candidates[path],
        risks,
        # Along the path loss rises and cost falls.
        orders={'loss': rising, 'cost': rising[::-1]},
        procedure=self._settings.procedure,
    )
    name = f'{point.name}/steps{",".join(map(str, starts))}'
    return self._json(name, policy_index, point)


def best_policy(
    frontiers: Sequence[frontier_lib.Frontier], risks: Risks
) -> int:
  """Returns the index of the policy with the best threshold within all levels.

  Best is the highest accuracy if a cost is promised, otherwise the lowest cost.

  Args:
    frontiers: one per policy, on `select`.
    risks: the levels.

  Raises:
    risks.Refusal: if no policy has a threshold within all levels.
  """
  values = []
  for frontier in frontiers:
    is_within = np.all(
        [getattr(frontier, x.quantity) <= x.level for x in risks], axis=0
    )
    value = (
        frontier.accuracy
        if any(risk.quantity == 'cost' for risk in risks)
        else -frontier.cost
    )
    # -inf marks a policy without a threshold within the levels.
    values.append(value[is_within].max(initial=-np.inf))
  if max(values) == -np.inf:
    name = promises_lib.name_of(risks)
    raise risks_lib.Refusal(
        f'No threshold of any policy keeps {name}, even on the select problems '
        'it would be chosen on. Allow a higher level.',
        None,
        note='',
    )
  return int(np.argmax(values))
