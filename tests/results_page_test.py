"""Tests that tables of the documents are what the kept result files say."""

import json
import pathlib
import re

from absl.testing import absltest
from absl.testing import parameterized

from experiments import sweep_table
from experiments.studies import results_page
from experiments.studies import walks
from experiments.studies.coverage import page as coverage_page
from experiments.studies.coverage import report as coverage_report
from experiments.studies.optimum import page as optimum_page
from experiments.studies.optimum import rows as optimum_rows
from routing.evaluation import style
from routing.evaluation import tables
from tests import checkout
from tests import results_test

_PAGES = results_page.pages(checkout.ROOT)
_MADE = re.compile(r'<!-- figures: .*?<!-- end of figures -->', re.S)
_FILES = checkout.ROOT / 'docs' / 'results'


# Pages whose figures were measured by this project.
_WITH_FIGURES = (
    'README.md',
    *(
        f'docs/{x}.md'
        for x in (
            *('results', 'protocols', 'comparison', 'promises', 'speed'),
            *('real_pair', 'serving', 'launching', 'tutorial'),
        )
    ),
)
# What looks measured: fractions and percentages with decimals, and quantities.
_MEASURED = re.compile(
    r'(?<![\w.@=/-])(?<!Python )[-+]?\d*\.\d{2,}(?![\w.])'
    r'|(?<![\w.])\d*\.\d+ %'
    r'|(?<![\w.])\d[\d,.]* (?:ms|s|seconds|minutes|hours|kB|MB|MiB|GiB)\b'
)
# What says where a figure is from: a commit, or that it was measured once.
_SOURCE = re.compile(
    r'\b(?=[0-9a-f]*\d)(?=\d*[a-f])[0-9a-f]{7}\b|measured\s+once'
)


