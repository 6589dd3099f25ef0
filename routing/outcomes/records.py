"""Ladders and trees of greedy replies as outcome tables.

Observations are made here by the one feature function from the traces that the
live driver shows a router, and costs by the one accounting, so that a table
holds what the driver would have seen, paid and got on each way.
"""

from collections.abc import Iterable
from collections.abc import Sequence

import numpy as np

from routing import costs
from routing import protocols
from routing import types
from routing.features import batching
from routing.features import observation
from routing.features import traces
from routing.outcomes import sources
from routing.outcomes import table as table_lib
from routing.rollout import trees

Before = tuple[int, int]  # A decision, and the route named there.


def ladder_table(
    ladders: Iterable[types.Ladder],
    config: observation.FeatureConfig,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
) -> table_lib.OutcomeTable:
  """The outcome table of ladders.

  Args:
    ladders: N ladders with a completion for each (step, route, sample).
    config: what is observed.
    accounting: what is paid, and `reference` for the cost features.
    protocol: `escalate`; whether the draft is seen, and paid.

  Raises:
    ValueError: naming the problem, if a completion is missing, a log-
      probability is not finite, or a trace has no step.
  """
  builder = table_lib.TableBuilder(costs.COST_METRICS)
  for ladder in ladders:
    _Ladder(ladder, config, accounting, protocol).add_to(builder)
  return builder.table()


def tree_table(
    source: Iterable[trees.ReplyTree],
    config: observation.FeatureConfig,
    accounting: costs.Accounting,
) -> table_lib.OutcomeTable:
  """The outcome table of trees, which may be grown on the way.

  Args:
    source: N trees; they are not kept.
    config: what is observed.
    accounting: what a router is told it has spent, and who costs what.

  Raises:
    ValueError: naming the problem, if an observation cannot be made, or the
      largest model alone costs nothing.
  """
  builder = table_lib.TableBuilder(costs.COST_METRICS)
  paid = _Paid(accounting)
  for tree in source:
    _add_tree(builder, tree, config, accounting, paid)
  return builder.table()


def _observe(
    trace: types.Trace,
    fresh: Sequence[types.Step],
    config: observation.FeatureConfig,
    problem: types.Problem,
) -> tuple[np.ndarray, float]:
  """`[F]` features and the uncertainty; `fresh` steps were not checked yet."""
  try:
    observation.check_log_probs(fresh, max(len(trace.steps) - 1, 0))
    features = observation.observe(trace, config)
  except ValueError as error:
    raise ValueError(f'Problem {problem.id}: {error}') from error
  return features, observation.uncertainty(trace)


def _check_positive(all_large: Sequence[float], problem: types.Problem) -> None:
  """Raises ValueError unless costs can be fractions of `all_large`."""
  for metric, cost in zip(costs.COST_METRICS, all_large, strict=True):
    if not cost > 0:
      raise ValueError(
          f'Problem {problem.id}: the all-large cost in {metric} is {cost}; it '
          'must be positive.'
      )


class _Ladder:
  """One ladder, charged in every metric and graded."""

  def __init__(self, ladder, config, accounting, protocol):
    self._ladder, self._config = ladder, config
    self._accounting, self._protocol = accounting, protocol
    # `[T, A-1, samples]`; sample s of the largest alone is paired with s here.
    num_decisions = min(len(ladder.steps), config.max_decisions)
    self._right = grades(ladder, len(accounting.specs), num_decisions)
    charged = [
        costs.ladder_costs(
            ladder,
            accounting.specs,
            metric,
            draft_is_paid=protocol.has_draft,
        )
        for metric in costs.COST_METRICS
    ]
    all_large = np.array([x.all_large for x in charged])
    _check_positive(all_large, ladder.problem)
    self._all_large = all_large
    self._stay_cost = np.array([x.stay for x in charged]) / all_large
    self._handover_cost = (
        np.stack([x.handover for x in charged], axis=-1) / all_large
    )

  def add_to(self, builder: table_lib.TableBuilder) -> None:
    """Adds the problem's decisions and endings."""
    alone, before = self._right[0, -1], None
    builder.begin_problem(float(alone.mean()), self._all_large)
    for step in range(len(self._right)):
      here = self._add_decision(builder, step, before)
      for larger, right in enumerate(self._right[step]):
        builder.add_ending(
            (here, 1 + larger),
            float(right.mean()),
            float((alone * (1.0 - right)).mean()),
            self._handover_cost[step, larger],
        )
      before = here, 0
    stays = float(self._ladder.is_correct)
    builder.add_ending(
        before, stays, float(alone.mean()) * (1.0 - stays), self._stay_cost
    )

  def _add_decision(self, builder, step, before) -> int:
    trace = traces.of_ladder(
        self._ladder, step, self._accounting, self._protocol
    )
    fresh = (
        self._ladder.steps[step : step + 1]
        if self._protocol.has_draft
        else trace.steps[-1:]
    )
    features, uncertainty = _observe(
        trace, fresh, self._config, self._ladder.problem
    )
    num_routes = 1 + self._right.shape[1]
    return builder.add_decision(features, uncertainty, num_routes, before)


