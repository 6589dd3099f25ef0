"""Tests that methods which records cannot evaluate are left out."""

import contextlib
import dataclasses
import io
import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from experiments import evaluate
from experiments import report
from routing import protocols
from routing import types
from routing.evaluation import bootstrap
from routing.evaluation import evaluator
from routing.evaluation import methods
from routing.evaluation import plots
from routing.evaluation import results as results_lib
from routing.evaluation import tables
from routing.outcomes import points as points_lib
from routing.outcomes import records
from routing.outcomes import refusal
from routing.outcomes import sources
from routing.routers import behaviour
from routing.routers import card as card_lib
from routing.routers import families
from routing.routers import fixed
from tests import scripted_pair
from tests import sources_test

_NUM_PROBLEMS = 12
# The behaviour is near this policy and far from all others.
_POLICY = families.FixedStep(2)
_THRESHOLD = 1.0


def make_source(min_effective_size, **kwargs):
  """Returns recorded trajectories of the scripted pair in redraft."""
  mixture = behaviour.Mixture(
      sources_test.Deterministic(_POLICY.at(_THRESHOLD)),
      behaviour.Uniform((True,) * sources_test.NUM_ROUTES),
      epsilon=0.2,
  )
  rollouts = scripted_pair.make_rollouts(
      _NUM_PROBLEMS,
      num_trajectories=4,
      behaviour=behaviour.drawn(mixture, 0),
      **kwargs,
  )
  return records.recorded_source(
      rollouts,
      sources_test.FEATURES,
      sources_test.ACCOUNTING,
      protocols.Protocol('redraft'),
      min_effective_size,
  )


def evaluated(source, policy=_POLICY):
  """Returns the figures of a policy, two others and the random routers."""
  return evaluator.figures(
      [[policy]],
      {
          'confidence': [families.Uncertainty(1)],
          'fixed step': [families.FixedStep(2)],
      },
      methods.Pair(source, source),
      resamples=20,
      seed=0,
  )


def as_results(cost_metrics, points_left_out=()):
  """Returns results in the form that a report reads."""
  content = {
      'schema': results_lib.SCHEMA,
      'cost_metric': 'price',
      'num_problems': {'test': _NUM_PROBLEMS},
      'seeds': [0],
      'cost_metrics': cost_metrics,
      'tuning': {},
      'refused_points': [],
      'operating_points': [],
      'points_left_out': list(points_left_out),
      'live': [],
      'coverage': None,
  }
  content = results_lib.to_json(content)
  return json.loads(json.dumps(content, allow_nan=False))


class LeftOutTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.source = make_source(9.0)
    cls.cost_metrics = evaluated(cls.source)

  def test_other_methods_are_evaluated(self):
    for figures in self.cost_metrics.values():
      self.assertEqual(set(figures['methods']), {'policy', 'fixed step'})
      self.assertEqual(set(figures['differences']), {'fixed step'})
      self.assertEqual(
          set(figures['left_out']),
          {
              'confidence',
              'random per question',
              'random per step',
              'small alone',
          },
      )
      reason = figures['left_out']['confidence']
      self.assertRegex(reason, r'None of \d+ thresholds can be evaluated')
      reason = figures['left_out']['random per step']
      self.assertRegex(
          reason, r'12 problems have an effective .* of \d.*9 are needed'
      )
      self.assertNotIn('fresh sample', reason)

  def test_metrics_that_need_the_small_model_alone_are_null(self):
    figures = as_results(self.cost_metrics)['cost_metrics']['price']
    self.assertIsNone(figures['anchors']['small_accuracy'])
    policy = figures['methods']['policy']
    self.assertIsNone(policy['mean_gap_recovered'])
    self.assertIsNone(policy['average_quality'])
    self.assertBetween(policy['curve']['accuracy'][0], 0.0, 1.0)

  def test_the_table_names_left_out_methods_and_reasons(self):
    results = as_results(self.cost_metrics, ['loss<=0.1@0.9[hard]'])
    text = tables.markdown(results)
    self.assertEqual(text.count('Left out: confidence threshold. None of'), 4)
    self.assertEqual(text.count('Left out: small alone. 12 problems'), 4)
    self.assertNotIn('| confidence threshold |', text)
    self.assertIn('Left out: loss<=0.1@0.9[hard]. Too few', text)
    directory = pathlib.Path(self.create_tempdir().full_path)
    plots.frontier(results, directory / 'frontier.png')
    plots.cost_metrics(results, directory / 'cost_metrics.png')
    (directory / evaluate.RESULTS_FILE).write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()) as shown:
      report.show(directory)
    self.assertIn('Left out: confidence threshold. None of', shown.getvalue())
    self.assertIn('loss<=0.1@0.9[hard]. Too few', shown.getvalue())

  def test_a_pool_needs_only_some_evaluable_policies(self):
    pair = methods.Pair(self.source, self.source)
    alone = methods.thresholded([_POLICY], pair, 'price')
    pool = [families.Uncertainty(1), _POLICY]
    pooled = methods.thresholded(pool, pair, 'price')
    np.testing.assert_array_equal(pooled.test.cost, alone.test.cost)

  def test_a_setting_that_cannot_be_evaluated_is_never_the_best(self):
    area = lambda family: methods.area_for_tuning(
        [family], self.source, 'price'
    )
    self.assertEqual(area(families.Uncertainty(1)), -np.inf)
    self.assertBetween(area(_POLICY), 0.0, 1.0)

  def test_without_the_policy_evaluation_raises(self):
    with self.assertRaisesRegex(
        refusal.Refusal, 'The policy cannot be .* None of .*source=live'
    ):
      evaluated(self.source, families.Uncertainty(1))

  def test_points_that_cannot_be_evaluated_are_named(self):
    points = [
        card_lib.OperatingPoint(
            name, 0, threshold, {'what': 'cost', 'level': 0.4}, ''
        )
        for name, threshold in (
            ('told', _THRESHOLD),
            ('not', np.inf),
            ('not by step', (np.inf,) * 8),
        )
    ]
    entries, left_out = evaluator.operating_points(
        points, [_POLICY], self.source, 'price'
    )
    self.assertEqual([x['name'] for x in entries], ['told'])
    self.assertEqual(left_out, ['not', 'not by step'])


