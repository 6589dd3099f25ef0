"""The rules of step-level systems of others, on answers worked by hand."""

import asyncio
import dataclasses
import itertools
import math
import os

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import costs
from routing import types
from routing.engines import scripted
from routing.engines import step_scorer
from routing.evaluation import harness
from routing.grading import equivalence
from routing.outcomes import refusal
from routing.rollout import all_replies
from routing.rollout import driver
from routing.rollout import step_requests
from routing.rollout import trees
from routing.routers import informants
from routing.routers import router as router_lib
from routing.tasks import prompt as prompt_lib
from tests import small_arena
from third_party.glimprouter import methods as glimprouter
from third_party.rsd import methods as rsd
from third_party.specreason import methods as specreason
from third_party.steer import methods as steer
from third_party.steer import mixture

_SPECS = small_arena.ACCOUNTING.specs
_SMALL = 'a\n\nb\n\n#### 4'
_LARGE = 'A\n\nB\n\n#### 3'


class Rewards:
  """A step scorer with a given score for each text of a step."""

  def __init__(self, **scores):
    self.scores, self.batches = scores, []

  def score(self, answers):
    self.batches.append(len(answers))
    return [self._score(*answer) for answer in answers]

  def _score(self, question, steps):
    scores = [self.scores[x.strip(' #\n')] for x in steps]
    read = np.array([len(x) for x in steps])
    read[0] += len(question)
    return step_scorer.StepScores(np.array(scores), read, 0.0 * read)


def _engines(small=_SMALL, large=_LARGE, **fields):
  return [
      scripted.ScriptedEngine('s', 0, scripted.recite(small), **fields),
      scripted.ScriptedEngine('l', 1, scripted.recite(large), **fields),
  ]


def _answer(router, protocol, engines=None):
  return asyncio.run(
      driver.answer(
          types.Problem('p', 'q', '3'),
          router,
          engines or _engines(),
          protocol=protocol,
          accounting=costs.Accounting(_SPECS, 'price', reference=1e-6),
          grade=equivalence.exact,
          seed=0,
          sampling=step_requests.Sampling(max_decisions=4),
      )
  )


def _fit(method, setting=None, **fields):
  """Returns the first family of a method on the small problems."""
  protocol = router_lib.PEEK if method.needs.draft else router_lib.COMMIT
  sample = small_arena.sample('train', protocol)
  sample = dataclasses.replace(sample, **fields)
  chosen = method.settings[0] if setting is None else setting
  return method.fit(sample, setting=chosen, seed=0)[0]


def _calls(answer):
  return [(x.kind, x.route, x.read, x.cached, x.written) for x in answer.calls]


class RsdTest(absltest.TestCase):

  def test_a_draft_is_kept_from_the_reward_on(self):
    rewards = Rewards(a=0.7, b=0.69, B=0.0, **{'4': 0.9})
    family = _fit(
        rsd.METHOD,
        scorer=small_arena.SCORER,
    )
    published = np.nextafter(1 - rsd.DELTA, 1)
    self.assertIn(published, family.knobs)
    scorer = informants.Scorer('rewards', rewards, 3)
    router = dataclasses.replace(
        family, informant=informants.OfDraft(scorer)
    ).at(published)
    got = _answer(router, router_lib.REDRAFT)
    # a has .7 and stays; b has less and is rewritten; then the small model
    # drafts again.
    self.assertEqual(got.text, 'a\n\nB\n\n#### 4')
    self.assertEqual([x.text for x in got.discarded], ['b\n\n'])
    self.assertEqual(
        _calls(got),
        [
            ('draft', 0, 1, 0, 3),
            ('probe', 3, 4, 0, 0),  # Reads q and a.
            ('draft', 0, 0, 4, 3),
            ('probe', 3, 3, 4, 0),  # Reads b; has q and a in its cache.
            ('step', 1, 4, 0, 3),
            ('draft', 0, 3, 4, 6),
            # Reads B, which replaced b, and the last draft.
            ('probe', 3, 9, 4, 0),
        ],
    )

  def test_without_a_scorer_it_is_left_out(self):
    with self.assertRaisesRegex(refusal.Refusal, 'RSD needs a step scorer'):
      _fit(rsd.METHOD, scorer=None)


class ReaderTest(absltest.TestCase):

  def _read_together(self, scorer, answers):
    async def all_of_them():
      return await asyncio.gather(
          *(scorer.read(*x, 0) for x in answers), return_exceptions=True
      )

    return asyncio.run(all_of_them())

  def test_those_who_wait_share_a_batch_and_nothing_is_scored_twice(self):
    rewards = Rewards(a=0.5, b=0.25)
    scorer = informants.Scorer('rewards', rewards, 3)
    answers = [('q', ('a',)), ('q', ('a', 'b')), ('q', ('a',))]
    got = self._read_together(scorer, answers)
    self.assertEqual([x.scores for x in got], [(0.5,), (0.5, 0.25), (0.5,)])
    self.assertEqual(rewards.batches, [2])
    # Also in another event loop.
    self._read_together(scorer, [*answers, ('q', ('b',))])
    self.assertEqual(rewards.batches, [2, 1])

  def test_an_error_reaches_all_who_wait_and_the_next_are_served(self):
    scorer = informants.Scorer('rewards', Rewards(a=0.5), 3)
    got = self._read_together(scorer, [('q', ('a',)), ('q', ('z',))])
    self.assertEqual([type(x) for x in got], [KeyError, KeyError])
    (again,) = self._read_together(scorer, [('q', ('a',))])
    self.assertEqual(again.scores, (0.5,))


