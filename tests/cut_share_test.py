"""Tests of the share of answers that the token limit cut off."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import protocols
from routing import types
from routing.evaluation import bootstrap
from routing.evaluation import cut_share
from routing.evaluation import methods
from routing.evaluation import results as results_lib
from routing.evaluation import tables
from routing.outcomes import points as points_lib
from routing.outcomes import records
from routing.outcomes import sources
from routing.rollout import cut_answers
from routing.routers import families
from tests import left_out_test
from tests import scripted_pair
from tests import sources_test

_NUM_PROBLEMS = 10
_PROTOCOL = protocols.Protocol('escalate', 'peek')


def _cut_off(steps):
  """Returns steps whose last one does not end the answer."""
  *others, last = steps
  return (*others, dataclasses.replace(last, is_final=False))


def _ladder(ladder, small, large):
  """Returns a ladder whose answers were cut off, or not, or nobody knows."""
  completions = tuple(
      dataclasses.replace(x, is_cut=large) for x in ladder.completions
  )
  steps = _cut_off(ladder.steps) if small else ladder.steps
  return dataclasses.replace(ladder, steps=steps, completions=completions)


def _known(num_small, num_large, unknown=()):
  """Returns a source: the first small and large answers are cut off."""
  ladders = [
      _ladder(x, i < num_small, None if i in unknown else i < num_large)
      for i, x in enumerate(scripted_pair.make_ladders(_NUM_PROBLEMS))
  ]
  table = records.ladder_table(
      ladders, sources_test.FEATURES, sources_test.ACCOUNTING, _PROTOCOL
  )
  return sources.Known(table, [x.problem for x in ladders])


class SourcesTest(parameterized.TestCase):

  def test_known_outcomes(self):
    source = _known(3, 1)
    never, always = source.at_rates([0.0, 1.0], 'price').cut_share
    self.assertAlmostEqual(never, 0.3)
    self.assertAlmostEqual(always, 0.1)
    self.assertAlmostEqual(source.largest_alone().cut_share[0], 0.1)

    family = families.FixedStep(2)
    at = source.evaluate(family, np.array([np.inf, -np.inf]), 'price')
    np.testing.assert_allclose(at.cut_share, [0.3, 0.1])
    np.testing.assert_allclose(at.take([1]).on(slice(0, 1)).cut, [[1.0]])

  def test_what_was_not_recorded_stays_unknown(self):
    source = _known(3, 1, unknown=(5,))
    self.assertAlmostEqual(source.at_rates([0.0], 'price').cut_share[0], 0.3)
    self.assertTrue(np.isnan(source.largest_alone().cut_share[0]))

  def test_points_without_it_make_it_unknown(self):
    known = _known(3, 1).largest_alone()
    values = known.values()
    both = points_lib.concatenate([known, points_lib.Points(**values)])
    self.assertIsNone(both.cut)
    self.assertTrue(np.isnan(both.cut_share).all())

  def test_recorded_outcomes_are_weighted(self):
    rollouts = scripted_pair.make_rollouts(_NUM_PROBLEMS, num_trajectories=2)
    first, *others = rollouts
    first = dataclasses.replace(
        first,
        reference=dataclasses.replace(first.reference, is_cut=True),
        trajectories=tuple(
            dataclasses.replace(x, steps=_cut_off(x.steps))
            for x in first.trajectories
        ),
    )
    source = records.recorded_source(
        [first, *others],
        sources_test.FEATURES,
        sources_test.ACCOUNTING,
        protocols.Protocol('redraft'),
        min_effective_size=1.0,
    )
    self.assertAlmostEqual(source.largest_alone().cut_share[0], 0.1)
    found = source.at_rates([0.5], 'price')
    # Nothing but the first problem contributes, as in `correct`.
    np.testing.assert_array_equal(found.cut[0, 1:], 0.0)
    self.assertGreater(found.cut[0, 0], 0.0)
    right = dataclasses.replace(
        source, batch=dataclasses.replace(source.batch, correct=source.cut)
    )
    np.testing.assert_array_equal(
        right.at_rates([0.5], 'price').correct, found.cut
    )


class CountTest(absltest.TestCase):

  def test_counts_ladders_and_leaves_out_the_unknown(self):
    count = cut_answers.Count()
    self.assertEqual(count.in_words(), '')
    ladders = scripted_pair.make_ladders(2)
    sizes = [len(x.completions) for x in ladders]
    count.add(_ladder(ladders[0], True, False))
    self.assertEqual((count.num_cut, count.num_answers), (1, 1 + sizes[0]))
    count.add(_ladder(ladders[1], False, None))
    self.assertEqual((count.num_cut, count.num_answers), (1, 2 + sizes[0]))
    self.assertIn(f'cut off 1 of {2 + sizes[0]} answers', count.in_words())

  def test_counts_rollouts(self):
    count = cut_answers.Count()
    (record,) = scripted_pair.make_rollouts(1, num_trajectories=3)
    count.add(record)
    self.assertEqual((count.num_cut, count.num_answers), (0, 4))


class ReportTest(parameterized.TestCase):

  def _results(self, source):
    pair = methods.Pair(source, source)
    candidates = {
        'policy': [methods.thresholded([families.FixedStep(2)], pair, 'price')]
    }
    figures = results_lib.of_metric(
        candidates,
        source.oracle(methods.PRICES, 'price'),
        results_lib.anchors_of(
            source.at_rates([0.0], 'price'), source.largest_alone()
        ),
        bootstrap.draw(_NUM_PROBLEMS, [1], 10, seed=0),
        'policy',
    )
    return left_out_test.as_results({'price': {**figures, 'left_out': {}}})

  def test_stands_beside_the_accuracy(self):
    results = self._results(_known(_NUM_PROBLEMS, _NUM_PROBLEMS))
    column = tables.COLUMNS.index('cut @.4')
    for row in tables.rows(results, 'price'):
      self.assertEqual(row[column], '1.000')
    self.assertEqual(tables.title(results, 'price').count('(cut off: 100'), 2)

  def test_a_limit_that_decides_is_said(self):
    results = self._results(_known(2, 0))
    self.assertIn(
        'the token limit cut off 20.0% of the answers of the small model alone',
        tables.markdown(results),
    )
    self.assertNotIn('the large model', cut_share.warning(results))
    self.assertEqual(cut_share.warning(self._results(_known(0, 0))), '')

  def test_the_unknown_is_a_dash(self):
    results = self._results(_known(0, 0, unknown=range(_NUM_PROBLEMS)))
    self.assertIn('accuracy', tables.title(results, 'price'))
    self.assertIn('(cut off: -)', tables.title(results, 'price'))
    self.assertEqual(cut_share.warning(results), '')


class TreesTest(absltest.TestCase):

  def test_a_completion_does_not_say_by_default(self):
    fields = dict(step=0, route=1, sample=0, text='', read=1, written=1)
    completion = types.Completion(**fields, seconds=0.0, is_correct=True)
    self.assertIsNone(completion.is_cut)


if __name__ == '__main__':
  absltest.main()
