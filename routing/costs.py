"""Cost accounting: converts recorded tokens and seconds to four cost metrics.

Every method, ours or from a paper, is charged here from the same recorded
`Usage`. No other module knows a price. The four cost metrics are

  `price`: dollars, at prices per million input, cached-input and output tokens;
  `flops`: floating-point operations, those of reading a prompt included;
  `decoded_tokens`: tokens written, weighted by the parameters of the writer;
  `latency`: wall-clock seconds.

A configuration names the metric of its constraint and promises; all four are
always reported, because the metric decides what a router can gain. For example,
in `flops` a hand-over at any step costs about as much as the large model alone:
the large model must read the very tokens that it would otherwise have written.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses

import numpy as np

from routing import types

COST_METRICS = ('price', 'flops', 'decoded_tokens', 'latency')

# Input and cached-input price as fractions of the output price, for models
# without a list price: typical ratios of public price lists.
INPUT_TO_OUTPUT_PRICE = 0.2
CACHED_TO_OUTPUT_PRICE = 0.02


@dataclasses.dataclass(frozen=True)
class RouteSpec:
  """The size and the prices of one model, from which its calls are charged.

  name: the model's name in tables.
  parameters: number of weights, embeddings included.
  num_layers: number of decoder blocks.
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
  """Returns the spec of a model that has no list price.

  Its output price is one dollar per million tokens and million parameters;
  input and cached input cost the usual fractions of it.
  """
  # The dollar is an arbitrary unit: costs are reported as fractions of the
  # all-large cost, so only the ratios between such models matter.
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
  """Returns the cost of one call, or elementwise of an array of calls.

  `flops` counts 2 FLOPs per parameter and processed token. Attention adds
  2 x layers x attention width x c for a token with c tokens of context. Tokens
  from the cache (`cached`) or already in the context of a running request
  (`in_context`) are not processed again, but belong to the context. Source:
  Kaplan et al. 2020, table 1.

  Args:
    usage: token counts and seconds; scalars or arrays of one shape.
    spec: the model that was called.
    metric: one of `COST_METRICS`.

  Returns:
    float64 array of the usage's shape, in the unit of the metric: dollars,
    FLOPs, parameters x tokens, or seconds.
  """
  check_metric(metric)
  # float64: sums of FLOPs exceed the integers that float32 represents exactly.
  read, cached, written, in_context = (
      np.asarray(x, np.float64)
      for x in (usage.read, usage.cached, usage.written, usage.in_context)
  )
  if metric == 'price':
    # `in_context` is free: the request that holds these tokens has paid them.
    return (
        read * spec.price_input
        + cached * spec.price_cached
        + written * spec.price_output
    ) / 1e6
  if metric == 'flops':
    start = in_context + cached
    end = start + read + written
    # New tokens have c = start, ..., end - 1 tokens of context. These sum to
    # (0 + ... + (end - 1)) - (0 + ... + (start - 1)).
    context = (end * (end - 1) - start * (start - 1)) / 2
    attention = 2 * spec.num_layers * spec.attention_width * context
    return 2 * spec.parameters * (read + written) + attention
  if metric == 'decoded_tokens':
    return spec.parameters * written
  # `+ 0 * read` gives the seconds the shape of the token counts.
  return np.asarray(usage.seconds, np.float64) + 0 * read


def total_cost(
    calls: Iterable[types.Usage], specs: Sequence[RouteSpec], metric: str
) -> float:
  """Returns the cost of all `calls` together, in the metric's own unit."""
  return float(
      sum(call_cost(call, specs[call.route], metric) for call in calls)
  )


def completion_cost(
    completion: types.Completion, specs: Sequence[RouteSpec], metric: str
) -> float:
  """Returns the cost of a completion, in the metric's own unit.

  The whole prompt is charged as `read`: at a hand-over the larger model is
  called for the first time, so none of it is in the model's prefix cache.
  """
  # A `Usage`, so that a completion and a live call share one formula.
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
  """The cost of every possible course of one ladder, in the metric's own unit.

  T is the number of steps at which a decision is made.

  drafts: `[T]`, the small model's calls up to and including step t.
  handover: `[T, A-1]`, the whole answer with a hand-over at step t to route
    1..A-1: the small model's calls before it, then the completion.
  stay: the whole answer by the small model.
  all_large: the whole answer by the largest model alone.
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
  """Returns the cost of each hand-over of a ladder, as the driver charges it.

  Args:
    ladder: a ladder with a completion for every (step, larger route).
    specs: the A models, smallest first.
    metric: one of `COST_METRICS`.
    draft_is_paid: True for `peek`, where the draft of step t is written, paid
      and discarded when the hand-over is at t. False for `commit`, where step t
      is not drafted.

  Returns:
    The costs. Several samples for one prefix are averaged.

  Raises:
    ValueError: if a (step, route) has no completion.
  """
  steps = [
      float(call_cost(step.usage, specs[0], metric)) for step in ladder.steps
  ]
  num_steps, num_larger = ladder.num_decisions, len(specs) - 1
  decided = np.asarray(steps)[:num_steps]
  drafts = np.cumsum(decided)
  # Small calls that a hand-over at t pays: steps 0..t with `peek`, because the
  # discarded draft of step t counts, and steps 0..t-1 with `commit`.
  paid = drafts if draft_is_paid else drafts - decided
  total = np.zeros((num_steps, num_larger))
  count = np.zeros((num_steps, num_larger))
  for completion in ladder.completions:
    where = completion.step, completion.route - 1  # Column 0 is route 1.
    total[where] += completion_cost(completion, specs, metric)
    count[where] += 1
  if not count.all():
    step, route = np.argwhere(count == 0)[0]
    raise ValueError(
        f'Ladder {ladder.problem.id} has no completion by route {route + 1} '
        f'from step {step}; every larger route needs one at each of its '
        f'{num_steps} decided steps. Collect the ladder again.'
    )
  mean = total / count
  return LadderCosts(
      drafts=drafts,
      handover=paid[:, None] + mean,
      # The small model also writes the steps after the last decision.
      stay=float(sum(steps)),
      # The largest model's completion of the empty prefix is its own answer.
      all_large=float(mean[0, -1]),
  )


@dataclasses.dataclass(frozen=True)
class Accounting:
  """The cost accounting of one experiment: models, metric and reference cost.

  specs: the A models, smallest first.
  metric: the cost metric of the constraint and of the promises.
  reference: expected all-large cost of one problem, in the metric's own unit:
    the mean over the training problems. Needed only for `spent`, from which a
    router learns what an unfinished answer has cost so far.
  """

  specs: tuple[RouteSpec, ...]
  metric: str = 'price'
  # NaN rather than 1: if it was never set, `spent` must not look like a cost.
  reference: float = float('nan')

  def __post_init__(self):
    check_metric(self.metric)
    if len(self.specs) < 2:
      raise ValueError(
          f'Routing needs 2 models or more, got {len(self.specs)}.'
      )

  def spent(self, calls: Iterable[types.Usage]) -> float:
    """Returns the cost of `calls` as a fraction of the expected all-large cost.

    The denominator is an expectation, because the all-large cost of the problem
    at hand is not known while it is being answered.
    """
    return total_cost(calls, self.specs, self.metric) / self.reference
