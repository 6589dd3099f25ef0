"""Tests of the calibrator: what is chosen on select and proven on prove."""

import dataclasses
import json

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.calibration import calibrator
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from tests import ladders

_SIZE = 600
_HASHES = {'checkpoint_hash': 'c', 'shards_hash': 's'}
_BLIND, _KEEN = ladders.Family(spread=5.0), ladders.Family()


def _source(seed, subjects=('sets', 'algebra')):
  """Returns ladders whose problems alternate between subjects."""
  known = ladders.make_known(_SIZE, seed=seed)
  problems = [
      dataclasses.replace(x, subject=subjects[n % len(subjects)])
      for n, x in enumerate(known.problems)
  ]
  return dataclasses.replace(known, problems=problems)


def _calibrator(select=None, prove=None, found=(_BLIND, _KEEN), **wanted):
  return calibrator.Calibrator(
      found,
      select or _source(1),
      prove or _source(2),
      calibrator.CalibrationSettings(**wanted),
      metric='price',
      max_decisions=8,
      hashes=_HASHES,
  )


class ChosenAndProvenTest(parameterized.TestCase):

  def test_thresholds_come_from_select_and_are_tested_on_prove(self):
    select, prove = _source(1), _source(2)
    (point,) = _calibrator(select, prove, alphas=(0.1,)).points()
    self.assertEqual(point['policy_index'], 1)
    # The same from its parts: thresholds of select, a test on prove.
    grid = select.grid(_KEEN, 200)
    wanted = thresholds_lib.from_values(
        prove.evaluate(_KEEN, grid, 'price').values(),
        grid,
        [risks_lib.Risk('loss', 0.1, 0.1, p_value='binomial')],
    )
    self.assertEqual(point['threshold'], wanted.threshold)
    self.assertEqual(point['promise']['n'], _SIZE)
    self.assertEqual(point['promise']['test'], 'binomial')
    self.assertEqual(point['promise']['source'], 'known')

  def test_figures_are_means_of_prove(self):
    # Another sample of select moves the grid a little; another sample of prove
    # changes the figures, which are its means.
    prove = _source(2)
    first, second = (
        _calibrator(_source(seed), prove, alphas=(0.1,)).points()[0]
        for seed in (1, 3)
    )
    for point in (first, second):
      earned = prove.evaluate(_KEEN, np.array([point['threshold']]), 'price')
      measured = point['promise']['measured']
      # Rounded to four digits.
      for name in ('loss', 'cost'):
        truth = float(getattr(earned, name).mean())
        self.assertAlmostEqual(measured[name], truth, delta=6e-5)

  def test_the_policy_is_the_cheapest_within_the_loss_on_select(self):
    select = _source(1)
    costs = []
    for family in (_BLIND, _KEEN):
      frontier = select.frontier(family, 'price')
      costs.append(frontier.cost[frontier.loss <= 0.1].min())
    (point,) = _calibrator(select, alphas=(0.1,)).points()
    self.assertEqual(point['policy_index'], int(np.argmin(costs)))

  def test_a_budget_promises_nothing_and_is_chosen_on_select(self):
    select = _source(1)
    (point,) = _calibrator(select, budgets=(0.5,)).points()
    self.assertIsNone(point['promise']['delta'])
    earned = select.evaluate(_KEEN, np.array([point['threshold']]), 'price')
    self.assertLessEqual(earned.cost.mean(), 0.5)
    # No threshold within the budget is more accurate there.
    frontier = select.frontier(_KEEN, 'price')
    best = frontier.accuracy[frontier.cost <= 0.5].max()
    self.assertAlmostEqual(float(earned.correct.mean()), best)

  def test_a_budget_below_the_small_model_is_refused_by_name(self):
    found = _calibrator(
        budgets=(0.01, 0.5),
        confident_budgets=(0.01,),
        loss_and_cost=((0.2, 0.01),),
    )
    self.assertEqual([x['name'] for x in found.points()], ['cost<=0.5'])
    self.assertEqual(
        [x['name'] for x in found.refused],
        ['cost<=0.01', 'cost<=0.01@0.9', 'loss<=0.2@0.9&cost<=0.01@0.9'],
    )
    for refused in found.refused:
      self.assertRegex(refused['reason'], r'^Budget 0.01 is outside \[0.\d')

  def test_the_test_depends_on_how_outcomes_were_graded(self):
    several = dataclasses.replace(_source(2), is_graded_once=False)
    (point,) = _calibrator(prove=several, alphas=(0.1,)).points()
    self.assertEqual(point['promise']['test'], 'betting')


