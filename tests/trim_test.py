"""TRIM: its POMDP and what it learns by PPO, on answers worked by hand."""

import asyncio
import dataclasses
import math

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import types
from routing.routers import router as router_lib
from tests import small_arena
from third_party.trim import learned
from third_party.trim import methods as trim
from third_party.trim import pomdp
from third_party.trim import ppo


def _sample(method, **fields):
  protocol = router_lib.PEEK if method.needs.draft else router_lib.COMMIT
  return dataclasses.replace(small_arena.sample('train', protocol), **fields)


_MODEL = pomdp.Model(
    start=0.9,
    right=0.8,
    saved=0.1,
    ends=(0.2, 1.0),
    law=((0.1,) * 5 + (0.1,) * 5, (0.18,) * 5 + (0.02,) * 5, (0.1,) * 10),
    step_cost=0.5,
)


class PomdpTest(parameterized.TestCase):

  def test_the_belief_after_a_score_by_hand(self):
    # p = .9: right .72, wrong .18, lost .1. A low score has law .1, .18, .1.
    joint = _MODEL.beliefs(np.float64(0.9), pomdp.bin_of(0.0))
    np.testing.assert_allclose(joint, [0.072, 0.0324, 0.01])
    kept, rewritten = _MODEL.after(joint / joint.sum())
    self.assertAlmostEqual(kept, (0.072 + 0.1 * 0.01) / 0.1144)
    self.assertAlmostEqual(rewritten, 0.1044 / 0.1144)

  @parameterized.parameters(0.0, 0.05, 0.2, 1.0)
  def test_the_plan_is_that_of_an_exhaustive_search(self, price):
    def value(p, depth):
      """Returns V_depth(p), without a grid."""
      total = 0.0
      for seen in range(pomdp.NUM_BINS):
        joint = _MODEL.beliefs(np.float64(p), np.array(seen))
        after = _MODEL.after(joint / joint.sum())
        end = _MODEL.ends[depth]
        both = [
            end * x
            + ((1 - end) * value(x, depth + 1) if depth == 0 else 0.0)
            - price * _MODEL.step_cost * is_rewritten
            for is_rewritten, x in enumerate(after)
        ]
        total += joint.sum() * max(both)
      return total

    plan = pomdp.plan(_MODEL, price)
    for place in (0, 40, 180, 200):
      self.assertAlmostEqual(plan[0, place], value(place / 200, 0), places=4)

  def test_the_action_follows_the_scores_and_the_price(self):
    advantage = lambda price, scores, rewritten=(): pomdp.advantage(
        _MODEL, pomdp.plan(_MODEL, price), price, scores, rewritten
    )
    # Rewriting costs nothing and may save; at a high price it never pays.
    self.assertGreater(advantage(0.0, [0.0]), 0)
    self.assertLess(advantage(4.0, [0.0]), 0)
    # The lower the score, the more it pays.
    self.assertGreater(advantage(0.2, [0.0]), advantage(0.2, [0.9]))
    # After a bad draft was kept, less is left to lose than after it was
    # rewritten.
    self.assertLess(
        advantage(0.1, [0.0, 0.0], [False]), advantage(0.1, [0.0, 0.0], [True])
    )

  def test_counts_of_ladders_by_hand(self):
    # Two answers of two and one steps. The first: both prefixes can be
    # completed, the second draft is wrong. The second: lost at once.
    ok = [np.array([True, True, False]), np.array([False, False])]
    model = pomdp.fit([np.array([0.95, 0.15]), np.array([0.05])], ok, 3)
    self.assertEqual(model.start, 0.5)
    # Of prefixes that can be completed one draft was right, one wrong; one
    # more of each. Of the lost one, none saved: 1 of 3.
    self.assertAlmostEqual(model.right, 0.5)
    self.assertAlmostEqual(model.saved, 1 / 3)
    # One of two answers ended at step 0, and the other at step 1.
    self.assertEqual(model.ends, (0.5, 1.0, 1.0))
    self.assertAlmostEqual(model.step_cost, 1 / 1.5)
    # State 0 was seen once, in the last bin; state 1 once, in bin 1.
    self.assertAlmostEqual(model.law[0][9], 2 / 11)
    self.assertAlmostEqual(model.law[1][1], 2 / 11)
    self.assertAlmostEqual(model.law[2][0], 2 / 11)

  def test_what_can_be_completed_is_read_from_ladders(self):
    table = small_arena.sample('train', router_lib.PEEK).source.table
    found = trim.completions(table, 40)
    for ladder, ok in zip(small_arena.ladders('train'), found, strict=True):
      expected = [x.is_correct for x in ladder.completions]
      self.assertEqual(ok.tolist(), [*expected, ladder.is_correct])

  def test_drafts_that_were_rewritten_are_known_from_the_trace(self):
    usage = [types.Usage(m, 0, 0, 0) for m in (0, 1)]
    none = np.zeros(0), np.zeros((0, 0))
    steps = [types.Step('x', (1,), *none, False, usage[m]) for m in (0, 1, 0)]
    trace = None
    for count, score in enumerate((0.9, 0.2, 0.7)):
      trace = types.Trace(
          'q', tuple(steps[:count]), steps[0], 0.0, trace, (0.5, score)
      )
    self.assertEqual(trim.drafts(trace), ([0.9, 0.2, 0.7], [False, True]))


