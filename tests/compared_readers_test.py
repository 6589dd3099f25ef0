"""Which readers of steps a comparison has, and how they are charged."""

from absl.testing import absltest

from configs import compare_arithmetic
from configs import compare_gsm8k
from experiments import builders
from experiments import compared_problems
from experiments import compared_readers
from routing.lm import export
from tests import scripted_pair


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


if __name__ == '__main__':
  absltest.main()
