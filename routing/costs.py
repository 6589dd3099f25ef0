"""Tokens to money, arithmetic and time: the only place that knows a price.

Every method, ours or another's, is charged here from the same recorded `Usage`.
Four cost metrics read the same record; a configuration names the one that its
constraint and its promises are in. In full FLOPs a hand-over at any step costs
about as much as the large model alone, because the large model must read just
the tokens that it would otherwise have written: the cost metric decides what
  there is
to learn, so all four are always reported.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses

import numpy as np

from routing import types

COST_METRICS = ('price', 'flops', 'decoded_tokens', 'latency')

# Typical ratios of public price lists, for models that have no list price.
INPUT_TO_OUTPUT_PRICE = 0.2
CACHED_TO_OUTPUT_PRICE = 0.02


@dataclasses.dataclass(frozen=True)
class RouteSpec:
  """What charging a model's tokens needs to know of it.

  name: the model's name in tables.
  parameters: weights, embeddings included.
  num_layers: decoder blocks.
  attention_width: heads x head_dim, for the attention term of `flops`.
  price_input, price_cached, price_output: dollars per million tokens.
  """

  name: str
  parameters: int
  num_layers: int
  attention_width: int
  price_input: float
  price_cached: float
  price_output: float


def spec_by_parameters(
    name: str, parameters: int, num_layers: int, attention_width: int
) -> RouteSpec:
  """A model with no list price: a dollar per million tokens x parameters."""
  output = parameters / 1e6
  return RouteSpec(
      name=name,
      parameters=parameters,
      num_layers=num_layers,
      attention_width=attention_width,
      price_input=INPUT_TO_OUTPUT_PRICE * output,
      price_cached=CACHED_TO_OUTPUT_PRICE * output,
      price_output=output,
  )


def check_metric(metric: str) -> str:
  """Returns `metric`, or raises ValueError with the allowed names."""
  if metric not in COST_METRICS:
    raise ValueError(
        f'Unknown cost metric {metric!r}; allowed: {", ".join(COST_METRICS)}.'
    )
  return metric


def call_cost(usage: types.Usage, spec: RouteSpec, metric: str) -> np.ndarray:
  """Cost of one call, or elementwise of an array of calls.

  `flops` counts 2 FLOPs a parameter and processed token, plus, for a token
  whose context is c tokens long, 2 x layers x attention width x c. A token read
  from the cache, or held by a request under way, is not processed again, but
  belongs to the context. Source: Kaplan et al. 2020, table 1.

  Args:
    usage: token counts and seconds; scalars or arrays of one shape.
    spec: the model that was called.
    metric: one of `COST_METRICS`.

  Returns:
    float64, shape of the usage: dollars, FLOPs, parameter-tokens or seconds.
  """
  check_metric(metric)
  read, cached, written, held = (
      np.asarray(x, np.float64)
      for x in (usage.read, usage.cached, usage.written, usage.in_context)
  )
  if metric == 'price':
    return (
        read * spec.price_input
        + cached * spec.price_cached
        + written * spec.price_output
    ) / 1e6
  if metric == 'flops':
    start = held + cached
    end = start + read + written
    # Sum of the context lengths c = start, ..., end - 1.
    context = (end * (end - 1) - start * (start - 1)) / 2
    attention = 2 * spec.num_layers * spec.attention_width * context
    return 2 * spec.parameters * (read + written) + attention
  if metric == 'decoded_tokens':
    return spec.parameters * written
  return np.asarray(usage.seconds, np.float64) + 0 * read


def total_cost(
    calls: Iterable[types.Usage], specs: Sequence[RouteSpec], metric: str
) -> float:
  """Cost of a list of calls, in the cost metric's own unit."""
  return float(
      sum(call_cost(call, specs[call.route], metric) for call in calls)
  )


def completion_cost(
    completion: types.Completion, specs: Sequence[RouteSpec], metric: str
) -> float:
  """Cost of a completion whose prefix its writer had not read before."""
  usage = types.Usage(
      completion.route,
      completion.read,
      0,
      completion.written,
      completion.seconds,
  )
  return float(call_cost(usage, specs[completion.route], metric))


@dataclasses.dataclass(frozen=True)
class LadderCosts:
  """Costs of every way through one ladder, in the cost metric's own unit.

  drafts: `[T]`, the small model's calls up to and including step t, of the T
    steps that are decided on.
  handover: `[T, A-1]`, handing over at t: small calls, then the completion.
  stay: the whole small trace.
  all_large: the largest model alone.
  """

  drafts: np.ndarray
  handover: np.ndarray
  stay: float
  all_large: float


def ladder_costs(
    ladder: types.Ladder,
    specs: Sequence[RouteSpec],
    metric: str,
    *,
    draft_is_paid: bool,
) -> LadderCosts:
  """Charges every hand-over of a ladder as the live driver would be charged.

  Args:
    ladder: a ladder whose completions cover every (step, larger route).
    specs: A models, smallest first.
    metric: one of `COST_METRICS`.
    draft_is_paid: True for `peek`: the draft of step t is written, paid and
      thrown away when handing over at t. False for `commit`.

  Returns:
    The costs; samples of one prefix are averaged.

  Raises:
    ValueError: if a (step, route) has no completion.
  """
  steps = [
      float(call_cost(step.usage, specs[0], metric)) for step in ladder.steps
  ]
  num_steps, num_larger = ladder.num_decisions, len(specs) - 1
  decided = np.asarray(steps)[:num_steps]
  drafts = np.cumsum(decided)
  paid = drafts if draft_is_paid else drafts - decided
  total = np.zeros((num_steps, num_larger))
  count = np.zeros((num_steps, num_larger))
  for completion in ladder.completions:
    where = completion.step, completion.route - 1
    total[where] += completion_cost(completion, specs, metric)
    count[where] += 1
  if not count.all():
    step, route = np.argwhere(count == 0)[0]
    raise ValueError(
        f'Ladder {ladder.problem.id} has no completion by route {route + 1} '
        f'from step {step}.'
    )
  mean = total / count
  return LadderCosts(
      drafts=drafts,
      handover=paid[:, None] + mean,
      stay=float(sum(steps)),
      all_large=float(mean[0, -1]),
  )


@dataclasses.dataclass(frozen=True)
class Accounting:
  """The cost accounting of one experiment: specs, cost metric and reference.

  specs: A models, smallest first.
  metric: the cost metric that constraint and promises are in.
  reference: expected all-large cost of one problem in the cost metric's unit
    (the
    training ladders' mean). Needed only for `spent`, what a router may know of
    its own spending while an answer is under way.
  """

  specs: tuple[RouteSpec, ...]
  metric: str = 'price'
  reference: float = float('nan')

  def __post_init__(self):
    check_metric(self.metric)
    if len(self.specs) < 2:
      raise ValueError(
          f'Routing needs 2 models or more, got {len(self.specs)}.'
      )

  def spent(self, calls: Iterable[types.Usage]) -> float:
    """What `calls` cost, as a fraction of the expected all-large cost."""
    return total_cost(calls, self.specs, self.metric) / self.reference
