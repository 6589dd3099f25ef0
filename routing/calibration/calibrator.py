"""The calibrator: chooses policies and thresholds, and proves promises.

The calibrator works for every protocol and every way to collect outcomes: it
asks two sources for the outcomes of thresholds. For each operating point it
chooses on the `select` problems the policy of one budget level and the
thresholds worth testing. It tests these thresholds on the `prove` problems,
which no stage has seen before. Points without a probability in their name are
chosen on `select` and promise nothing.
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
  """Returns the name of the test for a relative loss, one of `risks.P_VALUES`.

  The choice depends on how outcomes were collected, not on their values: a test
  chosen by the values would exceed its error rate.

  Args:
    prove: the source of the outcomes that are tested.
  """
  # With one graded answer per problem a loss is 0 or 1; with several answers it
  # is a share, to which the binomial test does not apply.
  return 'binomial' if prove.is_graded_once else 'betting'


class Calibrator:
  """Chooses thresholds for one router and proves what they promise.

  A promise that cannot be made is listed in `refused`, with the reason and,
  where more problems would help, the number of new problems that are needed. A
  refusal does not stop the other points.

  Args:
    families: scores and routers per policy, i.e. per budget level; each family
      turns a threshold into a router.
    select: source of outcomes of the problems to choose on.
    prove: source of outcomes of the problems to test on. No outcome of these
      problems is read before `points` is called.
    settings: which points to make.
    metric: cost metric of budgets and promises.
    max_decisions: T, the largest number of decisions under the protocol, hence
      the number of thresholds of a point with one threshold per decision.
    hashes: hashes of the checkpoint and of the calibration shards by name,
      stored with each point.

  Raises:
    ValueError: if the source of `prove` cannot support the settings, or a
      problem has no group.
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
    # One accuracy-cost frontier per policy on `select`. Every choice of a
    # policy or of a budget's threshold is made from these frontiers.
    self._frontiers = [
        select.frontier(family, metric, settings.num_thresholds)
        for family in families
    ]

  def points(self) -> list[Json]:
    """Returns all operating points, as entries of `operating_points.json`.

    The promises that cannot be made are listed in `refused` instead.
    """
    settings, self.refused = self._settings, []
    points = []
    for budget in settings.budgets:
      points += self._points_or_refusal(
          self._unproven_promise(budget).name,
          # The default argument x binds this budget to this lambda; the loop
          # variable itself would have changed if the lambda ran later.
          lambda x=budget: [self._budget_point(x)],
      )
    promises = settings.risks(loss_test(self._prove))
    # The promises to groups, and those with one threshold per decision, bound
    # the relative loss without a cost, as `alphas` do. The promises of `alphas`
    # are the first ones that `CalibrationSettings.risks` returns.
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
    """Returns the points that `make` returns; none if it raises a Refusal.

    Args:
      name: name of the promise, under which a refusal is recorded.
      make: makes the points, as entries of `operating_points.json`.
    """
    try:
      return make()
    except risks_lib.Refusal as refusal:
      self._record_refusal(name, refusal)
      return []

  def _record_refusal(self, name: str, refusal: risks_lib.Refusal) -> None:
    """Adds the promise `name` to `refused`, with the reason."""
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
    """Returns a point as an entry of `operating_points.json`.

    Args:
      name: name of the point.
      policy_index: index of its policy among `families`.
      point: the operating point.
      **extra: further entries of the point's promise.
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
      # A Refusal is recorded and the calibration continues with the next point;
      # a ValueError would end it.
      raise risks_lib.Refusal(str(error), None, note='') from error

  def _unproven_promise(self, budget: float) -> thresholds_lib.Promise:
    """Returns the entry for a budget that is met on `select` only.

    Its delta is None: nothing is promised about new problems.
    """
    num = len(self._select.problems)
    return thresholds_lib.Promise('cost', budget, None, num)

  def _budget_point(self, budget: float) -> dict[str, Any]:
    """Returns the point of the most accurate policy and threshold in `budget`.

    Both are chosen on `select`; the point promises nothing.

    Args:
      budget: mean cost allowed, a fraction of the all-large cost.
    """
    self._check_budget(budget)
    promise = self._unproven_promise(budget)
    best = None
    for policy_index, frontier in enumerate(self._frontiers):
      allowed = np.flatnonzero(frontier.cost <= budget)
      if allowed.size:
        index = thresholds_lib.best(allowed, frontier.accuracy, frontier.cost)
        point = thresholds_lib.point_at(frontier, index, promise)
        # `>`: among equally accurate policies the first one is returned.
        if best is None or point.accuracy > best[1].accuracy:
          best = policy_index, point
    return self._json(best[1].name, *best)

  def _choose(self, risks: Risks) -> tuple[int, np.ndarray]:
    """Returns the policy to test for `risks`, and its `[K]` thresholds.

    Both are chosen on `select`. The policy is returned as its index.
    """
    for risk in risks:
      if risk.quantity == 'cost':
        self._check_budget(risk.level)
    # The policy is chosen before any test, so that only its K thresholds are
    # tested on `prove` rather than K thresholds of each policy.
    policy_index = best_policy(self._frontiers, risks)
    grid = self._select.grid(
        self._families[policy_index], self._settings.num_thresholds
    )
    return policy_index, grid

  def _proven_point(self, risks: Risks) -> dict[str, Any]:
    """Returns the best point that is proven to keep `risks`.

    Its policy and candidate thresholds are chosen on `select`; the thresholds
    are tested on `prove`.
    """
    policy_index, grid = self._choose(risks)
    family = self._families[policy_index]
    if isinstance(self._prove, sources.Recorded):
      scores, routes = self._prove.scores(family)
      # Recorded trajectories are reweighted to the policy, so their weighted
      # values are not in [0, 1], as the p-values require. An off-policy
      # interval replaces the p-values.
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
    """Returns a point for each group of problems whose promise is proven.

    The groups whose promise cannot be proven are added to `refused`.
    """
    policy_index, grid = self._choose(risks)
    # The groups are those of `select`: the number of groups that share delta
    # must be fixed before the problems of `prove` are seen.
    names = np.unique(self._labels['select'])
    labels = self._labels['prove']
    # `[N]` bool, problems of `prove` in one of these groups.
    rows = np.isin(labels, names)
    for label in np.unique(labels[~rows]):
      self._record_refusal(
          f'{risks[0].name}[{label}]',
          risks_lib.Refusal(
              f'No problem of select is in the group {str(label)!r}, so it has '
              'no share of delta. Groups that have a share: '
              f'{", ".join(names)}.',
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
    """Returns a proven point with one threshold for each of T decisions.

    A candidate is a list of T thresholds. The candidates that no other beats in
    both loss and cost on `select` are tested on `prove`, in rising order of
    loss; see `calibration.joint`.
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
    # The path begins at the safest candidate. It is fixed before `prove` is
    # read, as a fixed sequence requires.
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
  """Returns the index of the policy whose best threshold keeps all risks.

  A threshold keeps a risk here if its mean on `select` is at most the level.
  The best threshold has the highest accuracy if `risks` bound a cost, otherwise
  the lowest cost.

  Args:
    frontiers: accuracy, cost and loss by threshold on `select`, one per policy.
    risks: the bounds on mean loss or cost.

  Raises:
    risks.Refusal: if no threshold of any policy keeps all risks.
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
