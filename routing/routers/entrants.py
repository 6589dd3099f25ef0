"""Our own routers, and the plain rules, as methods of a comparison.

Rules that look at no draft run in `commit`: in `peek` they would pay for drafts
that they never read.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from routing import protocols
from routing import types
from routing.outcomes import table as table_lib
from routing.routers import families
from routing.routers import fixed
from routing.routers import learned
from routing.routers import learners
from routing.routers import router as router_lib

# Rates at which the random routers hand over. They are denser at small rates:
# the probability of ever handing over, 1 - (1 - rate)^T, rises fastest there.
RATES = (0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1)
# Thresholds of a policy that answers live, besides the two extremes.
NUM_THRESHOLDS = 10
_OF_DRAFTS = router_lib.Needs(router_lib.PEEK, log_probs=True)
_OF_NOTHING = router_lib.Needs(router_lib.COMMIT)

# Returns the trained router of a seed and a setting.
Load = Callable[[int, Mapping[str, Any]], learned.LearnedRouter]


def _shipped(seed: int, setting: Mapping[str, Any]) -> learned.LearnedRouter:
  """Returns the router of the package, whatever seed and setting."""
  del seed, setting
  return learned.load('shipped')


def policy(
    load: Load = _shipped, settings: Sequence[Mapping[str, Any]] = ({},)
) -> router_lib.Method:
  """Returns the learned policy as a method.

  Args:
    load: returns the trained router of a seed and a setting. The stages of a
      run train it: from `train`, stopping early on `select`, which every method
      may use to choose among its trials.
    settings: see `Method.settings`.
  """

  def fit(train, *, setting, seed):
    del train  # `load` has trained on the same records, or does so now.
    return families.policies(load(seed, setting))

  return router_lib.Method('policy', _OF_DRAFTS, fit, settings)


POLICY = policy()


def trained(
    name: str,
    protocol: protocols.Protocol,
    routers: Mapping[int, learned.LearnedRouter],
) -> router_lib.Method:
  """Returns policies that were trained in a run of their own as a method.

  Its `fit` raises ValueError for a policy of other models, another cost metric
  or other features than the comparison's.

  Args:
    name: of the method.
    protocol: that they were trained in.
    routers: training seed -> the router.
  """

  def fit(train, *, setting, seed):
    del setting
    router = routers[seed]
    card = router.card
    _check_same(
        'models', card.specs, train.accounting.specs[: train.num_routes]
    )
    _check_same('cost metric', card.metric, train.metric)
    _check_same('features', card.features, train.features)
    found = families.policies(router)
    if protocol.name == 'escalate':
      return found
    # Ladders do not say what such a router does, but which scores are usual.
    return [
        AtKnobs(x, tuple(train.source.grid(x, NUM_THRESHOLDS)[::-1].tolist()))
        for x in found
    ]

  def _check_same(what: str, theirs: Any, ours: Any) -> None:
    if theirs != ours:
      raise ValueError(
          f'{name} was trained with other {what} than the comparison has: '
          f'{theirs}, here {ours}.'
      )

  hashes = [routers[seed].checkpoint_hash for seed in sorted(routers)]
  return router_lib.Method(
      name,
      router_lib.Needs(protocol, log_probs=True),
      fit,
      (dict(checkpoints=hashes),),  # Part of what an entry depends on.
  )


def learner(name: str) -> router_lib.Method:
  """Returns a supervised learner of `learners.LEARNERS` as a method."""
  made = learners.LEARNERS[name]

  def fit(train, *, setting, seed):
    return made.fit(
        train.source.table,
        metric=train.metric,
        features=train.features,
        setting=setting,
        seed=seed,
    )

  return router_lib.Method(
      name, _OF_DRAFTS, fit, made.settings, fits_in_parallel=True
  )


FITTED_Q_TREES = learner('fitted Q, trees')
FITTED_Q_LINEAR = learner('fitted Q, linear')
BOOSTING = learner('boosting')


def confidence(name: str, statistic: str) -> router_lib.Method:
  """Returns the threshold on one statistic of a draft's log-probabilities."""

  def fit(train, *, setting, seed):
    del setting, seed
    return [families.Uncertainty(train.num_routes - 1, statistic)]

  return router_lib.Method(name, _OF_DRAFTS, fit)


CONFIDENCE = confidence('confidence', 'minimum')
CONFIDENCE_MEAN = confidence('confidence, mean', 'mean')
CONFIDENCE_FIRST = confidence('confidence, first token', 'first')


