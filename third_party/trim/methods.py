"""TRIM's policies as methods of the comparison.

The small model drafts each step, and a process reward model scores all steps so
far. A policy keeps the draft or has the large model rewrite it:
  threshold   rewrites if the draft's score r_t is below a threshold;
  aggregate   an MLP of r_t, the smallest earlier score, the draft's tokens, t;
  sequence    causal attention over the scores and tokens of all steps;
  POMDP       a plan over the belief that the answer is still right.
Those that learn by PPO are in `learned`.
Source: Kapoor et al. 2026, "TRIM: Hybrid Inference via Targeted Stepwise
Routing in Multi-Step Reasoning Tasks", arXiv 2601.10245.
"""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from routing import types
from routing.outcomes import table as table_lib
from routing.routers import informants
from routing.routers import live_thresholds
from routing.routers import router
from routing.routers import step_scores
from third_party.trim import pomdp

NUM_KNOBS = 11  # Quantiles of the scores on `train`, for the threshold.
NUM_SCORED = 500  # Problems of `train` whose steps are scored.
# Of the all-large cost, in right answers; from the cheapest to the dearest.
PRICES = (4.0, 2.0, 1.4, 1.0, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05, 0.0)
# How finely scores are seen, and how far counts are smoothed.
POMDP_SETTINGS = tuple(
    dict(num_bins=num_bins, prior=prior)
    for prior in (1.0, 0.1)
    for num_bins in (10, 5, 20)
)
_NEEDS = router.Needs(router.REDRAFT, step_score=True)


def fit_threshold(train, *, setting, seed):
  """Returns the thresholds on the score."""
  del setting, seed
  scorer = step_scores.scorer_of(train, 'TRIM')
  scores = step_scores.scored_steps(train, scorer, NUM_SCORED)
  large = train.num_routes - 1
  return [
      live_thresholds.Thresholds(
          step_scores.shortfall,
          live_thresholds.quantile_knobs(
              1.0 - np.concatenate(scores), NUM_KNOBS
          ),
          step_scores.fingerprint(scorer, large),
          informants.OfDraft(scorer),
          large,
          is_shared=True,
      )
  ]


def drafts(trace: types.Trace) -> tuple[list[float], list[bool]]:
  """Returns the score of each draft so far, and which were rewritten.

  Returns:
    The scores, the newest last; and one flag for each but the newest.
  """
  history = trace.history
  scores = [x.evidence[-1] for x in history]
  # In `redraft` each decision adds one step, so step i replaced or is draft i.
  return scores, [step.route > 0 for step in trace.steps[: len(history) - 1]]


@dataclasses.dataclass(frozen=True)
class Planned:
  """The family of plans that differ in the price of the large model.

  model: the process.
  informant: scores drafts.
  fingerprint: identifies the process and the scorer.
  route: the larger route.
  knobs: prices.
  """

  model: pomdp.Model
  informant: informants.OfDraft
  fingerprint: str
  route: int = 1
  knobs: tuple[float, ...] = PRICES

  def at(self, knob: float) -> PlannedRouter:
    """Returns the live router at a price."""
    return PlannedRouter(
        self.model,
        pomdp.plan(self.model, knob),
        knob,
        self.informant,
        self.route,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedRouter:
  """A live router that follows a plan.

  model: the process.
  plan: its values, from `pomdp.plan`.
  price: at which the plan was made.
  informant: scores drafts.
  route: the larger route.
  """

  model: pomdp.Model
  plan: np.ndarray
  price: float
  informant: informants.OfDraft
  route: int

  def decide(self, trace: types.Trace) -> types.Decision:
    """Rewrites the draft if that is worth more than keeping it."""
    score = pomdp.advantage(self.model, self.plan, self.price, *drafts(trace))
    return types.Decision(self.route if score > 0 else 0, score)


def completions(
    table: table_lib.OutcomeTable, num_problems: int
) -> list[np.ndarray]:
  """Returns what `pomdp.fit` calls `can_complete`, of the first problems.

  Args:
    table: of ladders under the view `peek`.
    num_problems: the number of problems.
  """
  right = table.ending_correct > 0.5
  taken_over = right[-1 - table.children[:, -1]]
  found = []
  for n in range(min(num_problems, table.num_problems)):
    rows = np.flatnonzero(table.problem == n)
    alone = right[-1 - table.children[rows[-1], 0]]
    found.append(np.append(taken_over[rows], alone))
  return found


def fit_pomdp(train, *, setting, seed):
  """Estimates the process on `train`, and returns the plans."""
  del seed  # Counts and plans have no randomness.
  scorer = step_scores.scorer_of(train, 'TRIM')
  table = train.source.table
  can_complete = completions(table, NUM_SCORED)
  scores = step_scores.scored_steps(train, scorer, NUM_SCORED)
  model = pomdp.fit(
      # After the last decision no draft is scored.
      [x[: len(y) - 1] for x, y in zip(scores, can_complete, strict=True)],
      can_complete,
      train.features.max_decisions,
      **setting,
  )
  name = hashlib.sha256(repr(model).encode()).hexdigest()[:16]
  large = train.num_routes - 1
  return [
      Planned(
          model,
          informants.OfDraft(scorer),
          f'TRIM, POMDP/{scorer.name}/{name}/{large}',
          large,
      )
  ]


THRESHOLD = router.Method('TRIM, threshold', _NEEDS, fit_threshold)
POMDP = router.Method(
    'TRIM, POMDP',
    _NEEDS,
    fit_pomdp,
    POMDP_SETTINGS,
    lowest='',
    highest='',
)
