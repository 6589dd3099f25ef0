"""Tests that what a report's page holds is what the sources say."""

import dataclasses
import functools

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import costs
from routing import protocols
from routing import types
from routing.evaluation import answer_trees
from routing.evaluation import dials
from routing.evaluation import page
from routing.evaluation import page_figures
from routing.evaluation import report_data
from routing.features import observation
from routing.outcomes import records
from routing.outcomes import sources
from routing.routers import card as card_lib
from routing.routers import families
from tests import checkout
from tests import results_test
from tests import scripted_pair
from tests import sources_test
from tests import trees_test

_METRICS = costs.COST_METRICS


class Drawn:
  """A family with random scores, tied in part, and random larger routes."""

  fingerprint = 'drawn'

  def __init__(self, num_routes, seed):
    self._num_routes, self._seed = num_routes, seed

  def score(self, decisions):
    rng = np.random.default_rng(self._seed)
    size = len(decisions.depth)
    return (
        rng.integers(0, 12, size) / 12,
        rng.integers(1, self._num_routes, size),
    )


def point(name, policy_index, threshold, **measured):
  """Returns an operating point whose promise is in its name."""
  promise = dict(what='loss', level=0.3, delta=0.1, n=9, measured=measured)
  return card_lib.OperatingPoint(name, policy_index, threshold, promise, 'hash')


@functools.cache
def shown(name):
  """Returns what a report shows of the scripted pair, all ways known."""
  if name == 'escalate':
    kept = scripted_pair.make_ladders(sources_test.NUM_PROBLEMS)
  else:
    replies = trees_test.make_replies(
        sources_test.NUM_PROBLEMS, sources_test.NUM_ROUTES
    )
    kept = [trees_test.make_grower(name).build(x) for x in replies]
  source = sources_test.known_source(name)
  depth = source.table.decisions.max_depth
  return report_data.Shown(
      sources_test.ACCOUNTING,
      protocols.Protocol(name),
      (
          point('loss<=0.3@0.9', 1, 0.5),
          point('gain>=0', 1, 0.5),
          point('joint', 0, tuple(np.linspace(0.2, 0.9, depth))),
      ),
      [Drawn(sources_test.NUM_ROUTES, seed) for seed in (0, 1)],
      source,
      kept,
  )


def given(answers, dial, position, n):
  """Returns the answers to problem `n` that agree with a dial, as rows.

  The twin of the page's own code: each answer is walked by itself.
  """
  part, found = answers['part'], []
  for row, owner in enumerate(answers['end']['problem']):
    at, agrees = answers['end']['part'][row], owner == n
    while at != answer_trees.NONE and agrees:
      decision = part['decision'][at]
      if decision != answer_trees.NONE:
        is_larger = position < dial['rank'][decision]
        agrees = part['route'][at] == is_larger * dial['route'][decision]
      at = part['after'][at]
    if agrees:
      found.append(row)
  return found


def parts_cost(answers, end, metric):
  """Returns the cost of the parts of an answer and of its discarded drafts."""
  total, at = 0, answers['end']['part'][end]
  while at != answer_trees.NONE:
    total += answers['part'][f'cost {metric}'][at]
    decision = answers['part']['decision'][at]
    if decision != answer_trees.NONE and answers['part']['route'][at]:
      total += answers['decision'][f'cost {metric}'][decision]
    at = answers['part']['after'][at]
  return total


