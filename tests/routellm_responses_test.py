"""RouteLLM's cached responses: what its metrics say of known routers."""

import pathlib

from absl.testing import absltest
import numpy as np
import pytest

from experiments.studies import routellm_responses as study_lib
from routing.evaluation import metrics

_ROWS = [
    study_lib.Row('a', small=False, large=True),
    study_lib.Row('b', small=True, large=True),
    study_lib.Row('c', small=False, large=True),
    study_lib.Row('d', small=True, large=False),
]


class CurveTest(absltest.TestCase):

  def test_by_hand(self):
    # The order is c, a, then b and d together. The small model is right on 2
    # of 4; c and a add one right answer each, b adds none, d loses one.
    scores = np.array([2.0, 1.0, 3.0, 1.0])
    share, accuracy = study_lib.share_curves(
        scores, _ROWS, np.full((1, 4), 0.25)
    )
    np.testing.assert_allclose(share, [[0, 0.25, 0.5, 1]])
    np.testing.assert_allclose(accuracy, [[0.5, 0.75, 1.0, 0.75]])

  def test_a_question_drawn_twice_counts_twice(self):
    weights = np.array([[0.5, 0.25, 0.25, 0.0]])
    share, accuracy = study_lib.share_curves(
        np.array([2.0, 1.0, 3.0, 0.0]), _ROWS, weights
    )
    np.testing.assert_allclose(share, [[0, 0.25, 0.75, 1, 1]])
    np.testing.assert_allclose(accuracy, [[0.25, 0.5, 1.0, 1.0, 1.0]])

  def test_perfect_and_constant_scores(self):
    rng = np.random.default_rng(0)
    rows = [
        study_lib.Row(str(i), bool(small < 0.5), bool(large < 0.8))
        for i, (small, large) in enumerate(rng.random((40, 2)))
    ]
    weights = np.full((1, 40), 1 / 40)
    gain = np.array([float(x.large) - float(x.small) for x in rows])
    # Whoever knows the gain recovers more than all of the gap at some share.
    ((best, half, _),) = study_lib.figures_of([gain], rows, weights)
    self.assertGreater(best, 0.9)
    anchors_gap = gain.mean()
    # Half of the gap takes as many calls as it has right answers.
    self.assertAlmostEqual(half, 0.5 * anchors_gap)
    # One threshold for all: the line between the two models.
    ((line, half, most),) = study_lib.figures_of([np.zeros(40)], rows, weights)
    np.testing.assert_allclose([line, half, most], [0.5, 0.5, 0.8])

  def test_wrong_flags_are_refused(self):
    path = pathlib.Path(self.create_tempdir().full_path) / 'rows.csv'
    path.write_text(
        f'prompt,{study_lib.SMALL},{study_lib.LARGE}\nq,True,maybe\n'
    )
    with self.assertRaisesRegex(ValueError, "'maybe'; allowed: 'True'"):
      study_lib.read(path)


@pytest.mark.usefixtures('routing_data')
class ResponsesTest(absltest.TestCase):

  def test_random_and_learnt_routers(self):
    path = self.routing_data / 'routellm' / 'gsm8k_responses.dev70.csv.gz'
    content = study_lib.study(path, resamples=50)
    # 578 and 774 of all 915 are right; a half is near that.
    self.assertAlmostEqual(content['small_accuracy'], 578 / 915, delta=0.05)
    self.assertAlmostEqual(content['large_accuracy'], 774 / 915, delta=0.05)
    self.assertEqual(sum(content['num_questions'].values()), 915)
    random = content['routers'][study_lib.RANDOM]
    for figure, expected in (('apgr', 0.5), ('cpt50', 0.5), ('cpt80', 0.8)):
      self.assertBetween(
          expected, random[figure]['low'], random[figure]['high'], figure
      )
    for name in study_lib.ROUTERS:
      found = content['routers'][name]
      self.assertEqual(found['num_trials'], study_lib.NUM_TRIALS)
      self.assertGreater(found['apgr']['high'], 0.5, name)
      # None of them is far better than the paper's best.
      self.assertLess(found['apgr']['low'], study_lib.PAPER['apgr'], name)
    self.assertIn('| RouteLLM, classifier |', study_lib.page(content))

  def test_the_share_of_calls_is_the_cost_of_the_records(self):
    path = self.routing_data / 'routellm' / 'gsm8k_responses.dev70.csv.gz'
    rows = study_lib.divide(study_lib.read(path))['select']
    sample = study_lib.sample(rows, None)
    scores = np.arange(len(rows), dtype=float)
    share, accuracy = study_lib.share_curves(
        scores, rows, np.full((1, len(rows)), 1 / len(rows))
    )
    points = study_lib.sources.known.at_thresholds(
        sample.source.table, scores, np.append(scores, np.inf)[::-1], 'price'
    )
    np.testing.assert_allclose(points.mean_cost, share[0], atol=1e-9)
    np.testing.assert_allclose(points.accuracy, accuracy[0], atol=1e-9)
    self.assertEqual(metrics.cost_to_reach(share[0], accuracy[0], 0.0), 0.0)


if __name__ == '__main__':
  absltest.main()