def without_source(text: str) -> list[str]:
  """Returns what looks measured in sections that name no source for it.

  Numbers and tables that are filled from a file have one, and are left out, as
  is code.
  """
  text = results_page.VALUE.sub('', results_page.TABLE.sub('', text))
  text = re.sub(r'^ *```.*?^ *```', '', text, flags=re.M | re.S)
  text = re.sub(r'`[^`]*`', '', text)
  return [
      number.strip()
      for section in re.split(r'^## ', text, flags=re.M)
      if not _SOURCE.search(section)
      for number in _MEASURED.findall(section)
  ]


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
    blocks = [
        x for x in _MADE.findall(text) if 'figures: arithmetic_demo ' in x
    ]
    text = '\n'.join(blocks)
    held = json.loads((_FILES / 'arithmetic_demo.json').read_text())['content']
    methods = held['cost_metrics']['price']['methods']
    for name, method in methods.items():
      (line,) = re.findall(
          rf'^\| {re.escape(style.LABELS[name])} \|.*\| .* \|$', text, re.M
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
    self.assertNotEmpty(sections)
    for section in sections:
      self.assertRegex(section, r'commit [0-9a-f]{7}|protocols\.md')

  def test_what_looks_measured_has_a_file_or_a_source(self):
    for name in _WITH_FIGURES:
      text = (checkout.ROOT / name).read_text(encoding='utf-8')
      self.assertEmpty(without_source(text), name)

  def test_no_line_begins_with_a_number_from_a_file(self):
    # Markdown would take the comment, and the line with it, for HTML.
    for page in _PAGES:
      text = page.read_text(encoding='utf-8')
      self.assertNotRegex(text, r'(?m)^ *<!-- value', checkout.name(page))

  def test_figures_of_pages_that_studies_write(self):
    """The pages and the kept files are of the same runs."""
    held = json.loads((_FILES / 'coverage.json').read_text())
    text = (checkout.ROOT / 'docs' / 'coverage.md').read_text(encoding='utf-8')
    self.assertIn(coverage_page.found(held['content']['summary']), text)
    self.assertIn(held['made']['commit'], text)
    service = (held['content']['online'], held['content']['drift'])
    for _, _, lines in coverage_report.tables([], *service)[2:]:
      for line in lines:
        self.assertIn(f'| {" | ".join(line)} |', text)
    for name, page in (('annealed', 'optimum'), ('product', 'optimum_product')):
      held = json.loads((_FILES / f'optimum_{name}.json').read_text())
      text = (checkout.ROOT / 'docs' / f'{page}.md').read_text(encoding='utf-8')
      rows = held['content']['table']
      self.assertIn(optimum_page.rows_table(rows), text)
      self.assertIn(held['made']['commit'], text)
      self.assertEqual(
          held['content']['by_estimator'], optimum_rows.by_estimator(rows)
      )


class SourceTest(parameterized.TestCase):
  """The rule for numbers sees what has no source, and only that."""

  @parameterized.parameters(
      ('It has .712 of it.', ['.712']),
      ('It has 38.5 % of it.', ['38.5 %']),
      ('It took 2.7 s, or 1,200 MiB.', ['2.7 s', '1,200 MiB']),
      ('A loss of 5 %, a cost of .4, 95 % intervals, Python 3.11.', []),
      ('`loss<=0.05@0.9` and\n```\nx=0.25\n```\n', []),
      ('Measured once, at commit 0a1b2c3: .712.', []),
      ('Here .712 was measured once.\n## There\n.713', ['.713']),
      ('<!-- value: x y -->.712<!-- end --> of .25', ['.25']),
      ('<!-- figures: x made -->\n0a1b2c3: .5 s\n<!-- end of figures -->', []),
  )
  def test_without_source(self, text, expected):
    self.assertEqual(without_source(text), expected)


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
      ('run operating_points/0/cost .1%', '82.9 %'),
      ('run operating_points/0/loss interval', '.040 [.030, .050]'),
      ('run live/num_agreeing d', '20'),
      ('run coverage/promised/broken d', '70'),
  )
  def test_a_number_in_a_text(self, words, number):
    blank = f'It is <!-- value: {words} -->?<!-- end -->, and that is that.'
    text = results_page.filled(blank, self.folder)
    self.assertEqual(text, blank.replace('?', number))
    self.assertEqual(results_page.filled(text, self.folder), text)

  def test_a_key_with_spaces_and_a_difference(self):
    figures = self.results['cost_metrics']['flops']
    for name in ('random per question', 'fixed step'):
      key = f'cost_metrics/flops/differences/{name.replace(" ", "_")}'
      shown = results_page.value(['run', key, 'difference'], self.folder)
      self.assertEqual(shown, tables.difference(figures, name))

  def test_areas(self):
    text = results_page.table(['run', 'areas', 'price'], self.folder)
    figures = self.results['cost_metrics']['price']
    head, _, policy, *others = text.splitlines()
    self.assertEqual(head, '| method | area [95 %] | policy minus method |')
    self.assertRegex(policy, r'^\| \*\*learned policy\*\* \| \*\*\.\d+\*\* \[')
    area = tables.interval(figures['methods']['fixed step']['area'])
    away = tables.difference(figures, 'fixed step')
    self.assertIn(f'| best fixed hand-over step | {area} | {away} |', others)
    self.assertLen(others, len(figures['methods']) - 1)

  def test_what_routers_earn_and_spend(self):
    kept = results_page.DOCS / 'results'
    content = json.loads((kept / 'arithmetic_demo_compared.json').read_text())
    content = content['content']
    views = ('routers', 'router_earnings', 'router_spending')
    whole, earned, spent = (
        results_page.table(
            ['arithmetic_demo_compared', view, 'price'], kept
        ).splitlines()
        for view in views
    )
    names = lambda table: [row.split(' | ')[0] for row in table]
    self.assertEqual(names(whole), names(earned))
    self.assertEqual(names(whole), names(spent))
    self.assertIn('cost for 50 %', earned[0])
    place = names(spent).index('| FrugalGPT')
    chosen = list(content['routers']['FrugalGPT']['at_budget'].values())[1]
    for kind, number in chosen['tokens'].items():
      self.assertIn(f'{kind} tokens', spent[0])
      self.assertIn(f' {number:.1f} ', spent[place])
    best = results_page.table(
        ['arithmetic_demo_compared', 'first_routers', 'price'], kept
    )
    # The demo has none of tokens, of redraft, or with a reward model.
    self.assertLen(best.splitlines(), 5)
    self.assertIn('RouteLLM, classifier', best)

  def test_ladders_that_are_shown(self):
    counted = dict.fromkeys(walks.KINDS, 4)
    content = {'counts': counted, 'shown': ['## Lost: a\n\nb', '## Kept: c']}
    results_page.write('walks', self.made, content, self.folder)
    text = results_page.table(['walks', 'walked'], self.folder)
    self.assertEqual(text, '### Lost: a\n\nb\n\n### Kept: c')
    text = results_page.table(['walks', 'kinds'], self.folder)
    self.assertEqual(text, walks.counts_table(counted))

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
      ('run methods', "'methods' of run.json names no cost metric; allowed: f"),
      ('bare methods price', "no cost metric 'price'; allowed: none"),
      ('run curves', "Unknown view 'curves'; allowed: methods"),
  )
  def test_what_does_not_exist_is_named(self, words, message):
    results_page.write('bare', self.made, {}, self.folder)
    with self.assertRaisesRegex(ValueError, message):
      results_page.table(words.split(), self.folder)

  def test_a_file_is_kept_with_its_command(self):
    with self.assertRaisesRegex(ValueError, '--machine must say'):
      results_page.keep('x.json', 'x', self.made | {'machine': ''}, self.folder)
    path = self.folder / 'printed.txt'
    path.write_text('{"ratio": 1}')
    with self.assertRaisesRegex(ValueError, '--name must say'):
      results_page.keep(str(path), '', self.made, self.folder)


if __name__ == '__main__':
  absltest.main()
