"""The one evaluator: every method on the same problems, whatever the source."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from routing import costs
from routing.evaluation import bootstrap
from routing.evaluation import methods
from routing.evaluation import results as results_lib
from routing.outcomes import points as points_lib
from routing.outcomes import refusal
from routing.outcomes import sources
from routing.routers import card as card_lib
from routing.routers import promises

REFERENCE = 'policy'  # The method that all others are compared with.
SMALL = 'small alone'  # In `left_out`; it is no method, but gaps begin there.
Families = Sequence[sources.Family]


def figures(
    policies: Sequence[Families],
    others: Mapping[str, Families],
    pair: methods.Pair,
    *,
    resamples: int,
    seed: int,
    on_metric: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
  """All methods in all cost metrics, as `results.json` holds them.

  Args:
    policies: of each training seed, the families of its members.
    others: by name of the method, its families.
    pair: `select` and `test`.
    resamples: bootstrap draws.
    seed: of the draws.
    on_metric: called after each cost metric, for a progress bar.

  Returns:
    metric -> see `results.of_ruler`, and `left_out`: method -> why it cannot be
    judged from what is recorded. What is left out is in no table.

  Raises:
    refusal.Refusal: if the policy itself cannot be judged.
  """
  draws = bootstrap.draw(
      len(pair.test.problems), [1, len(policies)], resamples, seed=seed
  )
  found = {}
  for metric in costs.RULERS:
    found[metric] = _in_metric(policies, others, pair, draws, metric)
    on_metric()
  return found


def _in_metric(policies, others, pair, draws, metric) -> dict[str, Any]:
  thresholded = lambda x: methods.thresholded(x, pair, metric)
  makers = {
      REFERENCE: lambda: [thresholded(x) for x in policies],
      **{
          name: lambda x=families: [thresholded(x)]
          for name, families in others.items()
      },
      'random per question': lambda: [
          methods.random_per_question(pair, metric)
      ],
      'random per step': lambda: [methods.random_per_step(pair, metric)],
  }
  found, left_out = _judged(makers)
  if REFERENCE in left_out:
    raise refusal.Refusal(
        f'The policy cannot be evaluated: {left_out[REFERENCE]} Allowed: '
        'evaluation.source=live, which answers the problems anew; more '
        'trajectories, or those of a behaviour policy closer to the router '
        '(behaviour.kind=mixture); or a smaller calibration.least_effective.',
        None,
        note='',
    )
  oracle = None
  if isinstance(pair.test, sources.Known):
    oracle = pair.test.oracle(methods.PRICES, metric)
  small, unknown = _judged({SMALL: lambda: pair.test.at_rates([0.0], metric)})
  large = pair.test.largest_alone()
  anchors = results_lib.anchors_of(small.get(SMALL, _unknown(large)), large)
  ruler = results_lib.of_ruler(found, oracle, anchors, draws, REFERENCE)
  return {**ruler, 'left_out': left_out | unknown}


def _judged(
    makers: Mapping[str, Callable[[], Any]],
) -> tuple[dict[str, Any], dict[str, str]]:
  """What can be judged, by name, and of everything else why it cannot."""
  found, left_out = {}, {}
  for name, make in makers.items():
    try:
      found[name] = make()
    except refusal.Refusal as error:
      left_out[name] = error.reason
  return found, left_out


def _unknown(like: points_lib.Points) -> points_lib.Points:
  """Points of which nothing is known: figures that need them are null."""
  values = {name: x * np.nan for name, x in like.values().items()}
  return points_lib.Points(**values)


def operating_points(
    points: Sequence[card_lib.OperatingPoint],
    members: Families,
    test: sources.Source,
    metric: str,
) -> tuple[list[dict[str, Any]], list[str]]:
  """What each named point earns on problems that no stage has seen.

  Args:
    points: of one router.
    members: the family of each of its members.
    test: the problems.
    metric: of the costs.

  Returns:
    For each point its name, what it promises in words, and accuracy, cost, loss
    and gain with their intervals; and the names of the points that are left
    out, since the source cannot judge their thresholds.
  """
  entries, left_out = [], []
  for point in points:
    family, kappas = members[point.member], threshold_row(point.threshold)
    if kappas.ndim == 1 and not test.answerable(family, kappas).all():
      left_out.append(point.name)
      continue
    earned = test.earn(family, kappas, metric)
    entries.append(
        {
            'name': point.name,
            'promise': promises.in_words(point.promise),
            'accuracy': results_lib.rate(earned.correct[0]),
            'cost': float(earned.mean_cost[0]),
            'loss': results_lib.rate(earned.loss[0]),
            'gain': results_lib.rate(earned.gain[0]),
        }
    )
  return entries, left_out


def threshold_row(threshold: card_lib.Threshold) -> np.ndarray:
  """One threshold as `[1]`, or one for each of T decisions as `[1, T]`."""
  return np.array([threshold], np.float64)