class KindsTest(parameterized.TestCase):

  def test_names_of_all_kinds(self):
    found = _calibrator(
        budgets=(0.5,),
        alphas=(0.1,),
        confident_budgets=(0.7,),
        loss_and_cost=((0.2, 0.8),),
        group_by='subject',
        joint_starts=(0, 3),
    )
    points = found.points()
    self.assertEqual(
        [point['name'] for point in points],
        [
            'cost<=0.5',
            'loss<=0.1@0.9',
            'cost<=0.7@0.9',
            'loss<=0.2@0.9&cost<=0.8@0.9',
            'loss<=0.1@0.9[algebra]',
            'loss<=0.1@0.9[sets]',
            'loss<=0.1@0.9/steps0,3',
        ],
    )
    self.assertEmpty(found.refused)
    json.dumps(points, allow_nan=False)
    for point in points:
      self.assertEqual(point['checkpoint_hash'], 'c')
      self.assertEqual(point['shards_hash'], 's')
    both, algebra, steps = points[3], points[4], points[6]
    self.assertEqual(both['promise']['also'][0]['cost_cap'], 2.0)
    self.assertEqual(algebra['promise']['group'], 'algebra')
    self.assertAlmostEqual(algebra['promise']['delta'], 0.1 / 2)
    # One per decision: three of the first group, then of the other.
    self.assertLen(set(steps['threshold'][:3]), 1)
    self.assertGreater(len(steps['threshold']), 3)

  def test_two_thresholds_cost_no_more_than_one_on_the_same_problems(self):
    # On select, where both are chosen, one is a special case of two.
    select = _source(1)
    one, two = _calibrator(
        select, select, found=(_KEEN,), alphas=(0.1,), joint_starts=(0, 3)
    ).points()
    cost = lambda x: x['promise']['measured']['cost']
    self.assertLessEqual(cost(two), cost(one) + 0.02)

  def test_a_group_that_nothing_is_proven_for_is_refused(self):
    prove = _source(2)
    rare = [dataclasses.replace(prove.problems[0], subject='rare')]
    select = _source(1)
    select = dataclasses.replace(
        select, problems=[*rare, *list(select.problems)[1:]]
    )
    found = _calibrator(select, prove, alphas=(0.1,), group_by='subject')
    names = [point['name'] for point in found.points()]
    self.assertIn('loss<=0.1@0.9[sets]', names)
    (refused,) = found.refused
    self.assertEqual(refused['name'], 'loss<=0.1@0.9[rare]')
    self.assertGreater(refused['needed'], 0)

  def test_a_refused_point_does_not_affect_the_others(self):
    found = _calibrator(alphas=(1e-4, 0.1))
    self.assertEqual([x['name'] for x in found.points()], ['loss<=0.1@0.9'])
    (refused,) = found.refused
    self.assertEqual(refused['name'], 'loss<=0.0001@0.9')
    self.assertIn('fresh sample', refused['reason'])
    # A second call lists the refusal once, not twice.
    found.points()
    self.assertLen(found.refused, 1)

  def test_levels_that_no_policy_keeps_together_are_refused(self):
    found = _calibrator(loss_and_cost=((0.001, 0.35),))
    self.assertEmpty(found.points())
    (refused,) = found.refused
    self.assertRegex(refused['reason'], 'No threshold of any policy keeps')
    self.assertIsNone(refused['needed'])

  @parameterized.parameters('group_by', 'joint_starts')
  def test_settings_that_need_known_outcomes_are_refused_elsewhere(self, field):
    prove = _source(2)
    other = lambda: None
    for name in ('evaluate', 'problems', 'is_graded_once', 'grid'):
      setattr(other, name, getattr(prove, name))
    other.kind = 'live'
    value = {'group_by': 'subject', 'joint_starts': (0, 3)}[field]
    with self.assertRaisesRegex(ValueError, f'{field} needs .* are live'):
      _calibrator(prove=other, alphas=(0.1,), **{field: value}).points()


if __name__ == '__main__':
  absltest.main()
