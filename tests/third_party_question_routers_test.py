"""RouteLLM, nearest questions and FrugalGPT: their rules, worked by hand."""

import asyncio
import dataclasses
import math

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import types
from routing.engines import scripted
from routing.evaluation import harness
from routing.grading import equivalence
from routing.rollout import step_requests
from routing.routers import logistic
from routing.routers import registry
from tests import small_arena
from third_party.frugalgpt import methods as frugalgpt
from third_party.knn_router import methods as knn_router
from third_party.routellm import factorisation
from third_party.routellm import methods as routellm


class FactorisationTest(parameterized.TestCase):

  def test_the_rule_by_hand(self):
    model = factorisation.Factorisation(
        projection=np.array([[1.0, 2.0], [0.0, 1.0]]),
        offset=np.array([0.5, 0.0]),
        weak=np.array([1.0, 0.0]),
        strong=np.array([2.0, 3.0]),
        weights=np.array([1.0, 0.1]),
    )
    vectors = np.array([[1.0, -1.0]])
    # P^T x + b = (1 + .5, 2 - 1) = (1.5, 1).
    # delta(strong) = 2 * 1.5 * 1 + 3 * 1 * .1 = 3.3; delta(weak) = 1.5.
    np.testing.assert_allclose(model.delta(vectors, model.strong), [3.3])
    np.testing.assert_allclose(model.delta(vectors, model.weak), [1.5])
    # sigmoid(1.8)
    expected = 1 / (1 + math.exp(-1.8))
    np.testing.assert_allclose(model.probability(vectors), [expected])

  def test_the_gradient_is_that_of_the_loss(self):
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=x) for x in ((3, 2), 2, 2, 2, 2)]
    vectors, wins = rng.normal(size=(5, 3)), np.array([0, 1, 1, 0, 1.0])
    model = factorisation.Factorisation(*parts)
    _, gradient = factorisation.loss_and_gradient(model, vectors, wins, 0.3)
    for field in dataclasses.fields(model):
      values = getattr(model, field.name)
      for place in np.ndindex(values.shape):
        losses = []
        for step in (1e-6, -1e-6):
          moved = values.copy()
          moved[place] += step
          changed = dataclasses.replace(model, **{field.name: moved})
          losses.append(
              factorisation.loss_and_gradient(changed, vectors, wins, 0.3)[0]
          )
        self.assertAlmostEqual(
            getattr(gradient, field.name)[place],
            (losses[0] - losses[1]) / 2e-6,
            places=6,
        )

  @parameterized.parameters('factorisation', 'classifier')
  def test_it_learns_which_questions_the_strong_model_wins(self, kind):
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(200, 4))
    wins = (vectors[:, 0] > 0).astype(float)
    if kind == 'classifier':
      model = logistic.fit(vectors, wins, strength=10.0)
    else:
      model = factorisation.fit(vectors, wins, rank=3, penalty=1e-4, seed=0)
    test = rng.normal(size=(100, 4))
    found = model.probability(test) > 0.5
    self.assertGreater(np.mean(found == (test[:, 0] > 0)), 0.9)

  def test_one_class_gives_its_share(self):
    model = logistic.fit(np.ones((3, 2)), np.ones(3), strength=1.0)
    # One more of each: 4 of 5.
    np.testing.assert_allclose(model.probability(np.ones((1, 2))), [0.8])

  def test_no_question_is_an_error(self):
    with self.assertRaisesRegex(ValueError, '0 questions'):
      factorisation.fit(
          np.zeros((0, 2)), np.zeros(0), rank=1, penalty=0.0, seed=0
      )

  def test_a_tie_is_a_win_of_the_small_model(self):
    sample = dataclasses.replace(
        small_arena.sample('train', harness.router_lib.COMMIT),
        small_correct=np.array([0.0, 0.0, 1.0, 1.0]),
    )
    table = dataclasses.replace(
        sample.source.table, large_correct=np.array([0.0, 1.0, 0.0, 1.0])
    )
    source = dataclasses.replace(sample.source, table=table)
    wins = routellm.strong_wins(dataclasses.replace(sample, source=source))
    np.testing.assert_array_equal(wins, [0, 1, 0, 0])