class KnownTest(parameterized.TestCase):

  @parameterized.parameters(*sources_test.PROTOCOLS)
  def test_each_position_gives_the_answer_that_the_source_gives(self, name):
    report = shown(name)
    answers = report.answers(99)
    for dial, says in zip(report.dials(), answers['dials'], strict=True):
      thresholds = np.array(dial['thresholds'], np.float64)
      family = report.families[dial['policy']]
      outcomes = report.source.evaluate(family, thresholds, 'price')
      for position in range(len(thresholds)):
        for n in range(sources_test.NUM_PROBLEMS):
          (end,) = given(answers, says, position, n)
          right = answers['end']['right'][end] / 1000
          self.assertEqual(right, outcomes.correct[position, n])
          np.testing.assert_allclose(
              answers['end']['cost price'][end] * answer_trees.COST_UNIT,
              outcomes.cost[position, n],
              atol=answer_trees.COST_UNIT,
          )

  @parameterized.product(name=sources_test.PROTOCOLS, metric=_METRICS)
  def test_the_parts_of_an_answer_cost_what_it_costs(self, name, metric):
    answers = shown(name).answers(99)
    for end, cost in enumerate(answers['end'][f'cost {metric}']):
      # Each part is rounded for itself, by half a unit.
      self.assertAlmostEqual(parts_cost(answers, end, metric), cost, delta=8)

  def test_only_answers_that_a_threshold_reaches_are_kept(self):
    report = shown('redraft')
    answers = report.answers(99)
    self.assertLess(
        len(answers['end']['part']), len(report.source.table.ending_problem)
    )
    reached = {
        end
        for dial, says in zip(report.dials(), answers['dials'], strict=True)
        for position in range(len(dial['thresholds']))
        for n in range(sources_test.NUM_PROBLEMS)
        for end in given(answers, says, position, n)
    }
    self.assertLen(reached, len(answers['end']['part']))

  def test_texts_of_an_answer_by_hand(self):
    report = shown('escalate')
    answers = report.answers(2)
    ladder = report.records[1]
    ends = [i for i, n in enumerate(answers['end']['problem']) if n == 1]
    texts = set()
    for end in ends:
      at, text = answers['end']['part'][end], ''
      while at != answer_trees.NONE:
        text = answers['texts'][answers['part']['text'][at]] + text
        at = answers['part']['after'][at]
      texts.add(text)
    alone = ''.join(step.text for step in ladder.steps)
    kept = lambda t: ''.join(step.text for step in ladder.steps[:t])
    self.assertEqual(
        texts, {alone, *(kept(c.step) + c.text for c in ladder.completions)}
    )

  def test_figures_are_those_of_the_source(self):
    report = shown('switch')
    for dial in report.dials():
      family = report.families[dial['policy']]
      thresholds = np.array(dial['thresholds'], np.float64)
      for metric in _METRICS:
        outcomes = report.source.evaluate(family, thresholds, metric)
        figures = dial['figures']
        np.testing.assert_allclose(
            figures['cost'][metric], outcomes.mean_cost, atol=1e-5
        )
      for name, values in (
          ('accuracy', outcomes.correct),
          ('loss', outcomes.loss),
          ('gain', outcomes.gain),
      ):
        np.testing.assert_allclose(figures[name], values.mean(1), atol=1e-5)
    at = {
        name: dial['thresholds'][int(position)]
        for dial in report.dials()
        for position, names in dial['points'].items()
        for name in names
    }
    # Two of the points have one threshold.
    self.assertEqual(set(at), {'loss<=0.3@0.9', 'gain>=0', 'joint'})
    self.assertEqual((at['loss<=0.3@0.9'], at['gain>=0']), ('0.5', '0.5'))

  def test_a_rank_compares_as_a_router_does(self):
    dial = dials.Dial(0, np.array([-np.inf, 0.1, 0.5, np.inf]), {})
    # 0.1 reaches itself; just below it, only -inf is reached.
    scores = np.array([0.1, np.nextafter(0.1, 0), 0.7, 0.3])
    np.testing.assert_array_equal(
        dial.ranks(scores, np.zeros(4, int)), [2, 1, 3, 2]
    )


@functools.cache
def recorded(name):
  """Returns what a report shows of recorded answers of the scripted pair."""
  rollouts = scripted_pair.make_rollouts(8, protocol=name)
  protocol = protocols.Protocol(name)
  source = records.recorded_source(
      rollouts,
      sources_test.FEATURES,
      sources_test.ACCOUNTING,
      protocol,
      1.0,
  )
  return report_data.Shown(
      sources_test.ACCOUNTING, protocol, (), [Drawn(3, 0)], source, rollouts
  )


class DrawnTest(absltest.TestCase):

  def test_drawn_problems_are_those_of_the_whole(self):
    every = shown('escalate')
    whole = every.answers(99)
    places = [5, 2, 7]
    few = dataclasses.replace(
        every, records=[every.records[i] for i in places], places=places
    )
    self.assertFalse(whole['is_drawn'])
    # Of three drawn problems the first two, in the order of the problems.
    for num, expected in ((99, [2, 5, 7]), (2, [2, 5])):
      found = few.answers(num)
      self.assertTrue(found['is_drawn'])
      self.assertEqual(found['total'], whole['total'])
      self.assertEqual(
          found['problem']['id'], [whole['problem']['id'][i] for i in expected]
      )
      self.assertEqual(
          found['problem']['large_right'],
          [whole['problem']['large_right'][i] for i in expected],
      )
      owner = np.array(whole['decision']['problem'])
      kept = np.isin(owner, expected)
      for mine, theirs in zip(found['dials'], whole['dials'], strict=True):
        for name in ('score', 'rank', 'route'):
          np.testing.assert_array_equal(
              mine[name], np.array(theirs[name])[kept], err_msg=name
          )


class RecordedTest(parameterized.TestCase):

  @parameterized.parameters(*sources_test.PROTOCOLS)
  def test_recorded_answers_cost_what_they_cost(self, name):
    report = recorded(name)
    source, answers = report.source, report.answers(99)
    trajectories = [y for x in report.records for y in x.trajectories]
    self.assertLen(answers['end']['part'], len(trajectories))
    for end, trajectory in enumerate(trajectories):
      self.assertEqual(
          answers['end']['right'][end], 1000 * trajectory.is_correct
      )
      for metric in _METRICS:
        cost = answers['end'][f'cost {metric}'][end]
        self.assertAlmostEqual(parts_cost(answers, end, metric), cost, delta=9)
    # Decisions are scored by the rows that they have in the source.
    score, _ = Drawn(3, 0).score(source.decisions)
    self.assertLen(score, len(answers['decision']['after']))
    np.testing.assert_allclose(answers['dials'][0]['score'], score, atol=1e-4)


