"""Tests of the harness: tuning, records and charges."""

import dataclasses
import pathlib
import threading
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from configs import compare_arithmetic
from experiments import compare
from routing import types
from routing.evaluation import entries
from routing.evaluation import harness
from routing.evaluation import metrics
from routing.features import embedding
from routing.outcomes import live_answers
from routing.outcomes import refusal
from routing.rollout import driver
from routing.rollout import step_requests
from routing.rollout import steps as steps_lib
from routing.routers import parallel_fits
from routing.routers import question_level
from routing.routers import registry
from routing.routers import router
from routing.routers import whole_answers
from routing.shards import lock as lock_lib
from tests import flow_test
from tests import small_arena


def _config(routers, **changes):
  config = flow_test.small('escalate')
  config.compare = compare_arithmetic.get_config('smoke').compare
  config.compare.update(routers=routers, **changes)
  config.compare.num_live.update(select=0, test=0)
  return config


class SettingsTest(absltest.TestCase):

  def test_unknown_routers_and_a_missing_reference_are_refused(self):
    with self.assertRaisesRegex(ValueError, "Unknown router 'nobody'"):
      compare.chosen(_config(('policy', 'nobody')))
    with self.assertRaisesRegex(ValueError, "reference is 'policy', which"):
      compare.chosen(_config(('small alone',)))
    config = _config(('small alone',), reference='small alone')
    self.assertEqual(list(compare.chosen(config)), ['small alone'])
    self.assertEqual(list(compare.chosen(_config(()))), registry.names())
    place = registry.METHODS['best constant']
    with self.assertRaisesRegex(ValueError, "two routers called 'best const"):
      compare.chosen(_config(('policy', 'best constant', place)))
    config = _config(())
    config.data.kind = 'replies'
    with self.assertRaisesRegex(ValueError, "data.kind is 'replies'"):
      compare.chosen(config)

  def test_two_processes_do_not_compare_in_one_directory(self):
    workdir = pathlib.Path(self.create_tempdir().full_path)
    folder = workdir / compare.FOLDER
    folder.mkdir()
    lock = lock_lib.Lock(folder)
    with self.assertRaisesRegex(ValueError, 'being written by'):
      compare.compare(_config(('policy',)), workdir)
    lock.release()


class _Priced(embedding.HashedNgrams):
  """Hashed n-grams, as if a model had to read a token for each character."""

  spec = small_arena.ACCOUNTING.specs[small_arena.NUM_ROUTES]

  def count_tokens(self, texts):
    return np.array([len(x) for x in texts])