class NearestTest(absltest.TestCase):

  def test_the_rule_by_hand(self):
    # The question is nearest to the first and second of the known ones.
    model = knn_router.Neighbours(
        vectors=np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], np.float32),
        gain=np.array([1.0, 0.0, -1.0]),
        extra_cost=np.array([0.9, 0.7, 0.8]),
        count=2,
    )
    # Similarities .96, .936, .28. Grades: (1 + 0) / 2; costs (.9 + .7) / 2.
    np.testing.assert_allclose(
        model.value(np.array([[0.96, 0.28]])), [0.5 / 0.8], rtol=1e-6
    )

  def test_with_all_neighbours_every_question_is_alike(self):
    # One constant for all is the limit of many neighbours.
    method = registry.load('nearest questions')
    train = small_arena.sample('train', method.needs.protocol)
    (family,) = method.fit(
        train, setting=dict(neighbours=len(train.questions)), seed=0
    )
    test = small_arena.sample('test', method.needs.protocol)
    scores = family.score_questions(test.questions)
    self.assertLen(set(scores), 1)
    # With one neighbour a known question gets its own outcome.
    (family,) = method.fit(train, setting=dict(neighbours=1), seed=0)
    gain = train.large_correct - train.small_correct
    np.testing.assert_array_equal(
        np.sign(family.score_questions(train.questions)), np.sign(gain)
    )


class CascadeTest(parameterized.TestCase):

  def _answer(self, threshold, small='no'):
    # A scorer that likes an 'n' in the answer, and nothing else.
    width = 4
    yes = frugalgpt.features('q', 'no', width)
    scorer = frugalgpt.Scorer(logistic.Linear(yes, -0.5), width)
    self.assertAlmostEqual(
        scorer.score('q', 'no'),
        1 / (1 + math.exp(-(float(yes @ yes) - 0.5))),
        places=6,
    )
    engines = [
        scripted.ScriptedEngine('s', 0, scripted.recite(small)),
        scripted.ScriptedEngine('l', 1, scripted.recite('A\n\nB')),
    ]
    cascade = frugalgpt.Cascade(scorer, threshold, 1)
    return asyncio.run(
        cascade.answer(
            types.Problem('p', 'q', 'B'),
            engines,
            seed=0,
            sampling=step_requests.Sampling(),
            grade=equivalence.exact,
        )
    )

  def test_an_accepted_answer_costs_the_small_model_only(self):
    got = self._answer(0.5)
    self.assertEqual(got.text, 'no')
    calls = [(x.route, x.read, x.written) for x in got.calls]
    self.assertEqual(calls, [(0, 1, 2)])
    self.assertEmpty(got.discarded)

  def test_a_refused_answer_is_paid_and_the_large_model_starts_anew(self):
    got = self._answer(1.1)
    self.assertEqual(got.text, 'A\n\nB')
    # The large model reads the question, not the small model's answer.
    calls = [(x.route, x.read, x.written) for x in got.calls]
    self.assertEqual(calls, [(0, 1, 2), (1, 1, 4)])
    self.assertEqual([x.text for x in got.discarded], ['no'])

  def test_a_dearer_threshold_never_costs_less(self):
    method = registry.load('FrugalGPT')
    arena = small_arena.make()
    (family,) = harness.fit(method, arena, method.settings[0], 0)
    knobs = harness.grid(method, family, arena)
    found = harness.outcomes(method, family, knobs, arena, 'test', 0)
    self.assertTrue((np.diff(found.cost['price'], axis=0) >= 0).all())
    # Above every score the large model answers all, and all drafts are lost.
    np.testing.assert_array_equal(
        found.correct[-1], arena.alone['test'].large_correct
    )
    self.assertTrue((found.cost['price'][-1] > 1).all())


if __name__ == '__main__':
  absltest.main()