class GlimpRouterTest(parameterized.TestCase):

  def test_entropy_of_the_first_token_by_hand(self):
    # Log-probabilities -0.5 and -1.5 of the two likeliest tokens; the rest of
    # the vocabulary is one outcome.
    p, q = math.exp(-0.5), math.exp(-1.5)
    rest = 1 - p - q
    expected = 0.5 * p + 1.5 * q - rest * math.log(rest)
    router = _fit(glimprouter.METHOD).at(expected - 1e-6)
    got = _answer(router, router_lib.SWITCH)
    self.assertAlmostEqual(got.decisions[0].score, expected, places=6)
    self.assertEqual(got.text, _LARGE)
    router = _fit(glimprouter.METHOD).at(expected + 1e-6)
    self.assertEqual(
        _answer(router, router_lib.SWITCH).text, 'a\n\nb\n\n#### 3'
    )

  @parameterized.parameters(math.inf, 1.0, 0.0, -math.inf)
  def test_the_final_answer_is_the_large_models(self, knob):
    got = _answer(_fit(glimprouter.METHOD).at(knob), router_lib.SWITCH)
    self.assertEqual(got.steps[-1].route, 1)
    self.assertEqual(got.steps[-1].text, '#### 3')

  def test_the_small_models_answer_is_discarded_and_charged(self):
    got = _answer(_fit(glimprouter.METHOD).at(math.inf), router_lib.SWITCH)
    self.assertEqual([x.text for x in got.discarded], ['#### 4'])
    self.assertEqual(
        _calls(got),
        [
            ('probe', 0, 1, 0, 1),
            # The small model writes its first token again.
            ('step', 0, 0, 1, 3),
            ('probe', 0, 0, 4, 1),
            ('step', 0, 0, 4, 3),
            ('probe', 0, 0, 7, 1),
            ('step', 0, 0, 7, 6),
            ('hand_over', 1, 7, 0, 6),
        ],
    )

  def test_without_top_log_probs_it_says_so(self):
    router = _fit(glimprouter.METHOD).at(1.0)
    with self.assertRaisesRegex(ValueError, 'needs top log-probabilities'):
      _answer(router, router_lib.SWITCH, _engines(num_top=0))


class SteerTest(absltest.TestCase):

  def test_posterior_by_hand(self):
    fitted = mixture.Mixture((0.25, 0.75), (-2.0, -0.5), (1.0, 0.5))
    # At -1 both are one deviation off, so exp(-1/2) cancels:
    # .75 / .5 : .25 / 1 = 6 : 1.
    self.assertAlmostEqual(float(fitted.posterior(-1.0)), 6 / 7)
    # Beyond the means it stays as it is at them.
    self.assertEqual(fitted.posterior(0.0), fitted.posterior(-0.5))
    self.assertEqual(fitted.posterior(-9.0), fitted.posterior(-2.0))

  def test_em_finds_two_groups(self):
    rng = np.random.default_rng(0)
    low, high = rng.normal(-2, 0.2, 3_000), rng.normal(-0.3, 0.1, 7_000)
    found = mixture.fit(np.concatenate([low, high]))
    np.testing.assert_allclose(found.weights, (0.3, 0.7), atol=0.01)
    np.testing.assert_allclose(found.means, (-2, -0.3), atol=0.02)
    np.testing.assert_allclose(found.deviations, (0.2, 0.1), atol=0.01)

  def test_after_an_unsure_step_the_large_model_writes_one(self):
    engines = _engines(
        small='a\n\nb\n\nc\n\n#### 4', large='A\n\nB\n\nC\n\n#### 3'
    )
    # The small model is unsure of each step with an a in it, and the large one
    # of all that it writes, which the rule must not look at.
    engines[0].log_probs = lambda text: np.full(
        len(text), -2.0 if 'a' in text else -0.5, np.float32
    )
    engines[1].log_probs = lambda text: np.full(len(text), -2.0, np.float32)
    family = _fit(steer.METHOD)
    fitted = mixture.Mixture((0.5, 0.5), (-2.0, -0.5), (0.3, 0.3))
    measure = dataclasses.replace(family.measure, fitted=fitted)
    router = dataclasses.replace(family, measure=measure).at(0.5)
    got = _answer(router, router_lib.SWITCH, engines)
    # a is unsure, so the large model writes the second step. Of this one the
    # small model has no confidence, and goes on.
    self.assertEqual([x.route for x in got.steps], [0, 1, 0, 0])
    self.assertEqual(got.text, 'a\n\nB\n\nc\n\n#### 4')
    np.testing.assert_allclose(
        [x.score for x in got.decisions], [0, 1, 0, 0], atol=1e-5
    )

  def test_live_answers_are_those_of_reply_trees(self):
    # Its confidence follows from the trace, so a tree of all replies gives the
    # answer of every threshold without a model.
    family = _fit(steer.METHOD)
    problems = small_arena.make().alone['test'].problems
    found = {}
    asyncio.run(
        all_replies.collect_replies(
            problems,
            small_arena.make_engines(),
            found.__setitem__,
            sampling=small_arena.SAMPLING,
            concurrency=4,
        )
    )
    builder = trees.TreeBuilder(
        router_lib.SWITCH, small_arena.SAMPLING, equivalence.exact
    )
    knobs = np.array([math.inf, 0.9, 0.5, 0.1, -math.inf])
    live = harness._live(
        steer.METHOD, family, knobs, small_arena.make(), 'test', 0
    )
    specs = small_arena.ACCOUNTING.specs
    for n, problem in enumerate(problems):
      tree = builder.build(found[n])
      large = small_arena.make().alone['test'].large_cost['price'][n]
      for k, knob in enumerate(knobs):
        node, router = tree.root, family.at(knob)
        while isinstance(node, trees.Node):
          trace = types.Trace(problem.question, node.steps)
          node = node.branches[router.decide(trace).route]
        self.assertEqual(live.correct[k, n], node.is_correct)
        self.assertAlmostEqual(
            live.cost['price'][k, n],
            costs.total_cost(node.calls, specs, 'price') / large,
        )
    # The thresholds differ in what they cost.
    self.assertLen(set(live.cost['price'].mean(axis=1)), len(knobs))

  def test_a_probe_gives_the_confidence_of_the_next_step(self):
    family = _fit(steer.METHOD, dict(evidence='probe'))
    self.assertIsInstance(family.informant, informants.FirstToken)
    got = _answer(family.at(0.5), router_lib.SWITCH)
    expected = 1 - family.measure.fitted.posterior(-0.5)
    np.testing.assert_allclose([x.score for x in got.decisions], expected)


