"""Tests that tables of the documents are what the kept result files say."""

import json
import pathlib
import re

from absl.testing import absltest
from absl.testing import parameterized

from experiments import sweep_table
from experiments.studies import results_page
from routing.evaluation import tables
from tests import checkout
from tests import results_test

_PAGES = results_page.pages(checkout.ROOT)
_MADE = re.compile(r'<!-- figures: .*?<!-- end of figures -->', re.S)
_FILES = checkout.ROOT / 'docs' / 'results'


class DocumentsTest(parameterized.TestCase):

  def test_every_table_is_what_its_file_says(self):
    names = {checkout.name(page) for page in _PAGES}
    others = {'README.md', 'docs/results.md', 'docs/how_to/index.md'}
    self.assertContainsSubset(others, names)
    texts = {
        checkout.name(page): page.read_text(encoding='utf-8') for page in _PAGES
    }
    named = {
        x
        for t in texts.values()
        for x in re.findall(r'<!-- (?:figures|value): (\w+)', t)
    }
    # No file without a table, and no table without a file.
    self.assertEqual(named, {x.stem for x in _FILES.glob('*.json')})
    for name, text in texts.items():
      self.assertEqual(
          results_page.filled(text),
          text,
          f'{name}: run python -m experiments.studies.results_page',
      )

  def test_some_cells_by_hand(self):
    """A second route to numbers of the page: from the file, by arithmetic."""
    text = (checkout.ROOT / 'docs' / 'results.md').read_text(encoding='utf-8')
    text = '\n'.join(_MADE.findall(text))
    held = json.loads((_FILES / 'arithmetic_demo.json').read_text())['content']
    methods = held['cost_metrics']['price']['methods']
    for name, method in methods.items():
      (line,) = re.findall(
          rf'^\| {re.escape(tables.LABELS[name])} \|.*\| .* \|$', text, re.M
      )
      area = [f'{method["area"][x]:.3f}'[1:] for x in ('mean', 'low', 'high')]
      self.assertIn('| {} [{}, {}] |'.format(*area), line)
    for point in held['operating_points']:
      (line,) = re.findall(rf'^\| {re.escape(point["name"])} \|.*$', text, re.M)
      self.assertIn(f'| {point["cost"]:.3f} |'.replace(' 0.', ' .'), line)

  def test_what_is_made_by_hand_names_its_commit(self):
    text = (checkout.ROOT / 'docs' / 'results.md').read_text(encoding='utf-8')
    # Sections with a table that is not made from a file.
    sections = re.split(r'^## ', _MADE.sub('', text), flags=re.M)
    sections = [x for x in sections if '|---' in x]
    self.assertLen(sections, 3)
    for section in sections:
      self.assertRegex(section, r'commit [0-9a-f]{7}|protocols\.md')


class FillTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path) / 'results'
    self.results, _ = results_test.make_results(60, 20)
    path = self.folder.parent / 'results.json'
    path.write_text(json.dumps(self.results))
    self.made = dict(command='python -m x', machine='a core', commit='abc1234')
    results_page.keep(str(path), 'run', self.made, self.folder)

  def test_a_changed_number_is_put_right(self):
    blank = '# A\n<!-- figures: run points -->\n<!-- end of figures -->\nB\n'
    text = results_page.filled(blank, self.folder)
    self.assertIn('| loss<=0.05@0.9 | .829 | .040 [.030, .050] |', text)
    self.assertEqual(text.splitlines()[-1], 'B')
    wrong = text.replace('.829', '.828')
    self.assertEqual(results_page.filled(wrong, self.folder), text)

  def test_kept_figures_make_the_rows_of_the_whole_file(self):
    for metric in self.results['cost_metrics']:
      text = results_page.table(['run', 'methods', metric], self.folder)
      for row in tables.rows(self.results, metric):
        gap = row[tables.COLUMNS.index('gap recovered')]
        self.assertIn(
            f'| {row[0]} | {row[1]} | {row[2]} | {gap} | {row[3]} |', text
        )
    held = json.loads((self.folder / 'run.json').read_text())
    self.assertNotIn('curve', str(held))
    made = results_page.table(['run', 'made'], self.folder)
    self.assertEqual(
        made,
        '*`python -m x`; problems: 60 test; training seeds 0, 1; '
        'commit abc1234; a core.*',
    )

  @parameterized.parameters(
      ('run num_problems/test ,', '60'),
      ('run cost_metrics/price/budgets/1', '.400'),
      ('run seeds/0 d', '0'),
      ('run operating_points/0/cost .1%', '82.9%'),
  )
  def test_a_number_in_a_text(self, words, number):
    blank = f'It is <!-- value: {words} -->?<!-- end -->, and that is that.'
    text = results_page.filled(blank, self.folder)
    self.assertEqual(text, blank.replace('?', number))
    self.assertEqual(results_page.filled(text, self.folder), text)

  def test_what_a_benchmark_printed(self):
    path = self.folder / 'printed.txt'
    path.write_text('warming up\n{"ratio": 12.345, "lost": 0}\n')
    results_page.keep(str(path), 'bench', self.made, self.folder)
    text = '<!-- value: bench ratio .1f -->1<!-- end --> <!-- value: bench '
    text = results_page.filled(text + 'lost d -->2<!-- end -->', self.folder)
    self.assertIn('>12.3<', text)
    self.assertIn('>0<', text)
    with self.assertRaisesRegex(ValueError, "bench.json has no x/y: no 'x'"):
      results_page.value(['bench', 'x/y'], self.folder)

  def test_runs_of_a_sweep(self):
    rows = [
        {'groups': 'text', 'seed': 0, 'area': 0.25, 'area, boosting': 0.5},
        {'groups': 'text', 'seed': 1, 'area': 0.75, 'area, boosting': 0.5},
        {'number': 50, 'seed': 0, 'area': 0.125},
    ]
    sweep_table.write(rows, ['groups', 'number', 'seed'], self.folder)
    path = self.folder / sweep_table.TABLE_FILE
    results_page.keep(str(path), 'swept', self.made, self.folder)
    text = results_page.table(['swept', 'runs'], self.folder)
    self.assertEqual(
        text.splitlines()[:1] + text.splitlines()[2:],
        [
            '| changed | area | area, boosting |',
            '| groups: text | .500 | .500 |',
            '| number: 50 | .125 | - |',
        ],
    )
    made = results_page.table(['swept', 'made'], self.folder)
    self.assertEqual(made, '*`python -m x`; commit abc1234; a core.*')

  def test_thresholds_on_another_task(self):
    points = self.results['operating_points']
    path = self.folder / 'transfer.json'
    path.write_text(
        json.dumps(self.results | {'kept': points, 'recalibrated': points[:1]})
    )
    results_page.keep(str(path), 'moved', self.made, self.folder)
    lines = results_page.table(['moved', 'transfer'], self.folder).splitlines()
    self.assertLen(lines, 2 + len(points) + 1)
    self.assertStartsWith(lines[2], f'| kept | {points[0]["name"]} | ')
    self.assertStartsWith(lines[-1], f'| recalibrated | {points[0]["name"]} | ')

  @parameterized.parameters(
      ('other points', 'other.json does not exist'),
      ('run methods hours', "no cost metric 'hours'; allowed: flops, price"),
      ('run curves', "Unknown view 'curves'; allowed: methods"),
  )
  def test_what_does_not_exist_is_named(self, words, message):
    with self.assertRaisesRegex(ValueError, message):
      results_page.table(words.split(), self.folder)

  def test_a_file_is_kept_with_its_command(self):
    with self.assertRaisesRegex(ValueError, '--machine must say'):
      results_page.keep('x.json', 'x', self.made | {'machine': ''}, self.folder)


if __name__ == '__main__':
  absltest.main()
