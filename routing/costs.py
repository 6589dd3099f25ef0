"""Cost accounting: converts recorded tokens and seconds to four cost metrics.

Every routing method, ours or from a paper, is charged here from the same
recorded `types.Usage`. No other module knows a price. The four cost metrics are

  `price`: dollars, at prices per million input, cached-input and output tokens;
  `flops`: floating-point operations, including those of reading a prompt;
  `decoded_tokens`: tokens written, weighted by the parameters of the writer;
  `latency`: wall-clock seconds.

A configuration names the metric that its constraint and promises use. Results
are reported in all four, because the metric decides how much a router can save.
For example, in `flops` a hand-over at any step costs about as much as the large
model alone: reading the small model's tokens takes the large model as many
operations as writing tokens of its own.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses

import numpy as np

from routing import types

_NUMBER = int, float
COST_METRICS = ('price', 'flops', 'decoded_tokens', 'latency')

# Input and cached-input price as fractions of the output price, for models that
# have no list price. The values are typical of public price lists.
INPUT_TO_OUTPUT_PRICE = 0.2
CACHED_TO_OUTPUT_PRICE = 0.02


@dataclasses.dataclass(frozen=True)
class RouteSpec:
  """The size and the prices of one model, from which its calls are priced.

  name: the model's name in tables.
  parameters: number of weights, embeddings included.
  num_layers: number of decoder blocks.
  attention_width: number of heads x head dimension, for the attention term of
    the metric `flops`.
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

  The output price is set to 1 dollar per million tokens for every million
  parameters. Input and cached-input prices are `INPUT_TO_OUTPUT_PRICE` and
  `CACHED_TO_OUTPUT_PRICE` times the output price.
  """
  # The dollar is an arbitrary unit here. Costs are reported as fractions of the
  # largest model's cost, so only the ratios between the models matter.
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


def call_cost(
    usage: types.Usage, spec: RouteSpec, metric: str
) -> np.ndarray | float:
  """Returns the cost of one call, or of each call if `usage` holds arrays.

  `flops` counts 2 FLOPs per parameter and processed token. Attention adds
  2 x layers x attention width x c for a token with c tokens of context. Tokens
  from the cache (`cached`) or already in the context of a running request
  (`in_context`) are not processed again, but processed tokens attend to them.
  Source: Kaplan et al. 2020, table 1.

  Args:
    usage: token counts and seconds; scalars or arrays of one shape.
    spec: the model that was called.
    metric: one of `COST_METRICS`.

  Returns:
    float64 array of the usage's shape, or a float for scalars, in the unit of
    the metric: dollars, FLOPs, parameters x tokens, or seconds.
  """
  check_metric(metric)
  read, written = _in_float64(usage.read), _in_float64(usage.written)
  if metric == 'decoded_tokens':
    return spec.parameters * written
  if metric == 'latency':
    # `+ 0 * read` broadcasts the seconds to the shape of the counts.
    return _in_float64(usage.seconds) + 0 * read
  cached = _in_float64(usage.cached)
  if metric == 'price':
    # Tokens counted in `in_context` cost nothing here: an earlier usage of the
    # same request has charged them.
    return (
        read * spec.price_input
        + cached * spec.price_cached
        + written * spec.price_output
    ) / 1e6
  start = _in_float64(usage.in_context) + cached
  end = start + read + written
  # New tokens have c = start, ..., end - 1 tokens of context. These sum to
  # (0 + ... + (end - 1)) - (0 + ... + (start - 1)).
  context = (end * (end - 1) - start * (start - 1)) / 2
  attention = 2 * spec.num_layers * spec.attention_width * context
  return 2 * spec.parameters * (read + written) + attention


def _in_float64(value: np.ndarray | float) -> np.ndarray | float:
  """Returns a count or a time in double precision, in which all is computed.

  FLOP counts exceed the integers that float32 represents exactly.
  """
  # In service each step is priced several times, one at a time. A float is the
  # same number as an array of one, and computed with several times as fast.
  if isinstance(value, _NUMBER):
    return float(value)
  return np.asarray(value, np.float64)


def total_cost(
    calls: Iterable[types.Usage], specs: Sequence[RouteSpec], metric: str
) -> float:
  """Returns the sum of the costs of `calls`, in the metric's own unit.

  Args:
    calls: the usage of each call.
    specs: the A models, smallest first; `specs[call.route]` prices a call.
    metric: one of `COST_METRICS`.
  """
  return float(
      sum(call_cost(call, specs[call.route], metric) for call in calls)
  )


def completion_cost(
    completion: types.Completion, specs: Sequence[RouteSpec], metric: str
) -> float:
  """Returns the cost of a larger model's completion, in the metric's own unit.

  The prompt is charged as `read`: at a hand-over the larger model is called for
  the first time, so its cache holds only the tokens that begin every prompt.
  """
  # Converted to a `Usage`, so that completions and live calls share one
  # formula.
  usage = types.Usage(
      completion.route,
      completion.read,
      completion.cached,
      completion.written,
      completion.seconds,
  )
  return float(call_cost(usage, specs[completion.route], metric))


@dataclasses.dataclass(frozen=True)
class LadderCosts:
  """The cost of each answer that one ladder allows, in the metric's own unit.

  T is the number of steps at which a decision is made.

  drafts: `[T]`, cost of the small model's steps 0..t.
  handover: `[T, A-1]`, cost of the whole answer with a hand-over at step t to
    route 1..A-1: the small model's calls before the hand-over, then the larger
    model's completion.
  stay: cost of the whole answer if the small model writes all of it.
  all_large: cost of the whole answer if the largest model writes all of it.
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
  """Returns the cost of each answer that a ladder allows.

  The costs equal those of a live answer with the same hand-over.

  Args:
    ladder: a ladder with a completion for every (step, larger route).
    specs: the A models, smallest first.
    metric: one of `COST_METRICS`.
    draft_is_paid: True for the view `peek`: at a hand-over at step t, the small
      model's draft of step t has been written and is charged, although it is
      discarded. False for `commit`, where step t is not drafted.

  Returns:
    The costs. If a prefix has several sampled completions, they are averaged.

  Raises:
    ValueError: if a (step, route) has no completion.
  """
  steps = [
      float(call_cost(step.usage, specs[0], metric)) for step in ladder.steps
  ]
  num_steps, num_larger = ladder.num_decisions, len(specs) - 1
  decided = np.asarray(steps)[:num_steps]
  drafts = np.cumsum(decided)
  # Calls of the small model that are charged before a hand-over at step t:
  # those of steps 0..t with `peek`, because the discarded draft of step t
  # counts, and those of steps 0..t-1 with `commit`.
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
        f'The ladder of problem {ladder.problem.id} has no completion by route '
        f'{route + 1} from step {step}; every larger route needs a completion '
        f'from each of its first {num_steps} steps. Collect the ladder again.'
    )
  mean = total / count
  return LadderCosts(
      drafts=drafts,
      handover=paid[:, None] + mean,
      # All steps, not only the first T: after the last decision the small model
      # continues to the end.
      stay=float(sum(steps)),
      # The largest model's completion of the empty prefix is the answer that
      # it writes alone.
      all_large=float(mean[0, -1]),
  )


@dataclasses.dataclass(frozen=True)
class Accounting:
  """The cost accounting of one experiment: models, metric and reference cost.

  specs: the A models, smallest first.
  metric: the cost metric of the constraint and of the promises.
  reference: expected all-large cost: the mean over the training problems of
    what the largest model alone costs, in the metric's own unit. Only `spent`
    needs it.
  """

  specs: tuple[RouteSpec, ...]
  metric: str = 'price'
  # The default is NaN rather than 1: if `reference` was never set, `spent` must
  # not return a number that looks like a cost.
  reference: float = float('nan')

  def __post_init__(self):
    check_metric(self.metric)
    if len(self.specs) < 2:
      raise ValueError(
          f'Routing needs 2 models or more, got {len(self.specs)}.'
      )

  def spent(self, calls: Iterable[types.Usage]) -> float:
    """Returns the cost of `calls` as a fraction of `reference`.

    Routers see this as the cost of an unfinished answer so far. The denominator
    is an expectation, because what the largest model alone would cost on the
    problem at hand is not known while the problem is being answered.
    """
    return total_cost(calls, self.specs, self.metric) / self.reference