class NoLogProbabilitiesTest(absltest.TestCase):

  def test_the_confidence_threshold_is_left_out_of_trajectories(self):
    silent = lambda text: np.zeros(0)
    cost_metrics = evaluated(make_source(9.0, log_probs=silent))
    for figures in cost_metrics.values():
      self.assertContainsSubset({'policy', 'fixed step'}, figures['methods'])
      self.assertNotIn('confidence', figures['methods'])
      self.assertRegex(
          figures['left_out']['confidence'],
          r'needs log-probabilities; they are missing at (\d+) of \1 dec',
      )

  def test_a_single_step_without_log_probabilities_counts_as_uncertain(self):
    ladders = scripted_pair.make_ladders(12)
    first, *rest = ladders[1].steps
    first = dataclasses.replace(
        first,
        log_probs=np.zeros(0, np.float32),
        top_log_probs=np.zeros((0, 2), np.float32),
    )
    ladders[1] = dataclasses.replace(ladders[1], steps=(first, *rest))
    # A draft is on view at the first decision, an accepted step at the second.
    for view, place in (('peek', 0), ('commit', 1)):
      table = records.ladder_table(
          ladders,
          sources_test.FEATURES,
          sources_test.ACCOUNTING,
          protocols.Protocol('escalate', view),
      )
      np.testing.assert_array_equal(
          np.flatnonzero(np.isnan(table.decisions.uncertainty[:, 0])),
          [table.roots[1] + place],
      )
      family = families.Uncertainty(1)
      scores, _ = family.score(table.decisions)
      unknown = np.flatnonzero(scores == fixed.UNKNOWN)
      self.assertEqual(unknown.tolist(), [table.roots[1] + place])
      # Every threshold hands over there, but for the one that never does.
      trace = types.Trace('q', (), first)
      for threshold, route in ((scores[0], 1), (1e5, 1), (np.inf, 0)):
        self.assertEqual(family.at(threshold).decide(trace).route, route)

  def test_a_tenth_without_log_probabilities_is_too_much(self):
    ladders = scripted_pair.make_ladders(1)
    steps = [
        dataclasses.replace(x, log_probs=np.zeros(0, np.float32))
        for x in ladders[0].steps[:1]
    ]
    steps += ladders[0].steps[1:]
    ladders = [dataclasses.replace(ladders[0], steps=tuple(steps))]
    table = records.ladder_table(
        ladders,
        sources_test.FEATURES,
        sources_test.ACCOUNTING,
        protocols.Protocol('escalate', 'peek'),
    )
    num = len(table.decisions.depth)
    with self.assertRaisesRegex(refusal.Refusal, f'missing at 1 of {num} dec'):
      sources.Known(table, []).grid(families.Uncertainty(1), 5)


class IntervalsTest(absltest.TestCase):

  def test_intervals_of_weighted_accuracies_stay_in_range(self):
    # Means of .3 and 1, and normal intervals of [-.29, .89] and [-.96, 2.96].
    for total, want in ((3.0, (0.0, 0.888)), (10.0, (0.0, 1.0))):
      rate = results_lib.rate(np.array([total, *[0.0] * 9]))
      self.assertAlmostEqual(rate['low'], want[0], places=3)
      self.assertAlmostEqual(rate['high'], want[1], places=3)

  def test_resampled_accuracies_stay_in_range(self):
    # All the weight on the right answers of a few problems.
    correct = np.array([[0, 0, 0, 4.0], [0, 0, 0, 2.0]])
    few = points_lib.Points(correct, correct * 0 + 0.5, correct, correct)
    few = dataclasses.replace(few, cost=np.array([[0.2] * 4, [0.9] * 4]))
    draws = bootstrap.draw(4, [1], 50, seed=0)
    curves = bootstrap.curves([few], draws, np.linspace(0.2, 0.9, 5))
    self.assertGreater((draws.problems @ few.correct.T).max(), 1)
    self.assertLessEqual(curves.max(), 1.0)


if __name__ == '__main__':
  absltest.main()
