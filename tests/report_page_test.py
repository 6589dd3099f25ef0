"""Tests of the report's page in a headless Chromium."""

from concurrent import futures
import importlib.util
import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from experiments import evaluate
from experiments import train
from routing.evaluation import report_data
from routing.routers import learned
from tests import browsers
from tests import flow_test
from tests import report_data_test

_PHONE = dict(width=390, height=800)
_WIDE = dict(width=1280, height=900)
# Switches twice, where the first of the drawings takes longer than the second.
_SLOW_FIRST = """() => {
  const {vegaEmbed} = window;
  window.drawn = 0;
  let begun = 0;
  window.vegaEmbed = async (...given) => {
    await new Promise((go) => setTimeout(go, begun++ ? 0 : 300));
    const drawn = await vegaEmbed(...given);
    setTimeout(() => { window.drawn += 1; });
    return drawn;
  };
  const choice = document.getElementById('metric');
  for (const name of ['price', 'flops']) {
    choice.value = name;
    choice.dispatchEvent(new Event('change'));
  }
}"""


def apart(make):
  """Calls `make` in a thread of its own; the browser's events run in this."""
  with futures.ThreadPoolExecutor(1) as pool:
    return pool.submit(make).result()


def percent(share, digits=2):
  """Writes a share as the page does."""
  return f'{100 * share:.{digits}f} %'


def kinds(kappa, metric='price'):
  """Returns how the answer to each made-up problem ends, from its ladder."""
  report = report_data_test.many()
  table, found = report.source.table, []
  for n, ladder in enumerate(report.records):
    uncertain = [-float(step.log_probs.min()) for step in ladder.steps]
    # Float32, as the router compares it.
    above = [t for t, x in enumerate(uncertain) if np.float32(x) >= kappa]
    row, right = int(table.roots[n]), ladder.is_correct
    ending = -1 - table.children[row + len(ladder.steps) - 1, 0]
    if above:
      right = ladder.completions[above[0]].is_correct
      ending = -1 - table.children[row + above[0], 1]
    alone, cost = (
        ladder.completions[0].is_correct,
        table.ending_cost[metric][ending],
    )
    name = {(0, 1): 'lost', (1, 0): 'gained', (0, 0): 'wrong'}
    name[1, 1] = 'saved' if cost < 1 else 'dear'
    found.append(name[int(right), int(alone)])
  return found


def written(ladder):
  """Returns the question of a ladder and all that both models wrote."""
  said = [x.text for x in (*ladder.steps, *ladder.completions)]
  return '\n'.join([ladder.problem.question, *said])


class PageCase(parameterized.TestCase):
  """Opens pages; skipped, with the reason, where there is no browser."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.browser = browsers.launch(cls)

  def open(self, path, **options):
    """Returns a page in a fresh browser, which must load and report nothing."""
    context = self.browser.new_context(**{'viewport': _WIDE, **options})
    self.addCleanup(context.close)
    context.set_default_timeout(60_000)
    page = context.new_page()
    said, asked = [], []
    page.on('pageerror', lambda error: said.append(str(error)))
    page.on('console', lambda x: said.append(x.text))
    page.on('request', lambda x: asked.append(x.url))
    page.goto(pathlib.Path(path).absolute().as_uri())
    page.locator('body[data-ready=yes]').wait_for()
    self.addCleanup(lambda: self.assertEmpty(said))
    self.addCleanup(lambda: self.assertLen(asked, 1))  # The page itself.
    return page

  def check_no_serious_fault(self, page):
    """Runs axe-core on what is shown."""
    if importlib.util.find_spec('axe_playwright_python') is None:
      self.skipTest('axe-core is in the extra `browser`.')
    from axe_playwright_python import sync_playwright as axe

    found = axe.Axe().run(page).response['violations']
    self.assertEmpty(
        [
            (x['id'], [node['html'][:200] for node in x['nodes']])
            for x in found
            if x['impact'] in ('serious', 'critical')
        ]
    )


def numbers(page):
  """Returns the rows of the dial's table: name -> texts of its cells."""
  rows = page.locator('#numbers tr')
  return {
      row.get_attribute('data-name'): [
          row.locator('td .value').inner_text(),
          row.locator('td').nth(1).inner_text(),
      ]
      for row in rows.all()
  }


