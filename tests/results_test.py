"""Tests of results, tables and plots of one synthetic experiment."""

import io
import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.evaluation import bootstrap
from routing.evaluation import legend
from routing.evaluation import markdown
from routing.evaluation import methods
from routing.evaluation import metrics
from routing.evaluation import plots
from routing.evaluation import results as results_lib
from routing.evaluation import tables
from routing.outcomes import points as points_lib
from routing.routers import families
from tests import ladders

LIVE = {
    'name': 'cost<=0.4',
    'seed': 0,
    'num_problems': 20,
    'accuracy': 0.7,
    'cut': 0.0,
    'cost': 0.39,
    'predicted_accuracy': 0.7,
    'predicted_cost': 0.39,
    'num_agreeing': 20,
}
RATE = {'mean': 0.04, 'low': 0.03, 'high': 0.05}
POINT = {
    'name': 'loss<=0.05@0.9',
    'accuracy': RATE,
    'cut': None,
    'cost': 0.829,
    'loss': RATE,
    'gain': RATE,
    'promise': 'loss <= 0.05 with probability 0.9; for this point alone',
}
REFUSED = {'name': 'loss<=0.02@0.9', 'reason': '80 problems are too few.'}
TUNING = {
    'fitted Q, trees': {
        'setting': {'num_iterations': 40},
        'areas': [0.6, 0.7],
        'decisions': 420_000,
        'fitted_on': 60_000,
    },
    'boosting': {
        'setting': {'num_iterations': 60},
        'areas': [0.6],
        'decisions': 1_000,
        'fitted_on': 1_000,
    },
}
COVERAGE = {
    'alpha': 0.05,
    'delta': 0.1,
    'sample_size': 500,
    'num_samples': 1_000,
    'best': {'cost': 0.8},
    'num_problems': 400,
    'promised': {'broken': 70, 'refused': 3, 'cost': 0.9},
    'picked': {'broken': 512, 'refused': 0, 'cost': 0.8},
}


def make_results(num_problems=300, resamples=50, budgets=None):
  """Returns results of two equal metrics and two seeds, one of them noisy."""
  pair = methods.Pair(
      ladders.make_known(num_problems, seed=1),
      ladders.make_known(num_problems, seed=2),
  )

  def thresholded(family):
    return methods.thresholded([family], pair, 'price', 30)

  candidates = {
      'policy': [thresholded(ladders.Family(x, 0)) for x in (0.0, 0.2)],
      'confidence': [thresholded(ladders.Family(1.0, 1))],
      'fixed step': [thresholded(families.FixedStep())],
      'random per question': [methods.random_per_question(pair, 'price')],
      'random per step': [methods.random_per_step(pair, 'price')],
  }
  anchors = results_lib.anchors_of(
      pair.test.at_rates([0.0], 'price'), pair.test.largest_alone()
  )
  draws = bootstrap.draw(num_problems, [1, 2], resamples, seed=0)
  one = results_lib.of_metric(
      candidates,
      pair.test.oracle(methods.PRICES, 'price'),
      anchors,
      draws,
      'policy',
      budgets,
  )
  one['left_out'] = {}
  content = results_lib.to_json(
      {
          'schema': results_lib.SCHEMA,
          'cost_metric': 'price',
          'source': 'known',
          'num_problems': {'test': num_problems},
          'seeds': [0, 1],
          'resamples': resamples,
          'cost_metrics': {'flops': one, 'price': one},
          'tuning': TUNING,
          'operating_points': [POINT],
          'refused_points': [REFUSED],
          'points_left_out': [],
          'live': [LIVE],
          'coverage': COVERAGE,
      }
  )
  return content, candidates


class ResultsTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.results, cls.candidates = make_results()
    cls.figures = cls.results['cost_metrics']['price']

  def test_area_is_the_mean_over_seeds(self):
    hulls = [c.points() for c in self.candidates['policy']]
    areas = [metrics.area(x.mean_cost, x.accuracy) for x in hulls]
    got = self.figures['methods']['policy']['area']
    self.assertAlmostEqual(got['mean'], np.mean(areas))
    np.testing.assert_allclose(got['per_seed'], areas)
    self.assertBetween(got['mean'], got['low'], got['high'])

  def test_the_area_starts_where_the_curves_of_all_seeds_exist(self):
    anchors = metrics.Anchors(0.3, 0.4, 0.9)
    point = lambda cost, correct: points_lib.Points(
        *(np.full((1, 4), x) for x in (correct, cost, 0.0, 0.0))
    )
    hulls = [
        points_lib.concatenate([point(x, 0.3), point(1.0, 0.9)])
        for x in (0.4, 0.5)
    ]
    draws = bootstrap.draw(4, [2], 3, seed=0)
    got = results_lib.of_method(hulls, draws, anchors, None)['area']
    np.testing.assert_allclose(got['range'], [0.5, 0.8])
    # From .4 on at .5 and .8: mean of .4 and .7; from .5 on: of .3 and .66.
    np.testing.assert_allclose(got['per_seed'], [0.55, 0.48])
    dear = [point(0.9, 0.7)] * 2
    self.assertIsNone(results_lib.of_method(dear, draws, anchors, None)['area'])

  def test_the_select_area_uses_select_problems(self):
    for name, method in self.candidates.items():
      want = np.mean([x.select_area() for x in method])
      got = self.figures['methods'][name]['select_area']
      self.assertAlmostEqual(got, want)
    one = self.candidates['confidence'][0]
    swapped = methods.Candidates(one.test, one.select)
    self.assertNotAlmostEqual(one.select_area(), swapped.select_area())

  def test_differences_are_between_the_areas(self):
    areas = {k: v['area']['mean'] for k, v in self.figures['methods'].items()}
    self.assertNotIn('policy', self.figures['differences'])
    for name, difference in self.figures['differences'].items():
      self.assertAlmostEqual(difference['mean'], areas['policy'] - areas[name])

  def test_random_per_question_equals_the_straight_line(self):
    line = self.figures['methods']['random per question']
    self.assertAlmostEqual(line['headroom_share'], 0.0)
    self.assertAlmostEqual(line['mean_gap_recovered'], 0.5)
    self.assertAlmostEqual(line['relative_ibc_gain_at']['0.4'], 0.0)
    self.assertAlmostEqual(
        self.figures['methods']['oracle']['headroom_share'], 1.0
    )

  def test_rates_at_a_budget_have_exact_intervals(self):
    (candidates,) = self.candidates['confidence']
    want = candidates.at_budget(0.4)
    got = self.figures['methods']['confidence']['at_budget']['0.4']
    self.assertAlmostEqual(got['loss'][0]['mean'], want.loss.mean())
    self.assertLess(got['loss'][0]['low'], want.loss.mean())
    self.assertGreater(got['loss'][0]['high'], want.loss.mean())

  def test_json_is_strict_and_round_trips(self):
    text = json.dumps(self.results, allow_nan=False)
    self.assertEqual(results_lib.check(json.loads(text)), self.results)
    got = results_lib.to_json({'a': np.inf, 'b': np.arange(2), 'c': np.nan})
    self.assertEqual(got, {'a': None, 'b': [0, 1], 'c': None})

  def test_another_schema_raises(self):
    with self.assertRaisesRegex(ValueError, 'schema 0; allowed: 5'):
      results_lib.check({'schema': 0})


class ReportTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.results, _ = make_results(100, 10)

  def test_rows_are_in_order_and_as_wide_as_the_columns(self):
    rows = tables.rows(self.results, 'price')
    self.assertEqual(rows[0][0], 'learned policy')
    self.assertEqual(rows[-1][0], 'oracle')
    for row in rows:
      self.assertLen(row, len(tables.COLUMNS))
    accuracy = self.results['cost_metrics']['price']['methods']['policy']
    want = f'{accuracy["accuracy_at"]["0.4"]:.3f}'[1:]
    self.assertEqual(rows[0][tables.COLUMNS.index('acc @.4')], want)

  def test_markdown_has_the_constraint_first_and_every_row(self):
    text = tables.markdown(self.results)
    self.assertLess(
        text.index('Cost metric price'), text.index('Cost metric flops')
    )
    self.assertIn('Cost metric price (used in the constraint)', text)
    # Two tables for each of two cost metrics.
    self.assertEqual(text.count('| confidence threshold |'), 4)
    self.assertIn('broken in 70 of 1000 samples (true cost .900)', text)
    self.assertIn('| loss<=0.05@0.9 | .829 | .040 [.030, .050] |', text)
    self.assertIn(POINT['promise'], text)
    self.assertIn(legend.LEGEND, text)
    self.assertIn('choose one of G points or seeds', text)
    self.assertIn('loss<=0.02@0.9 cannot be promised. 80 problems are', text)
    self.assertIn(
        'fitted Q, boosted trees: best of 2 settings on select, '
        "{'num_iterations': 40}; "
        'fitted on at most 60,000 of 420,000 decisions.',
        text,
    )
    self.assertIn('fitted on all 1,000 decisions.', text)
    self.assertIn(
        '| cost<=0.4 | 0 | .700 | .700 | .000 | .390 | .390 | 20/20 |', text
    )

  def test_the_second_table_has_what_papers_report_besides(self):
    figures = self.results['cost_metrics']['price']
    rows = tables.more_rows(self.results, 'price')
    for name, row in zip(tables.order(figures), rows, strict=True):
      method = figures['methods'][name]
      said = dict(zip(tables.MORE_COLUMNS, row, strict=True))
      for column, value in {
          'gap recovered @.4': method['gap_recovered_at']['0.4'],
          'IBC gain @.6': method['relative_ibc_gain_at']['0.6'],
          'cost at 1 point lost': method['cost_at_points_lost']['1'],
          'cost at .5 points lost': method['cost_at_points_lost']['0.5'],
          'AIQ': method['average_quality'],
      }.items():
        self.assertEqual(said[column], markdown.number(value), (name, column))
    text = tables.markdown(self.results)
    self.assertIn(markdown.table(tables.MORE_COLUMNS, rows), text)
    self.assertIn(legend.MORE, text)

  def test_terminal_tables_hold_the_same_cells(self):
    from rich import console as console_lib

    console = console_lib.Console(width=140, record=True, file=io.StringIO())
    console.print(tables.rich_table(self.results, 'price'))
    console.print(tables.rich_live_table(self.results))
    text = console.export_text()
    self.assertIn('learned policy', text)
    self.assertIn('20/20', text)

  def test_plots_are_written(self):
    directory = pathlib.Path(self.create_tempdir().full_path)
    plots.frontier(self.results, directory / 'frontier.png')
    plots.cost_metrics(self.results, directory / 'cost_metrics.png')
    for name in ('frontier.png', 'cost_metrics.png'):
      content = (directory / name).read_bytes()
      self.assertEqual(content[:8], b'\x89PNG\r\n\x1a\n')
      self.assertGreater(len(content), 20_000)

  def test_labels_are_spread_without_changing_their_order(self):
    got = plots._spread(np.array([0.1, 0.11, 0.12, 0.5]), 0.05)
    self.assertTrue((np.diff(got) >= 0.05 - 1e-6).all())
    self.assertAlmostEqual(got[:3].mean(), 0.11)
    self.assertEqual(got[3], 0.5)


if __name__ == '__main__':
  absltest.main()
