"""The boosting learner: its label by hand, its score, its limits."""

from absl.testing import absltest
import numpy as np

from routing import types
from routing.features import observation
from routing.routers import supervised
from tests import ladders


class SupervisedTest(absltest.TestCase):

  def test_label_by_hand(self):
    # Handing over at step 0 is right, at step 1 wrong; never is wrong for
    # problem 0 and right for problem 1, which therefore needs no help.
    batch, _ = ladders.make_ladders(2, num_steps=2)
    batch = batch.replace(
        handover_correct=np.array([[[1.0], [0.0]], [[1.0], [0.0]]]),
        stay_correct=np.array([0.0, 1.0]),
    )
    np.testing.assert_array_equal(
        supervised.labels(batch), [[True, False], [False, False]]
    )

  def test_scores_new_decisions_better_than_chance(self):
    train, _ = ladders.make_ladders(500, seed=1)
    test, _ = ladders.make_ladders(500, seed=2)
    score = supervised.fit(train, max_iter=20).score(test.features)
    self.assertEqual(score.shape, test.mask.shape)
    truth = supervised.labels(test)[test.mask]
    score = score[test.mask]
    above = score[truth][:, None] > score[~truth]
    self.assertGreater(above.mean(), 0.6)  # Area under the ROC curve.

  def test_padding_is_not_learnt_from(self):
    train, _ = ladders.make_ladders(100, seed=1)
    other = train.replace(
        features=np.where(train.mask[..., None], train.features, 99.0)
    )
    first, second = (
        supervised.fit(x, max_iter=5).score(train.features)
        for x in (train, other)
    )
    np.testing.assert_array_equal(first, second)

  def test_labels_all_alike_give_a_constant(self):
    batch, _ = ladders.make_ladders(20)
    batch = batch.replace(stay_correct=np.ones(20, np.float32))
    scorer = supervised.fit(batch)
    np.testing.assert_array_equal(scorer.score(batch.features), 0.0)

  def test_router_compares_with_its_threshold(self):
    config = observation.FeatureConfig(
        ('progress',), num_routes=2, max_decisions=4
    )
    trace = types.Trace(question='q', steps=())
    scorer = supervised.Scorer(None, 0.3)
    for threshold, route in ((0.3, 1), (0.31, 0)):
      got = supervised.SupervisedRouter(scorer, config, threshold).decide(trace)
      self.assertEqual((got.route, got.score), (route, 0.3))


if __name__ == '__main__':
  absltest.main()
