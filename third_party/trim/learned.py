"""TRIM's two policies that learn by PPO, as methods of the comparison.

Both learn from answers of their own to problems of `train`, one policy for each
price of the large model's tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import hashlib

import jax
import numpy as np

from routing import costs
from routing import types
from routing.engines import engine as engine_lib
from routing.outcomes import live_answers
from routing.outcomes import refusal
from routing.outcomes import training_answers
from routing.routers import informants
from routing.routers import router
from routing.routers import step_scores
from third_party.trim import ppo

# Of the all-large cost, in right answers; one policy each, cheapest first.
PRICES = (1.0, 0.5, 0.25, 0.1, 0.03)
_HALF = 0.5  # The likelier action is taken.
_TOKENS = 5.0  # Divides the logarithm of numbers of tokens.


def _tokens(step: types.Step) -> float:
  """Returns the length of a step as a number of order 1."""
  return float(np.log1p(step.num_tokens)) / _TOKENS


def aggregate(trace: types.Trace, num_decisions: int) -> np.ndarray:
  """Returns the four aggregates, `[4]` float32.

  They are the draft's score, the smallest score of the accepted steps (1 before
  the first), the draft's tokens, and the step's index.
  """
  *before, newest = trace.evidence
  return np.array(
      [
          newest,
          min(before, default=1.0),
          _tokens(trace.draft),
          len(trace.steps) / num_decisions,
      ],
      np.float32,
  )


def element(trace: types.Trace, num_decisions: int) -> np.ndarray:
  """Returns one element of the sequence, `[3]` float32.

  It is the score and the tokens of the draft, and whether the large model wrote
  the step before. Attention sees the elements of all decisions so far.
  """
  del num_decisions  # The place in the sequence says how far the answer is.
  is_after_large = bool(trace.steps) and trace.steps[-1].route > 0
  return np.array(
      [trace.evidence[-1], _tokens(trace.draft), float(is_after_large)],
      np.float32,
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
  """A policy on the features of all decisions so far.

  learner: the networks.
  describe: the features of one decision.
  num_decisions: T, to which the features are padded.
  """

  learner: ppo.Learner
  describe: Callable[[types.Trace, int], np.ndarray]
  num_decisions: int

  def features(self, trace: types.Trace) -> np.ndarray:
    """Returns the features of all decisions so far, `[t + 1, F]`."""
    return np.stack(
        [self.describe(x, self.num_decisions) for x in trace.history]
    )

  def probability(self, trace: types.Trace) -> float:
    """Returns the probability of rewriting the draft."""
    seen = self.features(trace)
    padded = np.zeros((1, self.num_decisions, seen.shape[1]), np.float32)
    padded[0, : len(seen)] = seen
    return float(np.exp(self.learner.log_probs(padded)[0, len(seen) - 1, 1]))


@dataclasses.dataclass(eq=False)
class Explorer:
  """Draws the actions of one answer, and keeps what it saw, for learning.

  policy: gives the probability of rewriting.
  informant: scores drafts.
  route: the larger route.
  key: of the draws.
  last: the trace at the latest decision, which leads back to all.
  """

  policy: Policy
  informant: informants.OfDraft
  route: int
  key: tuple[object, ...]
  last: types.Trace | None = None

  def decide(self, trace: types.Trace) -> types.Decision:
    """Draws whether the large model rewrites the draft."""
    self.last = trace
    chance = self.policy.probability(trace)
    drawn = router.draw(*self.key, len(trace.steps))
    is_rewritten = drawn < chance
    return types.Decision(
        self.route if is_rewritten else 0,
        chance,
        chance if is_rewritten else 1.0 - chance,
    )


@dataclasses.dataclass(frozen=True)
class Family:
  """The policy that was trained at one price; it takes the likelier action.

  policy: the trained policy.
  informant: scores drafts.
  fingerprint: identifies the parameters and the scorer.
  route: the larger route.
  knobs: the probability from which it rewrites.
  """

  policy: Policy
  informant: informants.OfDraft
  fingerprint: str
  route: int
  knobs: tuple[float, ...] = (_HALF,)

  def at(self, knob: float) -> PolicyRouter:
    """Returns the live router that rewrites from a probability on."""
    return PolicyRouter(self.policy, knob, self.informant, self.route)


@dataclasses.dataclass(frozen=True)
class PolicyRouter:
  """A live router of `Family`; `threshold` is its knob."""

  policy: Policy
  threshold: float
  informant: informants.OfDraft
  route: int

  def decide(self, trace: types.Trace) -> types.Decision:
    """Rewrites the draft if that is likely enough."""
    score = self.policy.probability(trace)
    return types.Decision(self.route if score >= self.threshold else 0, score)


def episodes_of(
    policy: Policy,
    played: Sequence[tuple[Explorer, types.Trajectory]],
    cost_of: Callable[[types.Call], float],
) -> ppo.Episodes:
  """Returns answers as episodes.

  Args:
    policy: describes the decisions.
    played: B >= 1 answers, and the explorer of each.
    cost_of: prices a call, as a fraction of the mean all-large cost.
  """
  num = policy.num_decisions
  shape = len(played), num
  rows = [policy.features(explorer.last) for explorer, _ in played]
  features = np.zeros((*shape, rows[0].shape[1]), np.float32)
  mask, actions = np.zeros(shape, bool), np.zeros(shape, np.int32)
  paid = np.zeros(shape, np.float32)
  for row, (seen, (explorer, answer)) in enumerate(
      zip(rows, played, strict=True)
  ):
    features[row, : len(seen)] = seen
    mask[row, : len(seen)] = True
    rewritten = [x.route > 0 for x in answer.decisions]
    actions[row, : len(seen)] = rewritten
    # The large model writes once for each decision that chose it.
    paid[row, np.flatnonzero(rewritten)] = [
        cost_of(x)
        for x in answer.calls
        if x.route == explorer.route and x.kind in ('step', 'hand_over')
    ]
  correct = np.array([x.is_correct for _, x in played], np.float32)
  return ppo.Episodes(features, mask, actions, paid, correct)


async def _play(
    explorer_of: Callable[[types.Problem], Explorer],
    answering: live_answers.Answering,
    engines: Sequence[engine_lib.Engine],
    problems: Sequence[types.Problem],
) -> list[tuple[Explorer, types.Trajectory]]:
  """Returns explorers with their answers, without problems refused.

  Args:
    explorer_of: makes the explorer of a problem. Each has one of its own: two
      problems may have the same question.
    answering, engines: see `live_answers`.
    problems: the problems.
  """

  async def play(problem):
    explorer = explorer_of(problem)
    asked = live_answers.Asked(explorer, 'explorer', 0.0, router.REDRAFT)
    return explorer, await asked.answer(answering, problem, engines)

  found = await training_answers.of_each(problems, play, answering)
  return list(found.values())


async def _train(
    train: router.Sample,
    informant: informants.OfDraft,
    describe: Callable[[types.Trace, int], np.ndarray],
    settings: ppo.Settings,
    prices: Sequence[float],
    seed: int,
) -> list[Policy]:
  """Returns one trained policy for each price."""
  answering, large = train.answering, train.num_routes - 1
  metric, spec = train.metric, train.accounting.specs[large]
  unit = float(np.mean(train.source.table.large_cost[metric]))
  cost_of = lambda call: float(costs.call_cost(call, spec, metric)) / unit
  problems = train.live_problems
  num = train.features.max_decisions
  policies = []
  engines = answering.make_engines()
  try:
    for place, price in enumerate(prices):
      size = len(describe(_BLANK, num))
      policy = Policy(ppo.Learner(settings, size, seed), describe, num)
      rng = np.random.default_rng((seed, place))
      for turn in range(settings.rounds):
        chosen = rng.permutation(len(problems))[: settings.problems]
        key = seed, place, turn
        played = await _play(
            lambda x, policy=policy, key=key: Explorer(
                policy, informant, large, (*key, x.id)
            ),
            answering,
            engines,
            [problems[i] for i in chosen],
        )
        if not played:
          raise ValueError(
              f'All {len(chosen)} problems of a round were refused, so '
              'nothing can be learned from it.'
          )
        policy.learner.update(episodes_of(policy, played, cost_of), price)
      policies.append(policy)
  finally:
    for engine in engines:
      await engine.close()
  return policies


# A trace whose features have the right number.
_BLANK = types.Trace(
    '',
    (),
    types.Step(
        '', (), np.zeros(0), np.zeros((0, 0)), False, types.Usage(0, 0, 0, 0)
    ),
    evidence=(1.0,),
)


# Fields of `ppo.Settings` that are tried; each trial learns from 5,760 answers
# of its own.
TRIED = (
    dict(),
    dict(learning_rate=1e-3),
    dict(learning_rate=1e-2),
    dict(entropy=0.0),
    dict(entropy=0.03),
    dict(clip=0.1),
)


def method(
    name: str,
    describe: Callable[[types.Trace, int], np.ndarray],
    settings: ppo.Settings,
    prices: Sequence[float] = PRICES,
) -> router.Method:
  """Returns a policy that learns by PPO as a method.

  Args:
    name: as in tables.
    describe: the features of one decision.
    settings: how it learns, before a trial changes fields.
    prices: of the large model, one policy each.
  """

  def fit(train, *, setting, seed):
    made = dataclasses.replace(settings, **setting)
    scorer = step_scores.scorer_of(train, name)
    if train.answering is None:
      raise refusal.Refusal(
          f'{name} learns from answers of its own, but no model can be asked.',
          None,
          note='',
      )
    informant, large = informants.OfDraft(scorer), train.num_routes - 1
    policies = asyncio.run(
        _train(train, informant, describe, made, prices, seed)
    )
    found = []
    for price, policy in zip(prices, policies, strict=True):
      leaves = jax.tree.leaves(policy.learner.params['policy'])
      content = b''.join(np.asarray(x).tobytes() for x in leaves)
      digest = hashlib.sha256(content).hexdigest()[:16]
      found.append(
          Family(
              policy,
              informant,
              f'{name}/{price:g}/{scorer.name}/{digest}/{large}',
              large,
          )
      )
    return found

  return router.Method(
      name,
      router.Needs(router.REDRAFT, step_score=True),
      fit,
      TRIED,
      lowest='',
      highest='',
  )


AGGREGATE = method('TRIM, aggregate', aggregate, ppo.Settings())
SEQUENCE = method(
    'TRIM, sequence', element, ppo.Settings('attention', hidden=(32,))
)