class SpecReasonTest(parameterized.TestCase):

  def _judged(self, **digits):
    """Returns engines whose large model gives these digits in words."""
    engines = _engines()
    recite = engines[1].script

    def script(request):
      if not isinstance(request.question, prompt_lib.Plain):
        return recite(request)
      solution = request.question.split('Solution:\n')[1]
      *_, draft, _ = solution.split('\n\n')
      return str(digits[draft.strip(' #')])

    engines[1].script = script
    return engines

  def test_a_draft_is_kept_from_seven_on(self):
    router = _fit(specreason.METHOD).at(
        specreason.keeps_from(specreason.PUBLISHED)
    )
    engines = self._judged(a=7, b=6, **{'4': 9})
    got = _answer(router, router_lib.REDRAFT, engines)
    self.assertEqual(got.text, 'a\n\nB\n\n#### 4')
    self.assertEqual([x.score for x in got.decisions], [2, 3, 0])
    # One token is written for each judgement, and its whole prompt is read or
    # found in the cache of the judgement before: all but its end.
    probes = [x for x in got.calls if x.kind == 'probe']
    self.assertEqual([x.written for x in probes], [1, 1, 1])
    asked = [
        x.question
        for x in engines[1].requests
        if isinstance(x.question, prompt_lib.Plain)
    ]
    self.assertEqual([x.read + x.cached for x in probes], list(map(len, asked)))
    self.assertEqual(
        [x.cached for x in probes],
        [0, *(len(os.path.commonprefix(x)) for x in itertools.pairwise(asked))],
    )
    solution = asked[0].index('Solution:')
    self.assertTrue(all(x.cached > solution for x in probes[1:]))
    self.assertEqual({x.route for x in probes}, {1})

  @parameterized.parameters(
      ('7', 7), (' 9', 9), ('0', 0), ('good', 0), ('', 0), ('10', 1)
  )
  def test_a_reply_that_is_no_digit_approves_of_nothing(self, reply, digit):
    self.assertEqual(specreason.digit_of(reply), digit)

  def test_without_words_quantiles_of_train_are_the_digits(self):
    family = _fit(specreason.METHOD, follows_words=False)
    bounds = family.measure.digits.bounds
    self.assertLen(bounds, 9)
    table = small_arena.sample('train', router_lib.PEEK)
    pairs = list(zip(table.questions, table.small_steps, strict=True))
    scores = np.concatenate(
        [x.scores for x in small_arena.JUDGE.score_all(pairs)]
    )
    digits = np.array([family.measure.digits(x) for x in scores])
    # Each digit has about a tenth of the steps.
    np.testing.assert_allclose(
        np.bincount(digits) / len(digits), 0.1, atol=0.06
    )
    self.assertEqual(specreason.Digits((0.5,) * 9)(0.5), 9)

  def test_with_no_judge_it_is_left_out(self):
    with self.assertRaisesRegex(refusal.Refusal, 'as a judge'):
      _fit(specreason.METHOD, follows_words=False, judge=None)


if __name__ == '__main__':
  absltest.main()