class PpoTest(absltest.TestCase):

  def test_returns_by_hand(self):
    episodes = ppo.Episodes(
        features=np.zeros((2, 3, 1), np.float32),
        mask=np.array([[True, True, True], [True, False, False]]),
        actions=np.array([[0, 1, 1], [0, 0, 0]], np.int32),
        costs=np.array([[0, 0.2, 0.3], [0, 9, 9]], np.float32),
        correct=np.array([1, 0], np.float32),
    )
    np.testing.assert_allclose(
        episodes.returns(0.5), [[0.75, 0.75, 0.85], [0, 0, 0]], rtol=1e-6
    )

  def test_it_learns_to_rewrite_what_scores_low(self):
    # One decision each. An answer is right if the score is high or the step is
    # rewritten, which costs .3.
    rng = np.random.default_rng(0)
    settings = ppo.Settings(hidden=(8,), learning_rate=0.03)
    learner = ppo.Learner(settings, 1, 0)
    scores = np.tile(np.float32([0, 1]), 64)[:, None, None]
    for _ in range(15):
      chance = np.exp(learner.log_probs(scores))[..., 1]
      actions = (rng.random(chance.shape) < chance).astype(np.int32)
      episodes = ppo.Episodes(
          features=scores,
          mask=np.ones(chance.shape, bool),
          actions=actions,
          costs=0.3 * actions.astype(np.float32),
          correct=np.maximum(scores[:, 0, 0], actions[:, 0]),
      )
      learner.update(episodes, 1.0)
    low, high = np.exp(learner.log_probs(scores[:2]))[:, 0, 1]
    self.assertGreater(low, 0.8)
    self.assertLess(high, 0.2)

  def test_the_four_aggregates_by_hand(self):
    draft = types.Step(
        'x',
        (1,) * 7,
        np.zeros(7),
        np.zeros((7, 0)),
        False,
        types.Usage(0, 0, 0, 7),
    )
    trace = types.Trace('q', (draft, draft), draft, evidence=(0.4, 0.9, 0.6))
    np.testing.assert_allclose(
        learned.aggregate(trace, 8), [0.6, 0.4, math.log(8) / 5, 2 / 8]
    )
    first = types.Trace('q', (), draft, evidence=(0.6,))
    self.assertEqual(learned.aggregate(first, 8)[1], 1.0)

  def test_the_elements_of_a_sequence_by_hand(self):
    def step(route, num_tokens):
      usage = types.Usage(route, 0, 0, num_tokens)
      shape = np.zeros(num_tokens), np.zeros((num_tokens, 0))
      return types.Step('x', (1,) * num_tokens, *shape, False, usage)

    # The first draft is rewritten, so the second decision follows a step of the
    # large model; its draft is kept.
    small, large = step(0, 7), step(1, 2)
    first = types.Trace('q', (), small, evidence=(0.4,))
    second = types.Trace(
        'q', (large,), step(0, 1), previous=first, evidence=(0.3, 0.9)
    )
    third = types.Trace(
        'q',
        (large, step(0, 1)),
        step(0, 3),
        previous=second,
        evidence=(0.3, 0.9, 0.6),
    )
    policy = learned.Policy(None, learned.element, 8)
    np.testing.assert_allclose(
        policy.features(third),
        [
            [0.4, math.log(8) / 5, 0],
            [0.9, math.log(2) / 5, 1],
            [0.6, math.log(4) / 5, 0],
        ],
        rtol=1e-6,
    )

  def test_each_rewritten_step_is_charged_to_its_decision(self):
    sample = small_arena.sample('train', router_lib.PEEK)
    describe = lambda trace, num: np.array([len(trace.steps)], np.float32)
    policy = learned.Policy(None, describe, 8)

    class Alternating:
      """Rewrites every other draft, of every other problem the even ones."""

      last, route = None, 1

      def __init__(self, problem):
        self.parity = problems.index(problem) % 2

      def decide(self, trace):
        self.last = trace
        is_rewritten = (len(trace.steps) + self.parity) % 2
        return types.Decision(is_rewritten, 0.5)

    answering = small_arena.answering()
    problems = [*sample.source.problems[:5]]
    # The same question again, which another explorer answers in another way.
    first = problems[0]
    problems.append(types.Problem('again', first.question, first.answer))
    played = asyncio.run(
        learned._play(
            Alternating, answering, small_arena.make_engines(), problems
        )
    )
    found = learned.episodes_of(
        policy, played, lambda call: float(call.written)
    )
    for row, (_, answer) in enumerate(played):
      num = len(answer.decisions)
      self.assertEqual(
          found.mask[row].tolist(), [True] * num + [False] * (8 - num)
      )
      self.assertEqual(found.features[row, :num, 0].tolist(), list(range(num)))
      written = [x.usage.written if x.route else 0 for x in answer.steps]
      self.assertEqual(found.costs[row, :num].tolist(), written)


if __name__ == '__main__':
  absltest.main()