@dataclasses.dataclass(frozen=True)
class AtKnobs:
  """A family that is tried at given values of its knob only.

  family: a family of thresholds.
  knobs: the values, from the cheapest to the dearest.
  """

  family: Any
  knobs: tuple[float, ...]

  @property
  def fingerprint(self) -> str:
    """That of the family: answers do not depend on which values are tried."""
    return self.family.fingerprint

  def score(self, decisions: table_lib.Decisions) -> families.Scores:
    """See `sources.Family.score`."""
    return self.family.score(decisions)

  def at(self, knob: float) -> router_lib.Router:
    """Returns the live router at one value."""
    return self.family.at(knob)


@dataclasses.dataclass(frozen=True)
class Random:
  """Random routers; the threshold on 1 - draw is 1 - rate.

  seed: seed of the draws.
  per_question: True = one draw for each question, so that the router hands over
    at step 0 or never; False = one draw at each step.
  route: the larger route that takes over.
  """

  seed: int
  per_question: bool
  route: int = 1

  def __post_init__(self):
    fixed.check_route(self.route)

  @property
  def fingerprint(self) -> str:
    """Identifies the draws."""
    what = 'question' if self.per_question else 'step'
    return f'random per {what}/{self.seed}/{self.route}'

  def draw(self, question: str, step: int) -> float:
    """Returns the score of a decision, in (0, 1]."""
    where = 'question' if self.per_question else step
    return 1.0 - router_lib.draw(self.seed, where, question)

  def score(self, decisions: table_lib.Decisions) -> families.Scores:
    """Returns `[M]` scores, and the same route everywhere."""
    if decisions.questions is None:
      raise ValueError('A random router needs `Decisions.questions`.')
    owners = decisions.problem
    scores = np.array(
        [
            self.draw(decisions.questions[owner], int(depth))
            for owner, depth in zip(owners, decisions.depth, strict=True)
        ]
    )
    return scores, np.full(len(scores), self.route)

  def at(self, knob: float) -> 'DrawRouter':
    """Returns the live router at a threshold, 1 - rate."""
    return DrawRouter(self, knob)


@dataclasses.dataclass(frozen=True)
class DrawRouter:
  """A live router of `Random`.

  family: gives the draws.
  threshold: 1 - rate.
  """

  family: Random
  threshold: float

  def decide(self, trace: types.Trace) -> types.Decision:
    """Hands over where 1 - draw reaches the threshold."""
    score = self.family.draw(trace.question, len(trace.steps))
    is_handover = score >= self.threshold
    return types.Decision(self.family.route if is_handover else 0, score)


def _random(train: router_lib.Sample, seed: int, per_question: bool) -> AtKnobs:
  """Returns the random routers at `RATES`."""
  # No score reaches a threshold above 1, which is rate 0. At rate 1 the
  # threshold is 0, which every score reaches.
  knobs = tuple(1.0 - rate if rate else math.inf for rate in RATES)
  return AtKnobs(Random(seed, per_question, train.num_routes - 1), knobs)


def _fit_random(per_question: bool) -> router_lib.Fit:
  def fit(train, *, setting, seed):
    del setting
    return [_random(train, seed, per_question)]

  return fit


RANDOM_PER_QUESTION = router_lib.Method(
    'random per question', _OF_NOTHING, _fit_random(True), forms_hull=False
)
# The hull of random steps would be random questions, a better method.
RANDOM_PER_STEP = router_lib.Method(
    'random per step', _OF_NOTHING, _fit_random(False), forms_hull=False
)


def _fit_fixed_step(train, *, setting, seed):
  del setting, seed
  return [families.FixedStep(train.num_routes - 1)]


FIXED_STEP = router_lib.Method('fixed step', _OF_NOTHING, _fit_fixed_step)


def _fit_alone(knob: float) -> router_lib.Fit:
  def fit(train, *, setting, seed):
    del setting, seed
    return [AtKnobs(families.FixedStep(train.num_routes - 1), (knob,))]

  return fit


SMALL = router_lib.Method(
    'small alone', _OF_NOTHING, _fit_alone(math.inf), highest='small'
)
LARGE = router_lib.Method(
    'large alone', _OF_NOTHING, _fit_alone(-math.inf), lowest='large'
)


def _fit_best_constant(train, *, setting, seed):
  """Returns every choice that is the same for all questions and texts.

  One model for all, one hand-over step for all, one rate for all; `select`
  decides which of them a budget gets.
  """
  del setting
  steps = [families.FixedStep(m) for m in range(1, train.num_routes)]
  return [*steps, *(_random(train, seed, each) for each in (True, False))]


BEST_CONSTANT = router_lib.Method(
    'best constant', _OF_NOTHING, _fit_best_constant
)
