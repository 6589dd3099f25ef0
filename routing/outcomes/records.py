"""Converts ladders, reply trees and trajectories to outcome tables and sources.

Observations come from the same feature function and traces as in the live
driver, and costs from the same cost accounting. A table therefore holds exactly
the observations, costs and grades that the live driver would get on each path.
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
from routing.rollout import cut_answers
from routing.rollout import trees

# Index of a decision, and the route chosen at that decision.
Parent = tuple[int, int]


def ladder_table(
    ladders: Iterable[types.Ladder],
    config: observation.FeatureConfig,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
) -> table_lib.OutcomeTable:
  """Converts graded ladders to an outcome table.

  Args:
    ladders: N ladders with a completion for each (step, route, sample).
    config: the features that the router observes.
    accounting: cost accounting; its `reference` scales the cost features.
    protocol: `escalate`. Under its view `peek` the router observes the small
      model's draft of the step, and a hand-over pays for the discarded draft.

  Raises:
    ValueError: if a completion is missing, a log-probability is not finite, or
      a trace has no step; the message names the problem.
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
  """Converts reply trees to an outcome table.

  Args:
    source: N reply trees. Each tree is read once and not stored, so a generator
      may grow the trees one by one.
    config: the features that the router observes.
    accounting: cost accounting; its `reference` scales the cost features.

  Raises:
    ValueError: if an observation cannot be computed, or the largest model alone
      costs nothing; the message names the problem.
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
) -> tuple[np.ndarray, tuple[float, ...]]:
  """Returns the `[F]` features and the `[S]` uncertainty scores of a trace.

  Args:
    trace: the answer so far, as the router sees it.
    new_steps: steps of the trace that no earlier decision saw. Only their
      log-probabilities are checked.
    config: the features to compute.
    problem: the problem of the trace, which errors name.
  """
  # Each step is checked once, when it is new. Checking all steps at each
  # decision would be quadratic in the length of the trace.
  try:
    observation.check_log_probs(new_steps, max(len(trace.steps) - 1, 0))
    features = observation.observe(trace, config)
  except ValueError as error:
    raise ValueError(f'Problem {problem.id}: {error}') from error
  return features, observation.uncertainties(trace)


def _check_positive(all_large: Sequence[float], problem: types.Problem) -> None:
  """Raises ValueError unless the largest model alone costs more than 0.

  Args:
    all_large: cost of the largest model alone on this problem, per metric.
    problem: the problem, which the error names.
  """
  for metric, cost in zip(costs.COST_METRICS, all_large, strict=True):
    if not cost > 0:
      raise ValueError(
          f'Problem {problem.id}: the cost of the largest model alone in '
          f'{metric} is {cost}; it must be positive, because all costs are '
          'fractions of it.'
      )


class _Ladder:
  """One graded ladder, with the cost of each of its endings in every metric."""

  def __init__(self, ladder, config, accounting, protocol):
    self._ladder, self._config = ladder, config
    self._accounting, self._protocol = accounting, protocol
    # `[T, A-1, samples]`, 1 where right. Sample s of every completion is paired
    # with sample s of the largest model's completion from step 0, which is the
    # answer of the largest model alone.
    num_decisions = min(len(ladder.steps), config.max_decisions)
    self._right = grades(ladder, len(accounting.specs), num_decisions)
    self._cut = _cut_completions(ladder, self._right.shape)
    # `charged` has one entry per metric: the costs of never handing over, of a
    # hand-over at each step, and of the largest model alone.
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
    """Adds the decisions and endings of this ladder to a table builder."""
    # A hand-over to the largest model at step 0 keeps no step of the small
    # model, so its answer is that of the largest model alone.
    alone, parent = self._right[0, -1], None
    builder.begin_problem(
        float(alone.mean()), self._all_large, float(self._cut[0, -1].mean())
    )
    for step in range(len(self._right)):
      here = self._add_decision(builder, step, parent)
      for larger, right in enumerate(self._right[step]):
        builder.add_ending(
            (here, 1 + larger),
            float(right.mean()),
            # The product is taken per sample and then averaged. A product of
            # the two means would treat paired samples as independent.
            float((alone * (1.0 - right)).mean()),
            self._handover_cost[step, larger],
            float(self._cut[step, larger].mean()),
        )
      parent = here, 0
    stays = float(self._ladder.is_correct)
    builder.add_ending(
        parent,
        stays,
        float(alone.mean()) * (1.0 - stays),
        self._stay_cost,
        float(cut_answers.of_steps(self._ladder.steps)),
    )

  def _add_decision(self, builder, step, parent) -> int:
    """Adds the decision at a step and returns its index in the table."""
    trace = traces.of_ladder(
        self._ladder, step, self._accounting, self._protocol
    )
    # The step that the router has not seen before: the draft of this step if
    # the router sees drafts (`peek`), otherwise the last accepted step.
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
  """Returns the grades of a ladder's completions, `[T, A-1, samples]` float32.

  Entry [t, m, s] is 1 if the answer is right that sample s of route m + 1
  completes from the first t steps of the small model.

  Args:
    ladder: the graded ladder.
    num_routes: A.
    num_decisions: T, the number of decisions; later steps have no decision.

  Raises:
    ValueError: if there is no decision, or a completion is missing.
  """
  found = {
      (c.step, c.route, c.sample): c.is_correct for c in ladder.completions
  }
  if not num_decisions:
    raise ValueError(
        f'Problem {ladder.problem.id} has 0 steps; it must have 1 or more.'
    )
  # Every (step, route) needs the same number of samples, because samples are
  # paired by index.
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


def _cut_completions(
    ladder: types.Ladder, shape: tuple[int, ...]
) -> np.ndarray:
  """Returns which completions were cut off, in the shape of `grades`.

  NaN where this was not recorded, as in older shards.
  """
  out = np.full(shape, np.nan, np.float32)
  for c in ladder.completions:
    if c.is_cut is not None and c.step < len(out):
      out[c.step, c.route - 1, c.sample] = c.is_cut
  return out


def recorded_source(
    rollouts: Sequence[types.Rollouts],
    config: observation.FeatureConfig,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
    min_effective_size: float = 100.0,
) -> sources.Recorded:
  """Returns a source that evaluates thresholds off-policy on trajectories.

  Args:
    rollouts: N problems with their behaviour trajectories.
    config: the features that the router observes.
    accounting: cost accounting; its `reference` scales the cost features.
    protocol: the protocol in which the trajectories were collected.
    min_effective_size: smallest effective number of problems at which the
      source evaluates a threshold.

  Raises:
    ValueError: see `batching.trajectory_batch`.
  """
  batch = batching.trajectory_batch(rollouts, config, accounting, protocol)
  uncertainty = np.zeros((*batch.mask.shape, len(observation.UNCERTAINTIES)))
  # `rows` has the row order of `trajectory_batch`: by problem, then by
  # trajectory.
  rows = ((x, y) for x in rollouts for y in x.trajectories)
  for row, (_, trajectory) in enumerate(rows):
    seen = traces.of_trajectory(trajectory, accounting, protocol)
    for step, trace in enumerate(seen):
      uncertainty[row, step] = observation.uncertainties(trace)
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
      cut=np.array(
          [
              cut_answers.of_steps(y.steps)
              for x in rollouts
              for y in x.trajectories
          ],
          float,
      ),
      # None, which stands for "not recorded", becomes NaN.
      large_cut=np.array([x.reference.is_cut for x in rollouts], float),
  )


def large_costs(
    completions: Sequence[types.Completion], accounting: costs.Accounting
) -> dict[str, np.ndarray]:
  """Returns the cost of each completion, cost metric -> `[N]` float64.

  Args:
    completions: N answers, e.g. of the largest model alone.
    accounting: cost accounting.
  """
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
  """Computes the cost of model calls in every metric, cached by token usage.

  The cache pays off because the same call lies on many paths of a reply tree.
  """

  def __init__(self, accounting: costs.Accounting):
    self._specs = accounting.specs
    self._known: dict[types.Usage, np.ndarray] = {}

  def __call__(self, calls: Sequence[types.Usage]) -> np.ndarray:
    """Returns the total cost of `calls`, `[metrics]`, in each metric's unit."""
    return sum(map(self._of_call, calls), np.zeros(len(costs.COST_METRICS)))

  def _of_call(self, usage: types.Usage) -> np.ndarray:
    """Returns the `[metrics]` costs of one call, each in its metric's unit."""
    # Calls of equal usage have equal cost. `Usage` is frozen and hashes by
    # value, so it can be the key.
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
  """Adds the decisions and endings of one reply tree, depth first."""
  all_large = np.array(
      [
          costs.completion_cost(tree.reference, accounting.specs, metric)
          for metric in costs.COST_METRICS
      ]
  )
  _check_positive(all_large, tree.problem)
  alone = float(tree.reference.is_correct)
  cut = tree.reference.is_cut
  builder.begin_problem(alone, all_large, np.nan if cut is None else float(cut))
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
          parent,
          right,
          alone * (1 - right),
          call_costs(item.calls) / all_large,
          float(item.is_cut),
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
    # The stack pops the last entry first. Pushing the branches in reverse puts
    # the endings of a problem in order of routes.
    branches = list(enumerate(item.branches))
    pending += [(x, (here, a)) for a, x in reversed(branches)]
