"""Tests of the gallery of runs, its data and its page."""

import copy
import json
import pathlib

from absl import app
from absl.testing import absltest
from absl.testing import parameterized

from experiments import evaluate
from experiments import report
from routing.evaluation import gallery
from routing.evaluation import page
from routing.evaluation import style
from routing.evaluation import tables
from tests import report_page_test
from tests import results_test


def make_runs():
  """Returns the results of two runs that differ in budget and test records."""
  first, _ = results_test.make_results(100, 20)
  first['config'] = {
      'seed': 0,
      'network': {'kind': 'mlp', 'hidden': [64]},
      'routes': [{'model': 'a'}, {'model': 'b'}],
  }
  first['shards'] = {'test': 'one'}
  second = copy.deepcopy(first)
  second['config']['network']['hidden'] = [64, 64]
  second['config']['routes'][1]['model'] = 'c'
  second['config']['budget'] = 0.4
  second['shards'] = {'test': 'two'}
  for figures in second['cost_metrics'].values():
    del figures['methods']['confidence']
    figures['anchors']['large_accuracy'] += 0.01
  return first, second


class GalleryTest(parameterized.TestCase):

  def test_settings_that_differ_by_hand(self):
    first, second = make_runs()
    found = gallery.differences({'a': first['config'], 'b': second['config']})
    self.assertEqual(
        found,
        [
            ['network.hidden', '[64]', '[64, 64]'],
            ['routes[1].model', '"b"', '"c"'],
            ['budget', '-', '0.4'],
        ],
    )
    self.assertEmpty(gallery.differences({'a': {'x': 1}, 'b': {'x': 1}}))

  def test_rows_are_those_of_the_tables(self):
    first, second = make_runs()
    found = gallery.of_runs({'a': first, 'b': second}, {})
    rows = {x[0]: x[1:] for x in tables.rows(first, 'price')}
    in_price = found['metrics']['price']['runs']
    for name, row in in_price['a']['rows'].items():
      self.assertEqual(row, rows[style.LABELS[name]])
    self.assertNotIn('confidence', in_price['b']['rows'])
    self.assertIn('confidence', found['methods'])
    self.assertFalse(found['same_test'])
    self.assertEqual([x[0] for x in found['points']], ['a', 'b'])

  def test_results_that_do_not_name_their_records(self):
    first, second = make_runs()
    for results in (first, second):
      results['shards'] = {'test': 'one'}
    same = gallery.of_runs({'a': first, 'b': second}, {})
    self.assertTrue(same['same_test'])
    for results in (first, second):
      del results['shards']
    unknown = gallery.of_runs({'a': first, 'b': second}, {})
    self.assertFalse(unknown['same_test'])

  def test_runs_that_report_at_different_costs_say_at_which(self):
    first, second = make_runs()
    same = gallery.of_runs({'a': first, 'b': second}, {})
    self.assertIn('acc @.4', same['metrics']['price']['columns'])
    keys = {'0.2': '0.7', '0.4': '0.8', '0.6': '0.9'}
    figures = second['cost_metrics']['price']
    figures['budgets'] = [0.7, 0.8, 0.9]
    for method in figures['methods'].values():
      for name in ('accuracy_at', 'at_budget', 'cut_at'):
        method[name] = {keys[k]: x for k, x in method.get(name, {}).items()}
    figures['methods']['oracle']['at_budget'] = {}
    found = gallery.of_runs({'a': first, 'b': second}, {})['metrics']['price']
    self.assertEqual(found['columns'][3:6], ('acc @a', 'acc @b', 'acc @c'))
    self.assertEqual(found['columns'][-1], 'a, b, c')
    rows = [found['runs'][x]['rows']['policy'] for x in ('a', 'b')]
    self.assertEqual([x[-1] for x in rows], ['0.2, 0.4, 0.6', '0.7, 0.8, 0.9'])
    self.assertLen(rows[0], len(found['columns']) - 1)

  @parameterized.parameters(((),), (('a',),))
  def test_fewer_than_two_runs_are_refused(self, names):
    runs = {name: make_runs()[0] for name in names}
    with self.assertRaisesRegex(
        ValueError, f'2 runs or more, got {len(names)}'
    ):
      gallery.of_runs(runs, {})

  def test_a_run_twice_none_or_no_command_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'named twice: x/a, x/a'):
      report.write_gallery(['x/a', 'x/a'])
    with self.assertRaisesRegex(ValueError, 'does not exist'):
      report.write_gallery(['x/a', 'x/b'])
    for words in ([], ['x/a']):
      with self.assertRaisesRegex(app.UsageError, '--compare'):
        report.main(None, False, words)


class GalleryPageTest(report_page_test.PageCase):

  def test_two_runs_side_by_side(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    for name, results in zip(('a', 'b'), make_runs(), strict=True):
      (folder / name / 'run').mkdir(parents=True)
      path = folder / name / 'run' / evaluate.RESULTS_FILE
      path.write_text(json.dumps(results))
    (folder / 'a' / 'run' / 'report.html').write_text('')
    runs = [str(folder / name / 'run') for name in ('a', 'b')]
    report.main(None, True, runs)
    to = folder / 'a' / 'gallery.html'
    self.assertLess(to.stat().st_size, 2_000_000)
    opened = self.open(to)
    # Runs of one name have their folder in front.
    self.assertEqual(
        opened.locator('#legend button').all_inner_texts(), ['a/run', 'b/run']
    )
    link = opened.locator('#intro a')
    self.assertEqual(link.get_attribute('href'), 'run/report.html')
    self.assertIn('not tested on the same records', opened.inner_text('#intro'))
    data = page.unpacked(to.read_text(encoding='utf-8'))
    cells = opened.locator('#figures tbody tr').first.locator('td')
    self.assertEqual(
        cells.all_inner_texts(),
        data['metrics']['price']['runs']['a/run']['rows']['policy'],
    )
    self.assertEqual(opened.locator('#settings tbody tr').count(), 3)
    self.assertEqual(opened.locator('#figures tbody tr').count(), 2)
    opened.select_option('#method', 'confidence')
    opened.locator('#legend button:has-text("b/run")').wait_for(state='hidden')
    self.assertEqual(opened.locator('#figures tbody tr').count(), 1)
    opened.set_viewport_size(dict(width=390, height=800))
    # The chart follows the width of the window.
    opened.wait_for_function('document.documentElement.scrollWidth === 390')
    self.check_no_serious_fault(opened)


if __name__ == '__main__':
  absltest.main()