class HarnessTest(parameterized.TestCase):

  def _nearest(self, embed):
    method = registry.load('nearest questions')
    arena = small_arena.make(embed)
    (family,) = harness.fit(method, arena, method.settings[0], 0)
    return method, arena, family

  def test_a_sentence_embedding_is_charged_once_a_question(self):
    embed = _Priced(16)
    informer = small_arena.ACCOUNTING.specs[small_arena.NUM_ROUTES]
    object.__setattr__(embed, 'spec', informer)
    method, arena, family = self._nearest(embed)
    self.assertEqual(family.informing_route, small_arena.NUM_ROUTES)
    knobs = np.array([-np.inf, np.median(harness.grid(method, family, arena))])
    free_method, free_arena, free = self._nearest(embedding.HashedNgrams(16))
    found = harness.outcomes(method, family, knobs, arena, 'test', 0)
    without = harness.outcomes(free_method, free, knobs, free_arena, 'test', 0)
    # .1 dollars per million tokens that are read, of the 'informer'.
    lengths = np.array([len(x.question) for x in arena.alone['test'].problems])
    extra = 0.1 * lengths / 1e6 / arena.alone['test'].large_cost['price']
    np.testing.assert_allclose(
        found.cost['price'] - without.cost['price'],
        np.broadcast_to(extra, found.correct.shape),
    )
    np.testing.assert_array_equal(
        found.cost['tokens/scorer'][0], lengths.astype(float)
    )
    live = harness._live(method, family, knobs, arena, 'test', 0)
    np.testing.assert_allclose(live.cost['price'], found.cost['price'])
    np.testing.assert_array_equal(live.correct, found.correct)

  def test_tuning_takes_the_best_of_the_first_settings(self):
    base = registry.load('fixed step')
    # Setting k names one threshold: at once; never; at step 1.
    families = harness.fit(base, small_arena.make(), {}, 0)
    method = router.Method(
        'steps',
        base.needs,
        lambda train, *, setting, seed: [
            _Pinned(families[0], (setting['knob'],))
        ],
        [dict(knob=x) for x in (-np.inf, np.inf, 1.0)],
    )
    arena = small_arena.make()
    found = harness.tune(method, arena, 2, 0)
    self.assertLen(found.areas, 2)
    self.assertEqual(found.areas[0], 0.0)  # The large model costs 1, beyond .8.
    self.assertEqual(found.setting, method.settings[1])
    # These are the families of the best setting, which need no second fit.
    self.assertEqual(found.families[0].knobs, (np.inf,))
    self.assertLen(harness.tune(method, arena, 3, 0).areas, 3)

  def test_fits_in_parallel_give_what_fits_in_turn_give(self):
    base = registry.load('fitted Q, linear')
    self.assertTrue(base.fits_in_parallel)
    self.enter_context(
        mock.patch.object(parallel_fits, '_num_cores', lambda: 2)
    )
    both = threading.Barrier(2, timeout=60)

    def fit(train, **fields):
      both.wait()  # Fails unless another fit is made at the same time.
      return base.fit(train, **fields)

    arena = small_arena.make()
    side_by_side = dataclasses.replace(base, fit=fit)
    in_turn = dataclasses.replace(base, fits_in_parallel=False)
    found = harness.tune(side_by_side, arena, 4, 0)
    wanted = harness.tune(in_turn, arena, 4, 0)
    self.assertEqual(found.setting, wanted.setting)
    self.assertEqual(found.areas, wanted.areas)
    self.assertEqual(
        [x.fingerprint for x in found.families],
        [x.fingerprint for x in wanted.families],
    )

  def test_a_refused_problem_has_the_tokens_of_the_large_model(self):
    arena = small_arena.make()
    alone = arena.alone['test']
    large = compare.evaluate_seeds(
        '', registry.load('large alone'), arena, [0], 1
    )[0]
    found = entries.of_answers(
        [[live_answers.Refused('no')] * len(alone.problems)], alone
    )
    for metric in (*entries.TOKENS, 'price', 'flops', 'decoded_tokens'):
      np.testing.assert_allclose(
          found.cost[metric], large.test.cost[metric], err_msg=metric
      )

  def test_methods_may_have_some_of_train_answered(self):
    seen = []

    def fit(train, **fields):
      seen.append(train)
      return registry.load('fixed step').fit(train, **fields)

    method = router.Method('theirs', router.Needs(router.COMMIT), fit)
    for num in (3, 0):
      arena = small_arena.make(num_live=dict(train=num))
      harness.fit(method, arena, {}, 0)
    self.assertLen(seen[0].live_problems, 3)
    self.assertIsNotNone(seen[0].answering)
    self.assertIsNone(seen[1].answering)

  def test_without_engines_what_needs_them_is_refused(self):
    base = registry.load('FrugalGPT')
    arena = small_arena.make(answering=None)
    (family,) = harness.fit(base, arena, base.settings[0], 0)
    live_only = _LiveOnly(family)
    with self.assertRaisesRegex(refusal.Refusal, 'must answer live'):
      harness.outcomes(base, live_only, np.array([0.5]), arena, 'test', 0)

  def test_saved_entries_are_read_back_under_their_key_only(self):
    method = registry.load('best constant')
    arena = small_arena.make()
    (entry,) = compare.evaluate_seeds('best constant', method, arena, [3], 1)
    path = pathlib.Path(self.create_tempdir().full_path) / 'entry.npz'
    compare.save(path, {'a': 1}, [entry])
    self.assertIsNone(compare.load(path, {'a': 2}))
    (found,) = compare.load(path, {'a': 1})
    for metric in entries.ALL:
      np.testing.assert_array_equal(
          found.test.cost[metric], entry.test.cost[metric]
      )
    np.testing.assert_array_equal(found.select.loss, entry.select.loss)
    self.assertEqual(found.knobs, entry.knobs)
    # The thresholds at the extremes survive, too.
    self.assertIn(np.inf, [x for _, x in found.knobs])

  def test_a_method_that_no_seed_changes_is_run_once(self):
    arena = small_arena.make()
    for name, expected in (('fixed step', 1), ('random per step', 3)):
      method = registry.load(name)
      self.assertLen(
          compare.evaluate_seeds(name, method, arena, [0, 1, 2], 1), expected
      )

  def test_the_budget_of_an_entry_is_that_of_the_candidates(self):
    arena = small_arena.make()
    method = registry.load('best constant')
    (entry,) = compare.evaluate_seeds('best constant', method, arena, [0], 1)
    for budget in metrics.BUDGETS:
      picked = entry.candidates('price', True).at_budget(budget)
      index = entry.at_budget('price', budget)
      np.testing.assert_array_equal(
          entry.test.points('price').cost[index], picked.cost[0]
      )


