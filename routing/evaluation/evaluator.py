"""The one evaluator: every method on the same problems, whatever the source."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from routing import costs
from routing.evaluation import bootstrap
from routing.evaluation import methods
from routing.evaluation import results as results_lib
from routing.outcomes import sources
from routing.routers import card as card_lib
from routing.routers import promises

REFERENCE = 'policy'  # The method that all others are compared with.
Families = Sequence[sources.Family]


def figures(
    policies: Sequence[Families],
    others: Mapping[str, Families],
    pair: methods.Pair,
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
  """All methods in all cost metrics, as `results.json` holds them.

  Args:
    policies: of each training seed, the families of its members.
    others: by name of the method, its families.
    pair: `select` and `test`.
    resamples: bootstrap draws.
    seed: of the draws.

  Returns:
    metric -> see `results.of_ruler`.
  """
  draws = bootstrap.draw(
      len(pair.test.problems), [1, len(policies)], resamples, seed=seed
  )
  return {
      metric: _in_metric(policies, others, pair, draws, metric)
      for metric in costs.RULERS
  }


def _in_metric(policies, others, pair, draws, metric) -> dict[str, Any]:
  found = {
      REFERENCE: [methods.thresholded(x, pair, metric) for x in policies],
      **{
          name: [methods.thresholded(families, pair, metric)]
          for name, families in others.items()
      },
      'random per question': [methods.random_per_question(pair, metric)],
      'random per step': [methods.random_per_step(pair, metric)],
  }
  oracle = None
  if isinstance(pair.test, sources.Known):
    oracle = pair.test.oracle(methods.PRICES, metric)
  anchors = results_lib.anchors_of(
      pair.test.at_rates([0.0], metric), pair.test.largest_alone()
  )
  return results_lib.of_ruler(found, oracle, anchors, draws, REFERENCE)


def operating_points(
    points: Sequence[card_lib.OperatingPoint],
    members: Families,
    test: sources.Source,
    metric: str,
) -> list[dict[str, Any]]:
  """What each named point earns on problems that no stage has seen.

  Args:
    points: of one router.
    members: the family of each of its members.
    test: the problems.
    metric: of the costs.

  Returns:
    For each point its name, what it promises in words, and accuracy, cost, loss
    and gain with their intervals; left out where the source cannot tell of its
    threshold.
  """
  entries = []
  for point in points:
    family, kappas = members[point.member], threshold_row(point.threshold)
    if kappas.ndim == 1 and not test.answerable(family, kappas).all():
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
  return entries


def threshold_row(threshold: card_lib.Threshold) -> np.ndarray:
  """One threshold as `[1]`, or one for each of T decisions as `[1, T]`."""
  return np.array([threshold], np.float64)
