"""Converts ladders, reply trees and trajectories to outcome tables and sources.

Observations come from the same feature function and traces as in the live
driver, and costs from the same cost accounting. A table therefore holds exactly
what the driver would have observed, paid and obtained on each path.
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

Parent = tuple[int, int]  # A decision, and the route chosen there.


def ladder_table(
    ladders: Iterable[types.Ladder],
    config: observation.FeatureConfig,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
) -> table_lib.OutcomeTable:
  """Returns the outcome table of ladders.

  Args:
    ladders: N ladders with a completion for each (step, route, sample).
    config: the observation.
    accounting: cost accounting; its `reference` scales the cost features.
    protocol: `escalate`; its view decides whether the draft is seen and paid.

  Raises:
    ValueError: naming the problem, if a completion is missing, a
      log-probability is not finite, or a trace has no step.
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
  """Returns the outcome table of reply trees.

  Args:
    source: N reply trees; a generator may grow them one by one, because they
      are not kept.
    config: the observation.
    accounting: cost accounting, also behind the cost features.

  Raises:
    ValueError: naming the problem, if an observation cannot be computed, or the
      largest model alone costs nothing.
  """
  builder = table_lib.TableBuilder(costs.COST_METRICS)
  call_costs = _CallCosts(accounting)
  for tree in source:
    _add_tree(builder, tree, config, accounting, call_costs)
  return builder.table()


def _observe(
    trace: types.Trace,
    new_steps: Sequence[types.Step],
    config: observation.FeatureConfig,
    problem: types.Problem,
) -> tuple[np.ndarray, float]:
  """Returns the `[F]` features and the uncertainty score of a trace.

  Args:
    trace: what the router sees.
    new_steps: steps that no earlier decision saw; only these are checked.
    config: the observation.
    problem: named in errors.
  """
  # Once per step instead of once per decision: checking all steps at each
  # decision would be quadratic in the length of the trace.
  try:
    observation.check_log_probs(new_steps, max(len(trace.steps) - 1, 0))
    features = observation.observe(trace, config)
  except ValueError as error:
    raise ValueError(f'Problem {problem.id}: {error}') from error
  return features, observation.uncertainty(trace)


def _check_positive(all_large: Sequence[float], problem: types.Problem) -> None:
  """Raises ValueError unless every all-large cost is positive."""
  for metric, cost in zip(costs.COST_METRICS, all_large, strict=True):
    if not cost > 0:
      raise ValueError(
          f'Problem {problem.id}: the all-large cost in {metric} is {cost}; '
          'costs are fractions of it, so it must be positive.'
      )


class _Ladder:
  """One graded ladder with its cost in every metric."""

  def __init__(self, ladder, config, accounting, protocol):
    self._ladder, self._config = ladder, config
    self._accounting, self._protocol = accounting, protocol
    # `[T, A-1, samples]`. Sample s of the largest model alone, at step 0, is
    # paired with sample s of every other completion.
    num_decisions = min(len(ladder.steps), config.max_decisions)
    self._right = grades(ladder, len(accounting.specs), num_decisions)
    # One entry per metric, each with the costs of staying, of handing over at
    # every step, and of the largest model alone.
    charged = [
        costs.ladder_costs(
            ladder,
            accounting.specs,
            metric,
            draft_is_paid=protocol.has_draft,
        )
        for metric in costs.COST_METRICS
    ]
    all_large = np.array([x.all_large for x in charged])  # `[metrics]`.
    _check_positive(all_large, ladder.problem)
    self._all_large = all_large
    self._stay_cost = np.array([x.stay for x in charged]) / all_large
    self._handover_cost = (
        np.stack([x.handover for x in charged], axis=-1) / all_large
    )

  def add_to(self, builder: table_lib.TableBuilder) -> None:
    """Adds the problem's decisions and endings to a table builder."""
    # A hand-over to the largest model at step 0 keeps no small step: it is the
    # largest model alone.
    alone, parent = self._right[0, -1], None
    builder.begin_problem(float(alone.mean()), self._all_large)
    for step in range(len(self._right)):
      here = self._add_decision(builder, step, parent)
      for larger, right in enumerate(self._right[step]):
        builder.add_ending(
            (here, 1 + larger),
            float(right.mean()),
            # Per sample, then the mean: a product of means would treat paired
            # samples as independent.
            float((alone * (1.0 - right)).mean()),
            self._handover_cost[step, larger],
        )
      parent = here, 0
    stays = float(self._ladder.is_correct)
    builder.add_ending(
        parent, stays, float(alone.mean()) * (1.0 - stays), self._stay_cost
    )

  def _add_decision(self, builder, step, parent) -> int:
    """Adds the decision at a step and returns its index."""
    trace = traces.of_ladder(
        self._ladder, step, self._accounting, self._protocol
    )
    # With a draft, the new step is the draft; without, the step before.
    new_steps = (
        self._ladder.steps[step : step + 1]
        if self._protocol.has_draft
        else trace.steps[-1:]
    )
    features, uncertainty = _observe(
        trace, new_steps, self._config, self._ladder.problem
    )
    num_routes = 1 + self._right.shape[1]
    return builder.add_decision(features, uncertainty, num_routes, parent)