def grades(
    ladder: types.Ladder, num_routes: int, num_decisions: int
) -> np.ndarray:
  """`[T, A-1, samples]` float32, 1 where a completion is right.

  Raises:
    ValueError: if there is no step, or a completion is missing.
  """
  found = {
      (c.step, c.route, c.sample): c.is_correct for c in ladder.completions
  }
  if not num_decisions:
    raise ValueError(
        f'Problem {ladder.problem.id} has 0 steps; allowed: 1 or more.'
    )
  samples = 1 + max((sample for _, _, sample in found), default=0)
  out = np.zeros((num_decisions, num_routes - 1, samples), np.float32)
  for t, m, s in np.ndindex(out.shape):
    if (t, m + 1, s) not in found:
      raise ValueError(
          f'Ladder {ladder.problem.id} has no completion {s} by route {m + 1} '
          f'from step {t}.'
      )
    out[t, m, s] = found[t, m + 1, s]
  return out


def recorded_source(
    rollouts: Sequence[types.Rollouts],
    config: observation.FeatureConfig,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
    min_effective_size: float = 100.0,
) -> sources.Recorded:
  """Behaviour trajectories as a source; see `sources.Recorded`.

  Args:
    rollouts: of N problems.
    config: what is observed.
    accounting: what is paid, and `reference` for the cost features.
    protocol: the one they were collected in.
    min_effective_size: effective number of problems below which it refuses.

  Raises:
    ValueError: as `batching.trajectory_batch` does.
  """
  batch = batching.trajectory_batch(rollouts, config, accounting, protocol)
  uncertainty = np.zeros(batch.mask.shape)
  rows = ((x, y) for x in rollouts for y in x.trajectories)
  for row, (_, trajectory) in enumerate(rows):
    seen = traces.of_trajectory(trajectory, accounting, protocol)
    for step, trace in enumerate(seen):
      uncertainty[row, step] = observation.uncertainty(trace)
  return sources.Recorded(
      batch=batch,
      costs=batching.costs_by_metric(rollouts, accounting, protocol, config),
      uncertainty=uncertainty,
      owner=np.repeat(
          np.arange(len(rollouts)), [len(x.trajectories) for x in rollouts]
      ),
      large_correct=np.array([x.reference.is_correct for x in rollouts], float),
      problems=[x.problem for x in rollouts],
      min_effective_size=min_effective_size,
  )


def large_costs(
    completions: Sequence[types.Completion], accounting: costs.Accounting
) -> dict[str, np.ndarray]:
  """Cost metric -> `[N]` float64, what the largest model's answers cost."""
  return {
      metric: np.array(
          [
              costs.completion_cost(x, accounting.specs, metric)
              for x in completions
          ]
      )
      for metric in costs.COST_METRICS
  }


class _Paid:
  """Costs of calls in every metric; the same call stands on many ways."""

  def __init__(self, accounting: costs.Accounting):
    self._specs = accounting.specs
    self._known: dict[types.Usage, np.ndarray] = {}

  def __call__(self, calls: Sequence[types.Usage]) -> np.ndarray:
    """`[metrics]` float64, in each metric's own unit."""
    return sum(map(self._of_call, calls), np.zeros(len(costs.COST_METRICS)))

  def _of_call(self, usage: types.Usage) -> np.ndarray:
    if usage not in self._known:
      spec = self._specs[usage.route]
      self._known[usage] = np.array(
          [float(costs.call_cost(usage, spec, x)) for x in costs.COST_METRICS]
      )
    return self._known[usage]


def _add_tree(
    builder: table_lib.TableBuilder,
    tree: trees.ReplyTree,
    config: observation.FeatureConfig,
    accounting: costs.Accounting,
    paid: _Paid,
) -> None:
  """Adds the decisions and endings of one problem, each way after another."""
  all_large = np.array(
      [
          costs.completion_cost(tree.reference, accounting.specs, metric)
          for metric in costs.COST_METRICS
      ]
  )
  _check_positive(all_large, tree.problem)
  alone = float(tree.reference.is_correct)
  builder.begin_problem(alone, all_large)
  metric = costs.COST_METRICS.index(accounting.metric)
  pending: list[tuple[trees.Node | trees.Leaf, Before | None]] = [
      (tree.root, None)
  ]
  while pending:
    what, before = pending.pop()
    if isinstance(what, trees.Leaf):
      right = float(what.is_correct)
      builder.add_ending(
          before, right, alone * (1 - right), paid(what.calls) / all_large
      )
      continue
    spent = paid(what.calls)[metric] / accounting.reference
    trace = types.Trace(
        tree.problem.question, what.steps, what.draft, float(spent)
    )
    fresh = (*what.steps[-1:], *([what.draft] if what.draft else ()))
    here = builder.add_decision(
        *_observe(trace, fresh, config, tree.problem),
        len(what.branches),
        before,
    )
    branches = list(enumerate(what.branches))
    pending += [(x, (here, a)) for a, x in reversed(branches)]
