"""KnowNo as a method of the comparison.

The options at a step are the routes, each with a probability. The prediction
set holds the options whose probability is at least kappa. If it holds exactly
one, this route is taken; otherwise the router asks for help, which is the
largest model. Split conformal prediction sets kappa for a share alpha of
problems that may be missed.
Source: Ren et al. 2023, "Robots That Ask For Help: Uncertainty Alignment for
Large Language Model Planners", sections 3.2 and 3.3.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from routing.calibration import conformal
from routing.outcomes import refusal
from routing.outcomes import stopping
from routing.outcomes import table as table_lib
from routing.routers import entrants
from routing.routers import families
from routing.routers import logistic
from routing.routers import router

NAME = 'KnowNo'
# C of the logistic classifier of routes.
SETTINGS = tuple(dict(strength=x) for x in (0.01, 0.1, 0.001, 1.0, 1e-4, 10.0))
# Shares of problems that may be missed, from the cheapest to the dearest.
ALPHAS = (0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.12, 0.1, 0.08, 0.06, 0.04, 0.02)
_DIGITS = 6  # Of a probability that count; see `question_level`.
_HALF = 0.5 * 10.0**-_DIGITS  # Halfway between two such probabilities.


def asks_from(kappa: float) -> float:
  """Returns the smallest probability of the large model with which it writes.

  With p the probability of the large model and 1 - p that of the small one, the
  small model goes on if and only if the set is {small}:
    1 - p >= kappa and p < kappa.
  So the large model writes if p >= kappa or p > 1 - kappa.

  Args:
    kappa: of the prediction sets, a probability.
  """
  # Both are rounded, so half a digit decides between > and >=.
  return min(round(kappa, _DIGITS) - _HALF, round(1.0 - kappa, _DIGITS) + _HALF)


@dataclasses.dataclass(frozen=True)
class Options:
  """The probability that staying with the small model is no option.

  model: a logistic classifier.
  mean, scale: `[F]`, by which features are standardised.
  """

  model: logistic.Linear
  mean: np.ndarray
  scale: np.ndarray

  def score(self, features: np.ndarray) -> np.ndarray:
    """Returns `[M]`, the probability of the large model."""
    rows = (np.asarray(features, np.float64) - self.mean) / self.scale
    return np.round(self.model.probability(rows), _DIGITS)


def _of_problems(
    table: table_lib.OutcomeTable, values: np.ndarray, metric: str
) -> tuple[stopping.Outcomes, np.ndarray]:
  """Returns outcomes by stopping time, and `[M]` values as `[N, T]`."""
  return stopping.from_table(table, values, None, metric)


def fit_options(
    table: table_lib.OutcomeTable,
    metric: str,
    problems: np.ndarray,
    strength: float,
) -> Options:
  """Fits the classifier on the decisions of some problems.

  Args:
    table: of ladders.
    metric: cost metric.
    problems: `[N]` bool.
    strength: C of the classifier.
  """
  outcomes, places = _of_problems(
      table, np.arange(len(table.decisions.depth), dtype=np.float64), metric
  )
  # The right option is to stay wherever that is acceptable: it costs less.
  stays = conformal.acceptable([outcomes])[..., 0]
  chosen = outcomes.mask & problems[:, None]
  rows = places[chosen].astype(int)
  features = np.asarray(table.decisions.features[rows], np.float64)
  mean, scale = features.mean(axis=0), features.std(axis=0)
  scale = np.where(scale > 0, scale, 1.0)
  model = logistic.fit(
      (features - mean) / scale,
      (~stays[chosen]).astype(np.float64),
      strength=strength,
  )
  return Options(model, mean, scale)


def kappas(
    options: Options,
    table: table_lib.OutcomeTable,
    metric: str,
    problems: np.ndarray,
) -> list[float]:
  """Returns the kappa of each of `ALPHAS` that the problems support.

  Args:
    options: fitted on other problems.
    table: of ladders.
    metric: cost metric.
    problems: `[N]` bool, the calibration problems.
  """
  scores = options.score(table.decisions.features)
  outcomes, large = _of_problems(table, scores, metric)
  large, outcomes = large[problems], outcomes.take(np.flatnonzero(problems))
  probabilities = np.stack([1.0 - large, large], axis=-1)
  found = []
  for alpha in ALPHAS:
    try:
      point = conformal.split_conformal(probabilities, [outcomes], alpha=alpha)
    except refusal.Refusal:
      continue  # So few problems support no smaller share either.
    found.append(float(point.threshold))
  return found


def fit(train, *, setting, seed):
  """Fits the options on half of `train`, and calibrates on the other half."""
  del seed  # The fit is convex, and the halves are fixed.
  table = train.source.table
  is_fitted = np.arange(table.num_problems) % 2 == 0
  options = fit_options(table, train.metric, is_fitted, setting['strength'])
  inner = {
      asks_from(kappa)
      for kappa in kappas(options, table, train.metric, ~is_fitted)
  }
  # At alpha = 1 nothing need be covered; at 0 every set holds every route.
  knobs = (math.inf, *sorted(inner, reverse=True), -math.inf)
  family = families.Scored(options, train.features, train.num_routes - 1)
  return [entrants.AtKnobs(family, knobs)]


METHOD = router.Method(
    NAME, router.Needs(router.PEEK, log_probs=True), fit, SETTINGS
)