async def _best_of(problem, engines, *, seed, sampling, grade, samples, route):
  """Answers by the last of some samples of one model."""
  hot = dataclasses.replace(sampling, temperature=1.0)
  calls, written = [], []
  for sample in range(samples):
    async with engines[route].open(problem.question) as session:
      steps = await step_requests.write(
          problem,
          (),
          session,
          to_end=True,
          seed=seed,
          sampling=hot,
          sample=sample,
      )
    written.append(steps)
    calls.append(steps_lib.as_call('hand_over', steps_lib.call_usage(steps)))
  *others, kept = written
  return types.Trajectory(
      problem,
      kept,
      tuple(x for steps in others for x in steps),
      (),
      tuple(calls),
      await driver.grade_text(grade, steps_lib.join(kept), problem),
  )


class WholeAnswersTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    family = whole_answers.Family(_best_of, 'samples', (1, 3), dict(route=0))
    self.method = router.Method(
        'samples',
        router.Needs(None, samples=3),
        lambda train, *, setting, seed: [family],
    )

  def test_a_function_enters_by_one_line(self):
    arena = small_arena.make()
    found = compare.evaluate_seeds('samples', self.method, arena, [0, 1], 1)
    # Sampled answers are others with another seed, though nothing is fitted.
    self.assertLen(found, 2)
    self.assertFalse(
        np.array_equal(found[0].select.correct, found[1].select.correct)
    )

  def test_unused_samples_are_discarded_and_read_the_question_again(self):
    (family,) = self.method.fit(None, setting={}, seed=0)
    arena = small_arena.make()
    found = harness.outcomes(
        self.method, family, np.array([1.0, 3.0]), arena, 'test', 0
    )
    question = found.cost['tokens/question'][0]
    np.testing.assert_array_equal(
        found.cost['tokens/re-read'], [0 * question, 2 * question]
    )
    np.testing.assert_array_equal(found.cost['tokens/discarded'][0], 0)
    self.assertTrue((found.cost['tokens/discarded'][1] > 0).all())
    self.assertTrue((found.cost['price'][1] > found.cost['price'][0]).all())

  def test_a_value_that_is_not_offered_is_refused(self):
    (family,) = self.method.fit(None, setting={}, seed=0)
    with self.assertRaisesRegex(ValueError, r'samples is 2; allowed: \(1, 3\)'):
      family.at(2)


class KnownTest(parameterized.TestCase):

  @parameterized.parameters('step_score', 'judge')
  def test_records_do_not_charge_scorers(self, need):
    base = registry.load('confidence')
    (family,) = harness.fit(base, small_arena.make(), {}, 0)
    self.assertTrue(harness.is_known(base, family))
    needs = dataclasses.replace(base.needs, **{need: True})
    informed = dataclasses.replace(base, needs=needs)
    self.assertFalse(harness.is_known(informed, family))
    with self.assertRaisesRegex(ValueError, 'names no knobs'):
      harness.grid(informed, family, small_arena.make())


class _Pinned:
  """A family of thresholds at given knobs only."""

  def __init__(self, family, knobs):
    self.fingerprint, self.knobs = family.fingerprint, knobs
    self.score, self.at = family.score, family.at


class _LiveOnly:
  """A family of whole answers that records do not replay."""

  def __init__(self, family):
    self.fingerprint, self.at = family.fingerprint, family.at


class QuestionLevelTest(absltest.TestCase):

  def test_the_embedding_decides_what_is_charged(self):
    embed = embedding.HashedNgrams(4)
    with self.assertRaisesRegex(ValueError, 'charged by route 2'):
      question_level.QuestionFamily(np.sum, embed, 'x', informing_route=2)

  def test_a_question_is_handed_over_at_step_0_or_never(self):
    family = question_level.QuestionFamily(
        lambda x: x[:, 0], embedding.HashedNgrams(4), 'x'
    )
    step = types.Step(
        'a', (1,), np.zeros(1), np.zeros((1, 0)), False, types.Usage(0, 0, 0, 1)
    )
    later = types.Trace('q', (step,))
    first = types.Trace('q', ())
    for threshold in (-np.inf, 0.0, 0.5, np.inf):
      live = family.at(threshold)
      self.assertEqual(live.decide(first), live.decide(later))


if __name__ == '__main__':
  absltest.main()