def grades(
    ladder: types.Ladder, num_routes: int, num_decisions: int
) -> np.ndarray:
  """Returns `[T, A-1, samples]` float32, 1 where a completion is right.

  Raises:
    ValueError: if there is no step, or a completion is missing.
  """
  found = {
      (c.step, c.route, c.sample): c.is_correct for c in ladder.completions
  }
  if not num_decisions:
    raise ValueError(
        f'Problem {ladder.problem.id} has 0 steps; it must have 1 or more.'
    )
  # Every cell needs the same samples: they are paired by index.
  samples = 1 + max((sample for _, _, sample in found), default=0)
  out = np.zeros((num_decisions, num_routes - 1, samples), np.float32)
  for t, m, s in np.ndindex(out.shape):
    if (t, m + 1, s) not in found:
      raise ValueError(
          f'Ladder {ladder.problem.id} has no completion {s} by route {m + 1} '
          f'from step {t}; collect every (step, route, sample).'
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
  """Returns behaviour trajectories as a source; see `sources.Recorded`.

  Args:
    rollouts: N problems with their trajectories.
    config: the observation.
    accounting: cost accounting; its `reference` scales the cost features.
    protocol: the protocol they were collected in.
    min_effective_size: smallest effective number of problems at which the
      source evaluates a threshold.

  Raises:
    ValueError: as `batching.trajectory_batch`.
  """
  batch = batching.trajectory_batch(rollouts, config, accounting, protocol)
  uncertainty = np.zeros(batch.mask.shape)
  # The row order of `trajectory_batch`: by problem, then by trajectory.
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
  """Returns cost metric -> `[N]` float64 costs of completions."""
  return {
      metric: np.array(
          [
              costs.completion_cost(x, accounting.specs, metric)
              for x in completions
          ]
      )
      for metric in costs.COST_METRICS
  }


class _CallCosts:
  """Costs of calls in every metric, cached by usage.

  The same call lies on many paths of a reply tree.
  """

  def __init__(self, accounting: costs.Accounting):
    self._specs = accounting.specs
    self._known: dict[types.Usage, np.ndarray] = {}

  def __call__(self, calls: Sequence[types.Usage]) -> np.ndarray:
    """Returns `[metrics]` float64 total costs, in each metric's unit."""
    return sum(map(self._of_call, calls), np.zeros(len(costs.COST_METRICS)))

  def _of_call(self, usage: types.Usage) -> np.ndarray:
    """Returns the `[metrics]` costs of one call."""
    # Equal usage has equal cost: usages are frozen and hash by value.
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
    call_costs: _CallCosts,
) -> None:
  """Adds the decisions and endings of one problem, depth first."""
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
  # An explicit stack: the depth may exceed the recursion limit of Python.
  pending: list[tuple[trees.Node | trees.Leaf, Parent | None]] = [
      (tree.root, None)
  ]
  while pending:
    item, parent = pending.pop()
    if isinstance(item, trees.Leaf):
      right = float(item.is_correct)
      # Replies are greedy, so each answer is one sample and the loss is exact.
      builder.add_ending(
          parent, right, alone * (1 - right), call_costs(item.calls) / all_large
      )
      continue
    spent = call_costs(item.calls)[metric] / accounting.reference
    trace = types.Trace(
        tree.problem.question, item.steps, item.draft, float(spent)
    )
    new_steps = (*item.steps[-1:], *([item.draft] if item.draft else ()))
    here = builder.add_decision(
        *_observe(trace, new_steps, config, tree.problem),
        len(item.branches),
        parent,
    )
    # Reversed, since the stack pops the last first: endings of a problem are in
    # order of routes.
    branches = list(enumerate(item.branches))
    pending += [(x, (here, a)) for a, x in reversed(branches)]
