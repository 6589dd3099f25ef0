"""The one calibrator: which member and threshold, and what they promise.

It knows nothing of protocols, or of how outcomes came about; it asks two
sources what thresholds earn. On `select` problems it chooses: the member, and
which thresholds are worth testing. On `prove` problems, which no stage has seen
before, it tests these. Points without a probability are chosen on `select` and
promise nothing.
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
  """The test that fits how outcomes were collected, not what they show.

  One answer is right or wrong; of several, losses are shares.
  """
  return 'binomial' if prove.is_graded_once else 'betting'


class Calibrator:
  """Finds the named points of one router.

  A promise that cannot be made stands in `refused`, with the reason and, where
  it helps, the number of fresh problems that it takes. The others go on.

  Args:
    families: of each member.
    select: problems to choose on.
    prove: problems to test on.
    wanted: which points.
    metric: cost metric of budgets and promises.
    max_decisions: of the protocol; so many thresholds has a point with one for
      each decision.
    hashes: of the checkpoint and of what it is calibrated on; kept with each
      point.

  Raises:
    ValueError: if the source of `prove` cannot do what is wanted, or a problem
      does not say its group. `prove` is not looked at before `points`.
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
    self._frontiers = [
        select.frontier(family, metric, settings.num_thresholds)
        for family in families
    ]

  def points(self) -> list[Json]:
    """All points, as entries of `operating_points.json`."""
    settings, self.refused = self._settings, []
    points = []
    for budget in settings.budgets:
      points += self._granted(
          self._pick(budget).name, lambda x=budget: [self._budget(x)]
      )
    promises = settings.risks(loss_test(self._prove))
    losses = promises[: len(settings.alphas)]
    starts = f'/steps{",".join(map(str, settings.joint_starts))}'
    for risks in promises:
      points += self._granted(
          promises_lib.name_of(risks), lambda x=risks: [self._promised(x)]
      )
    for risks in losses if settings.group_by else ():
      points += self._granted(
          promises_lib.name_of(risks), lambda x=risks: self._of_groups(x)
      )
    for risks in losses if settings.joint_starts else ():
      points += self._granted(
          promises_lib.name_of(risks) + starts,
          lambda x=risks: [self._by_step(x)],
      )
    return points

  def _granted(self, name: str, make: Callable[[], list[Json]]) -> list[Json]:
    """The points that are made, or none, and a note of the refusal."""
    try:
      return make()
    except risks_lib.Refusal as refusal:
      self._refuse(name, refusal)
      return []

  def _refuse(self, name: str, refusal: risks_lib.Refusal) -> None:
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
    return named_points.to_json(
        name,
        policy_index,
        point,
        self._hashes,
        source=self._prove.kind,
        **extra,
    )

  def _check_budget(self, budget: float) -> None:
    """Raises Refusal if no member costs so little on `select`."""
    cheapest = min(x.cost.min() for x in self._frontiers)
    try:
      thresholds_lib.check_budget(budget, cheapest)
    except ValueError as error:
      raise risks_lib.Refusal(str(error), None, note='') from error

  def _pick(self, budget: float) -> thresholds_lib.Promise:
    """What a budget says, which is no promise."""
    num = len(self._select.problems)
    return thresholds_lib.Promise('cost', budget, None, num)

  def _budget(self, budget: float) -> dict[str, Any]:
    """The most accurate member and threshold within budget on `select`."""
    self._check_budget(budget)
    promise = self._pick(budget)
    best = None
    for policy_index, frontier in enumerate(self._frontiers):
      allowed = np.flatnonzero(frontier.cost <= budget)
      if allowed.size:
        index = thresholds_lib.best(allowed, frontier.accuracy, frontier.cost)
        point = thresholds_lib.point_at(frontier, index, promise)
        if best is None or point.accuracy > best[1].accuracy:
          best = policy_index, point
    return self._json(best[1].name, *best)

  def _choose(self, risks: Risks) -> tuple[int, np.ndarray]:
    """The member, and the thresholds worth testing, chosen on `select`."""
    for risk in risks:
      if risk.quantity == 'cost':
        self._check_budget(risk.level)
    policy_index = best_policy(self._frontiers, risks)
    grid = self._select.grid(
        self._families[policy_index], self._settings.num_thresholds
    )
    return policy_index, grid

  def _promised(self, risks: Risks) -> dict[str, Any]:
    """A promise: chosen on `select`, tested on `prove`."""
    policy_index, grid = self._choose(risks)
    family = self._families[policy_index]
    if isinstance(self._prove, sources.Recorded):
      scores, routes = self._prove.scores(family)
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

  def _of_groups(self, risks: Risks) -> list[dict[str, Any]]:
    """A promise to each group that can have one."""
    policy_index, grid = self._choose(risks)
    # Of select alone: what shares delta must not change with what comes.
    names = np.unique(self._labels['select'])
    labels = self._labels['prove']
    rows = np.isin(labels, names)
    for label in np.unique(labels[~rows]):
      self._refuse(
          f'{risks[0].name}[{label}]',
          risks_lib.Refusal(
              f'No problem of select is in the group {str(label)!r}, so it has '
              f'no share of delta; groups: {", ".join(names)}.',
              None,
              note='',
          ),
      )
    earned = self._prove.evaluate(
        self._families[policy_index], grid, self._metric
    )
    found = groups_lib.from_values(
        earned.on(rows).values(),
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
        self._refuse(name, point)
        continue
      extra = {'group': label, 'delta_of_all_groups': risks[0].delta}
      points.append(self._json(name, policy_index, point, **extra))
    return points

  def _by_step(self, risks: Risks) -> dict[str, Any]:
    """A point whose threshold has one number for each of T decisions.

    The candidates that no other beats in both loss and cost on `select` are
    tested on `prove`, from the least loss down; see `calibration.joint`.
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
          f'{depth.max()}.',
          None,
          note='',
      )
    candidates = joint_lib.depth_grid(
        scores, depth, starts, self._max_decisions
    )
    found = self._select.evaluate(family, candidates, self._metric)
    path = joint_lib.pareto_path(found.loss.mean(axis=1), found.mean_cost)
    rising = np.arange(len(path))
    values = self._prove.evaluate(
        family, candidates[path], self._metric
    ).values()
    point = thresholds_lib.from_values(
        values,
        candidates[path],
        risks,
        orders={'loss': rising, 'cost': rising[::-1]},
        procedure=self._settings.procedure,
    )
    name = f'{point.name}/steps{",".join(map(str, starts))}'
    return self._json(name, policy_index, point)


def best_policy(
    frontiers: Sequence[frontier_lib.Frontier], risks: Risks
) -> int:
  """The member whose best threshold within all levels is best.

  Raises:
    risks.Refusal: if none has a threshold within all levels.
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
    values.append(value[is_within].max(initial=-np.inf))
  if max(values) == -np.inf:
    name = promises_lib.name_of(risks)
    raise risks_lib.Refusal(
        f'No threshold of any member keeps {name}, even on the problems it '
        'was chosen on.',
        None,
        note='',
    )
  return int(np.argmax(values))
