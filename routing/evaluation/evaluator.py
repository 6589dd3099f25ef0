"""Evaluates all methods on the same problems, from any kind of source."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from routing import costs
from routing.evaluation import bootstrap
from routing.evaluation import methods
from routing.evaluation import results as results_lib
from routing.evaluation import style
from routing.outcomes import points as points_lib
from routing.outcomes import refusal
from routing.outcomes import sources
from routing.routers import card as card_lib
from routing.routers import promises

# The small model alone is no method of the table, but the gap metrics need its
# outcomes. `left_out` has an entry of this name if they cannot be evaluated.
SMALL = 'small alone'
Families = Sequence[sources.Family]


def figures(
    policies: Sequence[Families],
    others: Mapping[str, Families],
    pair: methods.Pair,
    *,
    resamples: int,
    seed: int,
    on_metric: Callable[[], None] = lambda: None,
    own_pairs: Mapping[str, methods.Pair] | None = None,
) -> dict[str, Any]:
  """Evaluates all methods in all cost metrics, in the form of `results.json`.

  Args:
    policies: for each training seed, the families of its policies.
    others: name of the method -> the method's router families.
    pair: sources of the `select` and `test` problems.
    resamples: number of bootstrap draws.
    seed: seed of the draws.
    on_metric: called after each cost metric, for a progress bar.
    own_pairs: name of a method in `others` -> sources of the same problems for
      this method alone, e.g. with a scorer's cost added to every answer.

  Returns:
    Cost metric -> the figures of `results.of_metric`, and `left_out`: name of a
    method that cannot be evaluated from the records -> the reason. Tables omit
    these methods.

  Raises:
    refusal.Refusal: if the policy itself cannot be evaluated.
  """
  # The draws are shared by all methods and metrics, so that every difference is
  # paired.
  draws = bootstrap.draw(
      len(pair.test.problems), [1, len(policies)], resamples, seed=seed
  )
  by_metric = {}
  for metric in costs.COST_METRICS:
    by_metric[metric] = _in_metric(
        policies, others, pair, draws, metric, own_pairs or {}
    )
    on_metric()
  return by_metric


def _in_metric(
    policies, others, pair, draws, metric, own_pairs
) -> dict[str, Any]:
  """Returns the figures of all methods in one cost metric; see `figures`."""
  # Each method is a function, called in `_evaluate_each`, so that a method that
  # cannot be evaluated does not stop the others.
  thresholded = lambda x: methods.thresholded(x, pair, metric)
  makers = {
      style.REFERENCE: lambda: [thresholded(x) for x in policies],
      **{
          # The default values bind the families and the name of this
          # iteration; without them every lambda would use the last ones.
          name: lambda x=families, y=name: [
              methods.thresholded(x, own_pairs.get(y, pair), metric)
          ]
          for name, families in others.items()
      },
      'random per question': lambda: [
          methods.random_per_question(pair, metric)
      ],
      'random per step': lambda: [methods.random_per_step(pair, metric)],
  }
  candidates, left_out = _evaluate_each(makers)
  if style.REFERENCE in left_out:
    raise refusal.Refusal(
        f'The policy cannot be evaluated: {left_out[style.REFERENCE]} Either '
        'set evaluation.source=live, which answers the problems again; collect '
        'more trajectories, or some with a behaviour policy closer to the '
        'router (behaviour.kind=mixture); or lower '
        'calibration.min_effective_size.',
        None,
        note='',
    )
  # The oracle needs the outcomes of all paths, which only a known source has.
  oracle = None
  if isinstance(pair.test, sources.Known):
    oracle = pair.test.oracle(methods.PRICES, metric)
  small, missing = _evaluate_each(
      {SMALL: lambda: pair.test.at_rates([0.0], metric)}
  )
  large = pair.test.largest_alone()
  anchors = results_lib.anchors_of(small.get(SMALL, _unknown(large)), large)
  result = results_lib.of_metric(
      candidates, oracle, anchors, draws, style.REFERENCE
  )
  return {**result, 'left_out': left_out | missing}


def _evaluate_each(
    makers: Mapping[str, Callable[[], Any]],
) -> tuple[dict[str, Any], dict[str, str]]:
  """Calls each function, and collects refusals instead of raising them.

  Returns:
    Name -> result, and name -> reason for each function that raised `Refusal`.
  """
  made, left_out = {}, {}
  for name, make in makers.items():
    try:
      made[name] = make()
    # `reason` lacks the note on fresh samples: no promise was tested here.
    except refusal.Refusal as error:
      left_out[name] = error.reason
  return made, left_out


def _unknown(like: points_lib.Points) -> points_lib.Points:
  """Returns outcomes of NaN, in the shape of `like`.

  They stand for a model that cannot be evaluated: metrics that need it become
  null in `results.json`.
  """
  values = {name: x * np.nan for name, x in like.values().items()}
  return points_lib.Points(**values)


def operating_points(
    points: Sequence[card_lib.OperatingPoint],
    policies: Families,
    test: sources.Source,
    metric: str,
) -> tuple[list[dict[str, Any]], list[str]]:
  """Evaluates named operating points on problems that no stage has seen.

  Args:
    points: operating points of one router.
    policies: the router's families, one per policy.
    test: source of the problems.
    metric: cost metric.

  Returns:
    One entry per point, with name, promise in words, cost, share of answers
    that the token limit cut off, and accuracy, loss and gain with their
    intervals; and the names of the points that are left out because the source
    cannot evaluate their thresholds.
  """
  entries, left_out = [], []
  for point in points:
    family = policies[point.policy_index]
    thresholds = threshold_row(point.threshold)
    # `answerable` accepts single thresholds only. Per-decision thresholds,
    # `[1, T]`, are evaluated without asking: `evaluate` raises if it cannot.
    if thresholds.ndim == 1 and not test.answerable(family, thresholds).all():
      left_out.append(point.name)
      continue
    try:
      outcomes = test.evaluate(family, thresholds, metric)
    except refusal.Refusal:
      left_out.append(point.name)
      continue
    entries.append(
        {
            'name': point.name,
            'promise': promises.in_words(point.promise),
            'accuracy': results_lib.rate(outcomes.correct[0]),
            'cut': float(outcomes.cut_share[0]),
            'cost': float(outcomes.mean_cost[0]),
            'loss': results_lib.rate(outcomes.loss[0]),
            'gain': results_lib.rate(outcomes.gain[0]),
        }
    )
  return entries, left_out


def threshold_row(threshold: card_lib.Threshold) -> np.ndarray:
  """Returns a threshold as `[1]`, or T per-decision thresholds as `[1, T]`."""
  return np.array([threshold], np.float64)