class ReportTest(PageCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.path = pathlib.Path(absltest.get_default_test_tmpdir()) / 'many.html'
    cls.path.parent.mkdir(parents=True, exist_ok=True)
    cls.path.write_text(report_data_test.page_of_many(), encoding='utf-8')

  def counts(self, page):
    return {
        x.get_attribute('data-filter'): int(
            x.locator('.count').inner_text().replace(',', '')
        )
        for x in page.locator('#filters button').all()
    }

  def listed(self, page):
    return int(page.inner_text('#listed').split()[0].replace(',', ''))

  def test_filters_and_search_count_what_the_ladders_say(self):
    page = self.open(self.path)
    for name, kappa in (('loss<=0.3@0.9', 1.25), ('cost<=0.9', 0.5)):
      page.click(f'[data-point="{name}"]')
      said = kinds(kappa)
      expected = {x: said.count(x) for x in set(said)} | {'all': 2_000}
      found = self.counts(page)
      self.assertEqual({k: v for k, v in found.items() if v}, expected)
      self.assertGreater(expected['lost'], 40)
      page.click('[data-filter=lost]')
      self.assertEqual(self.listed(page), expected['lost'])
      tags = page.locator('#list .tag').all_inner_texts()
      self.assertEqual(set(tags), {'lost'})
    report = report_data_test.many()
    last = report.records[7].completions[-1].text
    for text in (report.records[7].problem.question, last):
      word = text.split()[3]
      page.fill('#search', word.upper())
      matches = [
          kind == 'lost' and word in written(ladder)
          for kind, ladder in zip(said, report.records, strict=True)
      ]
      self.assertGreater(sum(matches), 0)
      self.assertEqual(self.listed(page), sum(matches))
    page.fill('#search', 'no such word')
    self.assertEqual(self.listed(page), 0)
    self.assertIn('No problem passes', page.inner_text('#answer'))

  def test_another_metric_counts_anew(self):
    page = self.open(self.path)
    page.select_option('#metric', 'flops')
    said = kinds(1.25, 'flops')
    found = self.counts(page)
    self.assertEqual(found['saved'], said.count('saved'))
    self.assertEqual(found.get('dear', 0), said.count('dear'))
    (dial,) = report_data_test.many().dials()
    (position,) = [
        int(k) for k, x in dial['points'].items() if 'loss<=0.3@0.9' in x
    ]
    cost = dial['figures']['cost']['flops'][position]
    # In calibration the cost was measured in the constraint's metric only.
    self.assertEqual(numbers(page)['cost'], [percent(cost), '–'])
    self.assertIn('FLOPs', page.inner_text('#frontier-chart'))

  def test_of_two_quick_switches_the_second_stays(self):
    page = self.open(self.path)
    page.evaluate(_SLOW_FIRST)
    page.wait_for_function('window.drawn === 2')
    self.assertEqual(page.input_value('#metric'), 'flops')
    self.assertIn('cost in FLOPs', page.inner_text('#frontier-chart'))

  def test_both_promises_at_one_threshold(self):
    page = self.open(self.path)
    names = 'loss<=0.3@0.9', 'loss<=0.4@0.9'
    for asked, accuracy in zip(names, (0.8, 0.81), strict=True):
      page.click(f'[data-point="{asked}"]')
      for name in names:
        button = page.locator(f'[data-point="{name}"]')
        self.assertEqual(button.get_attribute('aria-pressed'), 'true')
        self.assertIn(name.replace('<=', '≤'), page.inner_text('#promise'))
      # The one that was asked for comes first, with what it had measured.
      first = page.locator('#promise strong').first.inner_text()
      self.assertEqual(first, asked.replace('<=', '≤'))
      self.assertEqual(numbers(page)['accuracy'][1], percent(accuracy))

  def test_the_slider_by_keys(self):
    page = self.open(self.path)
    report = report_data_test.many()
    (dial,) = report.dials()
    page.focus('#dial')
    page.keyboard.press('Home')
    self.assertIn('The small model writes', page.inner_text('#promise'))
    self.assertEqual(page.inner_text('#threshold'), 'no score reaches it')
    self.assertIn('< ∞: small goes on', page.inner_text('#answer'))
    thresholds = np.array(dial['thresholds'][::-1], np.float64)
    for step in range(4):
      (kappa,) = thresholds[step : step + 1]
      outcomes = report.source.evaluate(
          report.families[0], np.array([kappa]), 'price'
      )
      found = numbers(page)
      self.assertEqual(found['cost'][0], percent(outcomes.mean_cost[0]))
      self.assertEqual(found['accuracy'][0], percent(outcomes.accuracy[0]))
      self.assertEqual(found['relative loss'][0], percent(outcomes.loss.mean()))
      page.keyboard.press('ArrowRight')
    self.assertIn('nothing is promised', page.inner_text('#promise'))
    page.keyboard.press('End')
    self.assertIn('from the first step', page.inner_text('#promise'))
    self.assertEqual(page.inner_text('#threshold'), 'every score reaches it')
    self.assertIn('≥ −∞: the router calls large', page.inner_text('#answer'))

  def test_an_answer_shows_who_wrote_what_and_why(self):
    page = self.open(self.path)
    page.click('[data-point="loss<=0.3@0.9"]')
    ladders = report_data_test.many().records
    sure = lambda ladder, t: -float(ladder.steps[t].log_probs.min())
    # The first that is handed over after two kept steps.
    n = next(
        n
        for n, x in enumerate(ladders)
        if [sure(x, t) >= 1.25 for t in range(3)] == [False, False, True]
    )
    page.fill('#search', ladders[n].problem.question.strip())
    router, beside = page.locator('.pair > div').all()
    badges = router.locator('.badge').all_inner_texts()
    self.assertEqual(badges, ['small', 'small', 'draft, discarded', 'large'])
    texts = router.locator('pre').all_inner_texts()
    steps = [x.text.strip() for x in ladders[n].steps]
    self.assertEqual(
        texts, [*steps[:3], ladders[n].completions[2].text.strip()]
    )
    why = router.locator('.why').all_inner_texts()
    self.assertEqual(
        why[2],
        f'score {sure(ladders[n], 2):.3f} ≥ 1.250: the router calls large',
    )
    self.assertIn('small goes on', why[0])
    confidence = np.exp(-sure(ladders[n], 2))
    self.assertIn(f'confidence {confidence:.2f}', router.inner_text())
    # Beside it, what the small model would have written from there.
    self.assertEqual(beside.locator('pre').all_inner_texts(), steps[2:])
    self.assertIn('The first 2 steps are the same', beside.inner_text())
    beside.locator('select').select_option('large')
    alone = page.locator('.pair > div').nth(1).locator('pre').inner_text()
    self.assertEqual(alone, ladders[n].completions[0].text.strip())

  def test_the_legend_hides_curves(self):
    page = self.open(self.path)
    lines = page.locator('#frontier-chart .mark-line path')
    before = lines.count()
    button = page.locator('#legend button:has-text("learned policy")')
    button.press('Space')
    self.assertEqual(button.get_attribute('aria-pressed'), 'false')
    page.wait_for_function(
        'n => document.querySelectorAll('
        '"#frontier-chart .mark-line path").length === n',
        arg=before - 1,
    )

    # Where a curve is, a pointer is told its numbers.
    box = page.locator('#frontier-chart svg .mark-symbol').last.bounding_box()
    page.mouse.move(box['x'] + box['width'] / 2, box['y'] + box['height'] / 2)
    page.locator('#vg-tooltip-element.visible').wait_for()
    self.assertIn('accuracy', page.inner_text('#vg-tooltip-element'))

  def test_the_list_by_keys(self):
    page = self.open(self.path)
    page.locator('#list button').first.focus()
    page.keyboard.press('ArrowDown')
    current = page.locator('#list [aria-current=true]')
    self.assertEqual(current.get_attribute('data-problem'), '1')
    self.assertEqual(page.inner_text('#answer h3 >> nth=0'), 'made/1')
    page.click('#more')
    self.assertGreater(page.locator('#list button').count(), 40)

  def test_recorded_answers_are_shown_where_they_follow_the_router(self):
    report = apart(lambda: report_data_test.recorded('redraft'))
    content = report_data_test.content_of(report, ['a', 'b', 'c'])
    path = self.path.with_name('recorded.html')
    path.write_text(report_data.render(content, report), encoding='utf-8')
    page = self.open(path)
    page.focus('#dial')
    page.keyboard.press('End')
    (says,) = report.answers(99)['dials']
    agreeing = [
        report_data_test.given(report.answers(99), says, 0, n)
        for n in range(len(report.records))
    ]
    found = self.counts(page)
    self.assertEqual(found['unknown'], sum(not x for x in agreeing))
    self.assertGreater(found['unknown'], 0)
    page.click('[data-filter=unknown]')
    self.assertIn('No recorded answer', page.inner_text('#answer'))

  @parameterized.parameters('light', 'dark')
  def test_no_serious_fault_at_any_width(self, scheme):
    page = self.open(self.path, color_scheme=scheme, viewport=_PHONE)
    width = page.evaluate('document.documentElement.scrollWidth')
    self.assertEqual(width, _PHONE['width'])
    page.click('summary:has-text("All figures")')
    self.check_no_serious_fault(page)
    back = page.evaluate('getComputedStyle(document.body).backgroundColor')
    shade = int(back.split('(')[1].split(',')[0])
    self.assertEqual(shade > 128, scheme == 'light')


@pytest.mark.usefixtures('lightly_optimized')
class RunTest(PageCase):

  @pytest.mark.slow
  def test_numbers_at_named_points_are_those_of_the_files(self):
    workdir = apart(flow_test.collected_replies)
    directory = train.run_directory(workdir, 0)
    points = json.loads((directory / learned.POINTS_FILE).read_text())
    results = json.loads((workdir / evaluate.RESULTS_FILE).read_text())
    tested = {x['name']: x for x in results['operating_points']}
    page = self.open(workdir / 'report.html')
    self.assertNotEmpty(points)
    for point in points:
      page.click(f'[data-point="{point["name"]}"]')
      measured, test = point['promise']['measured'], tested[point['name']]
      self.assertEqual(
          numbers(page),
          {
              'accuracy': [
                  percent(test['accuracy']['mean']),
                  percent(measured['accuracy']),
              ],
              'cost': [percent(test['cost']), percent(measured['cost'])],
              'relative loss': [
                  percent(test['loss']['mean']),
                  percent(measured['loss']),
              ],
              'gain': [
                  percent(test['gain']['mean']),
                  percent(measured['gain']),
              ],
          },
      )
      words = page.inner_text('#promise')
      is_promised = point['promise']['delta'] is not None
      self.assertEqual('nothing is promised' in words, not is_promised)
      self.assertIn(test['promise'].split(';')[0].replace('<=', '≤')[1:], words)
    self.assertEqual(page.locator('#training-charts svg').count(), 3)
    self.check_no_serious_fault(page)


if __name__ == '__main__':
  absltest.main()