@functools.cache
def many(num_problems=2_000):
  """Returns what a report shows of ladders as long as those of GSM8K."""
  rng = np.random.default_rng(0)
  letters = np.array(list('aeioulmnrst'))
  words = [''.join(x) for x in letters[rng.integers(0, 11, (2_000, 5))]]
  write = lambda size: (
      ' '.join(words[i] for i in rng.integers(0, 2_000, size)) + '\n\n'
  )
  ladders = []
  for n in range(num_problems):
    problem = types.Problem(f'made/{n}', write(40), str(rng.integers(1_000)))
    usage = lambda written: types.Usage(0, 0, 50, written, 0.1)
    steps = tuple(
        types.Step(
            write(12),
            (0,) * 16,
            -rng.exponential(0.2, 16).astype(np.float32),
            np.zeros((16, 0), np.float32),
            t == 4,
            usage(16),
        )
        for t in range(5)
    )
    completions = tuple(
        types.Completion(
            t, 1, 0, write(60 - 12 * t), 60, 80, 1.0, rng.random() < 0.9
        )
        for t in range(5)
    )
    is_correct = bool(rng.random() < 0.4)
    ladders.append(types.Ladder(problem, steps, is_correct, completions))
  features = observation.FeatureConfig(('progress',), 2, 8)
  accounting = costs.Accounting(scripted_pair.SPECS[::2], reference=1e-4)
  protocol = protocols.Protocol('escalate')
  table = records.ladder_table(ladders, features, accounting, protocol)
  source = sources.Known(table, [x.problem for x in ladders])
  family = families.Uncertainty(1)
  points = (
      point('loss<=0.3@0.9', 0, 1.25, accuracy=0.8, cost=0.7, loss=0.1),
      point('loss<=0.4@0.9', 0, 1.25, accuracy=0.81, cost=0.7, loss=0.1),
      point('cost<=0.9', 0, 0.5, accuracy=0.9, cost=0.85, loss=0.05),
  )
  return report_data.Shown(
      accounting, protocol, points, [family], source, ladders
  )


def content_of(shown_in, routes):
  """Returns what a page shows besides dials and answers, made up in part."""
  results, _ = results_test.make_results()
  results['num_problems'] = {'test': len(shown_in.records)}
  results['operating_points'] = []
  log = [
      {'step': step, 'correct': [0.5 + step / 100], 'cost': [0.4]}
      for step in range(5)
  ]
  protocol = shown_in.protocol
  return {
      'title': 'made',
      **page_figures.of_results(results),
      'protocol': {'name': protocol.name, 'view': protocol.view},
      'routes': routes,
      'settings': {'task': 'made', 'source': shown_in.source.kind},
      'points': page_figures.points(shown_in.points),
      'training': page_figures.training({0: log}, (0.4,), 'budget'),
      'why_not': '',
  }


@functools.cache
def page_of_many():
  """Returns the page of `many`."""
  content = content_of(many(), ['small', 'large'])
  return report_data.render(content, many())


class SizeTest(absltest.TestCase):

  def test_a_page_of_2_000_problems_is_within_5_megabytes(self):
    text = page_of_many()
    self.assertLessEqual(len(text.encode()), 5_000_000)
    held = page.unpacked(text)
    self.assertLen(held['answers']['problem']['id'], 2_000)
    # And these are no small problems.
    self.assertGreater(sum(map(len, held['answers']['texts'])), 3_000_000)

  def test_a_page_too_large_has_fewer_answers_and_all_figures(self):
    content = page.unpacked(page_of_many())
    text = report_data.render(content, many(), max_bytes=1_500_000)
    self.assertLessEqual(len(text.encode()), 1_500_000)
    held = page.unpacked(text)
    self.assertBetween(len(held['answers']['problem']['id']), 100, 1_000)
    self.assertEqual(held['answers']['total'], 2_000)
    self.assertEqual(held['dials'], content['dials'])

  def test_a_page_loads_nothing_from_elsewhere(self):
    text = page_of_many().replace(page.vega(), '')
    # The name of a namespace is no address to load from.
    text = text.replace('http://www.w3.org/2000/svg', '')
    self.assertNotRegex(text, r'https?://|@import|url\(|\[\[\w+\]\]')
    self.assertNotRegex(text, r'innerHTML|insertAdjacentHTML|\beval\(')
    self.assertIn("default-src 'none'", text)
    self.assertNotIn('</script', page.vega())


class PackageTest(absltest.TestCase):

  def test_the_pages_are_part_of_the_package(self):
    text = (checkout.ROOT / 'setup.py').read_text(encoding='utf-8')
    # The same pattern that `chat_page_test` sees the other page packaged by.
    self.assertIn("'routing.evaluation': ['page/**']", text)
    for template, scripts in page.SCRIPTS.items():
      for name in (template, 'style.css', *scripts):
        path = checkout.ROOT / 'routing' / 'evaluation' / 'page' / name
        self.assertTrue(path.is_file(), name)


if __name__ == '__main__':
  absltest.main()
