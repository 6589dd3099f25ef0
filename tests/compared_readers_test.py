"""Which readers of steps a comparison has, and what kept answers depend on."""

import dataclasses
import functools
import importlib
import pathlib
import sys
from unittest import mock

from absl.testing import absltest
import numpy as np

from configs import compare_arithmetic
from configs import compare_gsm8k
from experiments import builders
from experiments import compared_problems
from experiments import compared_readers
from routing.evaluation import code_hash
from routing.evaluation import harness
from routing.lm import export
from routing.routers import registry
from routing.routers import router
from tests import scripted_pair
from tests import small_arena


def _base(module, variant):
  return compared_problems.base(module.get_config(variant))


class ComparedReadersTest(absltest.TestCase):

  def test_the_large_embedded_model_judges_at_its_own_price(self):
    config = _base(compare_arithmetic, 'smoke')
    self.assertFalse(compared_readers.follows_words(config))
    found = compared_readers.specs(config, builders.specs(config)[-1])
    self.assertEqual(list(found), ['judge'])
    judge = found['judge']
    large = builders.specs(config)[-1]
    self.assertEqual(judge.name, f'{large.name}, as judge')
    self.assertEqual(judge.price_input, large.price_input)
    self.assertEqual(judge.parameters, large.parameters)
    self.assertEqual(compared_readers.judge(config, 2).route, 2)
    self.assertIsNone(compared_readers.scorer(config, 2))

  def test_a_scorer_stands_before_the_judge(self):
    config = _base(compare_arithmetic, 'smoke')
    config.scorer.model = str(export.shipped('small'))
    found = compared_readers.specs(config, builders.specs(config)[-1])
    self.assertEqual(list(found), ['step_score', 'judge'])
    scorer, judge = found.values()
    self.assertEqual(scorer.name, 'scorer')
    self.assertLess(scorer.parameters, judge.parameters)
    self.assertEqual(compared_readers.scorer(config, 5).route, 5)
    self.assertEqual(compared_readers.judge(config, 5).route, 6)
    # Another model is another scorer in caches of answers.
    name = compared_readers.scorer(config, 5).name
    config.scorer.model = str(export.shipped('large'))
    self.assertNotEqual(compared_readers.scorer(config, 5).name, name)

  def test_the_comparison_names_a_scorer_of_its_own(self):
    config = compare_arithmetic.get_config('smoke')
    base = compared_problems.base(config)
    found = compared_readers.with_scorer(base, config.compare)
    self.assertEqual(found.scorer.model, 'shipped/reward')
    self.assertIsNotNone(compared_readers.scorer(found, 2))
    # It is no part of what a pipeline has claimed its directory with.
    self.assertEqual(base.scorer.model, '')
    base.scorer.model = 'theirs'
    config.compare.scorer.model = ''
    found = compared_readers.with_scorer(base, config.compare)
    self.assertEqual(found.scorer.model, 'theirs')

  def test_a_real_pair_is_asked_in_words(self):
    config = _base(compare_gsm8k, 'shipped')
    self.assertTrue(compared_readers.follows_words(config))
    self.assertEmpty(compared_readers.specs(config, scripted_pair.SPECS[-1]))
    self.assertIsNone(compared_readers.judge(config, 2))

  def test_weights_are_loaded_when_something_is_scored(self):
    loaded = []

    class Nothing:

      def score(self, answers):
        return list(answers)

    def load():
      loaded.append(1)
      return Nothing()

    scorer = compared_readers.OnDemand(load)
    self.assertEmpty(loaded)
    self.assertEqual(scorer.score(['a']), ['a'])
    scorer.score(['b'])
    self.assertLen(loaded, 1)


class CodeHashTest(absltest.TestCase):

  def _method(self, fit):
    return router.Method('theirs', router.Needs(router.COMMIT), fit)

  def test_a_module_of_no_package_is_hashed_alone(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    (folder / 'lonely_router.py').write_text('def fit(): pass')
    self.enter_context(mock.patch.object(sys, 'path', [str(folder)]))
    fit = importlib.import_module('lonely_router').fit
    before = code_hash.of_method(self._method(fit))
    (folder / 'neighbour.py').write_text('x = 1')
    self.assertEqual(code_hash.of_method(self._method(fit)), before)
    (folder / 'lonely_router.py').write_text('def fit(): return 1')
    self.assertNotEqual(code_hash.of_method(self._method(fit)), before)

  def test_a_partial_function_is_its_function(self):
    method = registry.load('RSD')
    partly = functools.partial(method.fit, seed=0)
    self.assertEqual(
        code_hash.of_method(self._method(partly)), code_hash.of_method(method)
    )


class KeptAnswersTest(absltest.TestCase):

  def test_kept_answers_depend_on_what_a_method_declares(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    writers = small_arena.ACCOUNTING.specs[: small_arena.NUM_ROUTES]
    dear = dataclasses.replace(
        small_arena.INFORMING['step_score'], price_input=9.0
    )

    def nobody(seed):
      return small_arena.answering(seed, self._nobody)

    for name, is_asked_again in (('GlimpRouter', False), ('RSD', True)):
      method = registry.load(name)
      arena = small_arena.make(folder=folder, num_live=dict(test=2))
      (family,) = harness.fit(method, arena, method.settings[0], 0)
      given = method, family, np.array(family.knobs[:1])
      before = harness.outcomes(*given, arena, 'test', 0)
      # Another scorer, and no embedding.
      others = {'step_score': dear, 'judge': small_arena.INFORMING['judge']}
      accounting = dataclasses.replace(
          small_arena.ACCOUNTING, specs=(*writers, *others.values())
      )
      changed = dataclasses.replace(
          arena, accounting=accounting, informing=others, answering=nobody
      )
      if is_asked_again:
        with self.assertRaisesRegex(AssertionError, 'asked'):
          harness.outcomes(*given, changed, 'test', 0)
      else:
        after = harness.outcomes(*given, changed, 'test', 0)
        np.testing.assert_array_equal(before.cost['price'], after.cost['price'])

  def _nobody(self):
    raise AssertionError('A model is asked.')


if __name__ == '__main__':
  absltest.main()
