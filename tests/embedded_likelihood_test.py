"""The likelihood of steps under an embedded model, against its own engine."""

import asyncio

from absl.testing import absltest
import numpy as np

from routing.engines import embedded_likelihood
from routing.engines import engine as engine_lib
from routing.lm import export
from routing.tasks import arithmetic
from tests import embedded_pair

_QUESTIONS = [
    x.question
    for x in arithmetic.load(train=2, select=0, prove=0, test=0)['train']
]


class EmbeddedLikelihoodTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.scorer = embedded_likelihood.EmbeddedLikelihood(
        export.shipped('small'), batch_size=2
    )

  def test_it_agrees_with_the_log_probs_of_the_model_that_wrote(self):
    engine = embedded_pair.make_engines()[0]
    question = _QUESTIONS[0]

    async def write():
      try:
        async with engine.open(question) as session:
          return await session.write(
              engine_lib.Request(to_end=True, max_tokens=60)
          )
      finally:
        await engine.close()

    steps = asyncio.run(write())
    # The last step was cut off, or has the end of the answer as a token.
    texts = [x.text for x in steps[:-1]]
    self.assertGreater(len(texts), 1)
    (found,) = self.scorer.score([(question, texts)])
    expected = [np.exp(x.log_probs.mean()) for x in steps[:-1]]
    np.testing.assert_allclose(found.scores, expected, atol=1e-4)
    num_question = engine.count_tokens(question, '')
    read = [x.num_tokens for x in steps[:-1]]
    read[0] += num_question
    self.assertEqual(found.read.tolist(), read)

  def test_a_score_depends_on_nothing_after_its_step(self):
    question = _QUESTIONS[1]
    texts = ('P = 1. ', 'P = 2. ')
    alone, both, again = self.scorer.score(
        [(question, texts[:1]), (question, texts), (question, (*texts, ''))]
    )
    np.testing.assert_allclose(alone.scores[0], both.scores[0], atol=1e-6)
    np.testing.assert_allclose(again.scores[:2], both.scores, atol=1e-6)
    self.assertEqual(again.scores[2], 1.0)

  def test_bad_input_is_named(self):
    with self.assertRaisesRegex(ValueError, 'has 0 steps'):
      self.scorer.score([('? P', ())])
    with self.assertRaisesRegex(ValueError, 'batch_size is 0'):
      embedded_likelihood.EmbeddedLikelihood(export.shipped('small'), 0)


if __name__ == '__main__':
  absltest.main()
