"""KnowNo and AutoMix: rules by hand, and brute-force twins."""

import asyncio
import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import types
from routing.calibration import conformal
from routing.engines import engine as engine_lib
from routing.evaluation import harness
from routing.outcomes import refusal
from routing.outcomes import training_answers
from routing.routers import router as router_lib
from tests import small_arena
from third_party.automix import meta_verifiers
from third_party.automix import methods as automix
from third_party.knowno import methods as knowno


def _sample(method, **fields):
  protocol = router_lib.PEEK if method.needs.draft else router_lib.COMMIT
  return dataclasses.replace(small_arena.sample('train', protocol), **fields)


class KnowNoTest(parameterized.TestCase):

  @parameterized.parameters(
      (0.3, 0.2, False),  # {small}: .8 is in, .2 is not.
      (0.3, 0.3, True),  # {small, large}.
      (0.3, 0.75, True),  # {large}.
      (0.8, 0.2, False),  # {small}: .8 reaches kappa exactly.
      (0.8, 0.21, True),  # {}: nobody reaches it, and help is asked for.
      (0.8, 0.8, True),
  )
  def test_a_set_of_one_decides_and_any_other_asks(self, kappa, large, asks):
    self.assertEqual(large >= knowno.asks_from(kappa), asks)

  def test_the_threshold_is_that_of_the_prediction_sets(self):
    # Halves of halves, so that no number is rounded.
    grid = np.arange(33) / 32
    probabilities = np.stack([1 - grid, grid], axis=-1)[:, None]
    for kappa in grid:
      times, _ = conformal.exits(
          probabilities, np.ones((len(grid), 1), bool), np.array([kappa])
      )
      np.testing.assert_array_equal(
          grid >= knowno.asks_from(kappa), times[0] == 0
      )

  def test_the_smaller_the_risk_the_more_help(self):
    train = _sample(knowno.METHOD)
    table = train.source.table
    everyone = np.ones(table.num_problems, bool)
    options = knowno.fit_options(table, 'price', everyone, 0.01)
    found = knowno.kappas(options, table, 'price', everyone)
    # 40 problems support risks of 1 in 41 or more: all but .02.
    self.assertLen(found, len(knowno.ALPHAS) - 1)
    self.assertEqual(found, sorted(found, reverse=True))
    (family,) = knowno.fit(train, setting=knowno.SETTINGS[0], seed=0)
    self.assertEqual(family.knobs, tuple(sorted(family.knobs)[::-1]))


class AutoMixTest(parameterized.TestCase):

  def _answer(self, score, threshold, num_yes, num=automix.NUM_SAMPLES):
    """Answers one problem; `num_yes` of `num` verifications say yes."""
    engines = small_arena.make_engines()
    plain = engines[0].script
    seeds = []

    def script(request):
      if 'Proposed answer' not in request.question:
        return plain(request)
      seeds.append(request.seed)
      return 'Yes' if len(seeds) <= num_yes else 'No'

    engines[0].script = script
    mixture = automix.Mixture(score, threshold, 1, num)
    problem = small_arena.make().alone['test'].problems[0]
    answering = small_arena.answering()
    answer = asyncio.run(
        mixture.answer(
            problem,
            engines,
            seed=0,
            sampling=answering.sampling,
            grade=answering.grade,
        )
    )
    self.assertLen(seeds, num)
    self.assertLen(set(seeds), num)
    return answer

  @parameterized.parameters((5, 0), (4, 1))
  def test_three_of_eight_that_say_no_are_a_share_of_three_eighths(
      self, num_yes, route
  ):
    share = meta_verifiers.Share(automix.NUM_SAMPLES)
    self.assertEqual(share(5), 3 / 8)
    got = self._answer(share, 0.4, num_yes)
    self.assertEqual(got.decisions[0].route, route)
    self.assertEqual(got.steps[0].route, route)

  def test_verifications_share_the_cache_of_their_prompt(self):
    got = self._answer(meta_verifiers.Share(automix.NUM_SAMPLES), 2.0, 8)
    small = ''.join(x.text for x in got.steps)
    prompt = automix.PROMPT.format(
        question=got.problem.question.strip(), answer=small.strip()
    )
    probes = [x for x in got.calls if x.kind == 'probe']
    self.assertEqual(
        [(x.route, x.read, x.cached, x.written) for x in probes],
        [
            (0, len(prompt), 0, 1),
            *[(0, 0, len(prompt), 1)] * (automix.NUM_SAMPLES - 1),
        ],
    )

  def test_fewer_verifications_are_fewer_calls(self):
    got = self._answer(meta_verifiers.Share(2), 0.5, num_yes=1, num=2)
    self.assertEqual(got.decisions[0], types.Decision(1, 0.5))
    self.assertLen([x for x in got.calls if x.kind == 'probe'], 2)
    self.assertLen(automix.SETTINGS, 6)

  def test_beliefs_of_the_pomdp_by_hand(self):
    # With k = 1: said yes 4 times (small right 3, both right 2 of them), no
    # twice (only the large model right once, neither once).
    found = meta_verifiers.fit_pomdp(
        np.array([1, 1, 1, 1, 0, 0]),
        np.array([1, 1, 1, 0, 0, 0]),
        np.array([1, 1, 0, 1, 1, 0]),
        1,
    )
    # Counts plus a half; states: neither, large, small, both.
    #   yes: .5, 1.5, 1.5, 2.5; gain (1.5 - 1.5) / 6 = 0.
    #   no: 1.5, 1.5, .5, .5; gain (1.5 - .5) / 4 = .25.
    self.assertEqual([found(0), found(1)], [0.25, 0.0])

  def test_models_that_follow_no_words_are_left_out(self):
    with self.assertRaisesRegex(refusal.Refusal, 'replies to no such'):
      automix.fit(
          _sample(automix.METHOD, follows_words=False),
          setting=automix.SETTINGS[0],
          seed=0,
      )

  def test_the_pomdp_learns_from_verified_answers_of_train(self):
    refused = small_arena.ladders('train')[1].problem.question

    def engines():
      made = small_arena.make_engines()
      plain = made[0].script

      def script(request):
        if refused in request.question and request.question != refused:
          raise engine_lib.Refused('too long')
        return plain(request)

      made[0].script = script
      return made

    arena = small_arena.make(
        answering=lambda seed: small_arena.answering(seed, engines),
        num_live=dict(train=4),
    )
    families = harness.fit(automix.METHOD, arena, automix.SETTINGS[1], 0)
    self.assertLen(families[0].score.gains, automix.NUM_SAMPLES + 1)
    train = _sample(automix.METHOD, answering=arena.answering(0), num_live=4)
    counts = automix._count_yes(train.answering, train, 2)
    self.assertEqual(list(counts), [0, 2, 3])


class TrainingAnswersTest(absltest.TestCase):

  def _answered(self, errors):
    async def answer(problem):
      if problem.id in errors:
        raise errors[problem.id]
      return problem.id

    problems = [types.Problem(str(i), 'q', '1') for i in range(4)]
    answering = small_arena.answering()
    return asyncio.run(training_answers.of_each(problems, answer, answering))

  def test_what_is_refused_is_left_out(self):
    found = self._answered({'1': engine_lib.Refused('too long')})
    self.assertEqual(found, {0: '0', 2: '2', 3: '3'})

  def test_what_may_pass_stops_the_learning(self):
    with self.assertRaisesRegex(engine_lib.Stop, '1 of 4 .* may pass'):
      self._answered({'1': engine_lib.Unavailable('no server')})


if __name__ == '__main__':
  absltest.main()
