"""Tests of parts of calibration: policies, ties, groups, looks, entries."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import types
from routing.calibration import calibrator
from routing.calibration import groups
from routing.calibration import looks
from routing.calibration import named_points
from routing.calibration import operating_points
from routing.calibration import risks as risks_lib
from routing.calibration import settings as settings_lib
from routing.calibration import thresholds as thresholds_lib
from routing.outcomes import frontier as frontier_lib
from tests import calibrator_test
from tests import ladders

Risk = risks_lib.Risk
Settings = settings_lib.CalibrationSettings
_source = calibrator_test._source
_calibrator = calibrator_test._calibrator
_KEEN = ladders.Family()


def frontier(accuracy, cost, loss):
  """Returns a frontier with thresholds 0, 1, ... and the given means."""
  accuracy, cost, loss = (np.array(x, float) for x in (accuracy, cost, loss))
  fields = {x.name for x in dataclasses.fields(frontier_lib.Frontier)}
  known = dict(
      thresholds=np.arange(float(len(cost))),
      accuracy=accuracy,
      cost=cost,
      loss=loss,
      gain=np.zeros(len(cost)),
  )
  return frontier_lib.Frontier(
      **{k: x for k, x in known.items() if k in fields}
  )


class BestPolicyTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.frontiers = [
        frontier([0.9, 0.6], [0.8, 0.3], [0.0, 0.3]),
        frontier([0.8, 0.7], [0.7, 0.4], [0.1, 0.2]),
        frontier([0.95, 0.5], [0.9, 0.2], [0.0, 0.4]),
    ]

  @parameterized.parameters(
      # The cheapest policy whose loss is at most the level.
      ([Risk('loss', 0.05, 0.1)], 0),
      ([Risk('loss', 0.1, 0.1)], 1),
      ([Risk('loss', 0.4, 0.1)], 2),
      # The most accurate policy whose cost is at most the level.
      ([Risk('cost', 0.75, 0.1, 2.0)], 1),
      ([Risk('cost', 0.8, 0.1, 2.0)], 0),
      ([Risk('cost', 0.9, 0.1, 2.0)], 2),
      # The most accurate policy that keeps both levels.
      ([Risk('loss', 0.1, 0.1), Risk('cost', 0.75, 0.1, 2.0)], 1),
      ([Risk('loss', 0.05, 0.1), Risk('cost', 0.85, 0.1, 2.0)], 0),
  )
  def test_by_hand(self, risks, policy_index):
    self.assertEqual(
        calibrator.best_policy(self.frontiers, risks), policy_index
    )

  def test_the_first_of_equal_policies_is_chosen(self):
    twice = [self.frontiers[1]] * 2
    self.assertEqual(calibrator.best_policy(twice, [Risk('loss', 0.1, 0.1)]), 0)

  def test_no_policy_within_the_levels_is_refused(self):
    risks = [Risk('loss', 0.05, 0.1), Risk('cost', 0.75, 0.1, 2.0)]
    with self.assertRaisesRegex(
        risks_lib.Refusal,
        r'keeps loss<=0.05@0.9&cost<=0.75@0.9, .* chosen on\. Allow a higher '
        r'level\.$',
    ) as caught:
      calibrator.best_policy(self.frontiers, risks)
    self.assertIsNone(caught.exception.needed)


class PoliciesTest(parameterized.TestCase):
  """Two policies, one of which is expensive even at its cheapest threshold."""

  def setUp(self):
    super().setUp()
    self.expensive = ladders.Family(spread=0.5, seed=3)
    self.select = _source(1)

  def test_a_budget_that_one_policy_keeps_is_not_refused(self):
    min_cost = self.select.frontier(_KEEN, 'price').cost.min()
    found = _calibrator(self.select, found=(_KEEN,), budgets=(float(min_cost),))
    (point,) = found.points()
    self.assertAlmostEqual(point['promise']['measured']['cost'], min_cost, 3)
    # Two policies, of which the second costs more at its cheapest threshold.
    for order in ((0, 1), (1, 0)):
      found = _calibrator(
          self.select, found=(_KEEN, self.expensive), budgets=(0.5,)
      )
      known = found._frontiers
      costlier = dataclasses.replace(known[1], cost=known[1].cost + 0.4)
      found._frontiers = [(known[0], costlier)[k] for k in order]
      (point,) = found.points()
      self.assertEqual(point['policy_index'], order.index(0))
      self.assertEmpty(found.refused)

  def test_the_first_of_equally_accurate_policies_is_chosen(self):
    found = _calibrator(self.select, found=(_KEEN, _KEEN), budgets=(0.5,))
    self.assertEqual(found.points()[0]['policy_index'], 0)

  def test_a_budget_point_is_chosen_on_all_select_problems(self):
    (point,) = _calibrator(
        dataclasses.replace(self.select), budgets=(0.5,)
    ).points()
    self.assertEqual(point['promise']['n'], 600)
    self.assertEqual(point['promise']['what'], 'cost')
    self.assertEqual(point['promise']['level'], 0.5)


class GroupsTest(parameterized.TestCase):

  def test_a_group_without_select_problems_is_refused_once(self):
    prove = _source(2, ('sets', 'algebra', 'new'))
    found = _calibrator(_source(1), prove, alphas=(0.15,), group_by='subject')
    found.points()
    (refused,) = found.refused
    self.assertEndsWith(
        refused['reason'], 'Groups that have a share: algebra, sets.'
    )

  def test_a_point_of_a_group_records_the_delta_of_all_groups(self):
    found = _calibrator(alphas=(0.15,), group_by='subject', delta=0.2)
    points = {x['name']: x['promise'] for x in found.points()}
    promise = points['loss<=0.15@0.8[sets]']
    self.assertEqual(promise['group'], 'sets')
    self.assertEqual(promise['delta_of_all_groups'], 0.2)
    self.assertAlmostEqual(promise['delta'], 0.1)

  def test_all_problems_and_not_one_group_decide_the_test(self):
    # Only group b has a loss of 1/2.
    values = {
        name: np.zeros((1, 200)) for name in ('correct', 'cost', 'loss', 'gain')
    }
    labels = np.repeat(['a', 'b'], 100)
    values['loss'][0, 150] = 0.5
    found = groups.from_values(
        values, np.zeros(1), [Risk('loss', 0.1, 0.1)], labels=labels
    )
    self.assertEqual(
        [x.promise.test for x in found.values()], ['hoeffding_bentkus'] * 2
    )
    self.assertEqual(list(found), ['a', 'b'])

  def test_the_maximum_cost_applies_to_each_group(self):
    values = {
        name: np.zeros((1, 200)) for name in ('correct', 'cost', 'loss', 'gain')
    }
    values['cost'][:] = np.repeat([0.5, 0.9], 100)
    args = values, np.zeros(1), [Risk('loss', 0.1, 0.1)]
    labels = np.repeat(['a', 'b'], 100)
    found = groups.from_values(*args, labels=labels, max_cost=0.8)
    self.assertEqual(found['a'].cost, 0.5)
    self.assertIsInstance(found['b'], risks_lib.Refusal)
    found = groups.from_values(*args, labels=labels)
    self.assertAlmostEqual(found['b'].cost, 0.9)
    with self.assertRaisesRegex(ValueError, r'\(200,\), got \(199,\)'):
      groups.from_values(*args, labels=labels[1:])
    with self.assertRaisesRegex(ValueError, "Label 'a' is not in names"):
      groups.from_values(*args, labels=labels, names=['c'])

  @parameterized.parameters('fixed_sequence', 'bonferroni', 'growing')
  def test_outcome_tables_give_the_same_points_as_values(self, procedure):
    outcomes, scores = ladders.make_outcomes(600, seed=3)
    labels = np.arange(600) % 2
    grid = np.array([-np.inf, -1.0, 0.0, 1.0, np.inf])
    risks = [Risk('loss', 0.2, 0.1)]
    got = groups.for_groups(
        scores,
        outcomes,
        risks,
        labels=labels,
        thresholds=grid,
        procedure=procedure,
        max_cost=np.inf,
    )
    want = groups.from_values(
        thresholds_lib.values_at(scores, outcomes, grid),
        grid,
        risks,
        labels=labels,
        procedure=procedure,
        max_cost=np.inf,
    )
    self.assertEqual(got, want)
    with self.assertRaisesRegex(ValueError, 'rise'):
      groups.for_groups(
          scores, outcomes, risks, labels=labels, thresholds=grid[::-1]
      )


class StepsTest(absltest.TestCase):

  def test_a_start_at_the_last_decision_is_allowed(self):
    found = _calibrator(found=(_KEEN,), alphas=(0.15,), joint_starts=(0, 5))
    self.assertLen(found.points(), 2)
    self.assertEmpty(found.refused)

  def test_refused_starts_do_not_ask_for_a_fresh_sample(self):
    found = _calibrator(found=(_KEEN,), alphas=(0.15,), joint_starts=(0, 6))
    found.points()
    (refused,) = found.refused
    self.assertEndsWith(
        refused['reason'],
        'the last one is 5. Lower the last of calibration.joint_starts.',
    )
    self.assertIsNone(refused['needed'])


class LooksTest(parameterized.TestCase):

  def look(self, num, num_choices=1, procedure='growing', data='d'):
    problems = [types.Problem(str(k), str(k), '') for k in range(num)]
    settings = {'procedure': procedure, 'num_choices': num_choices}
    return looks.look_at(problems, f'{data}{num}', settings), problems

  def test_a_look_that_is_no_growth_forbids_further_looks(self):
    first, third = self.look(10), self.look(20)
    second = self.look(9, procedure='fixed_sequence')
    with self.assertRaises(ValueError):
      looks.added([first[0], second[0]], *third)

  def test_one_problem_more_is_growth_and_none_is_not(self):
    first, _ = self.look(10)
    self.assertLen(looks.added([first], *self.look(11)), 2)
    with self.assertRaisesRegex(
        ValueError,
        'Changed since then: the recorded outcomes of the same problems',
    ):
      looks.added([first], *self.look(10, data='e'))

  def test_a_correction_for_three_looks_allows_three(self):
    found = []
    for k in range(3):
      found = looks.added(
          found, *self.look(10, 3, 'fixed_sequence', data=f'd{k}')
      )
    self.assertLen(found, 3)
    with self.assertRaisesRegex(
        ValueError, 'tested on the problems of prove 3 time'
    ):
      looks.added(found, *self.look(10, 3, 'fixed_sequence', data='x'))


class SettingsTest(parameterized.TestCase):

  def test_defaults(self):
    settings = Settings()
    self.assertEqual((settings.delta, settings.is_joint), (0.1, False))
    self.assertEqual((settings.num_choices, settings.num_thresholds), (1, 200))
    self.assertEqual(settings.risks('binomial'), [])
    self.assertEqual(settings_lib.COST_CAP, 2.0)

  @parameterized.parameters('alphas', 'budgets', 'confident_budgets')
  def test_levels_must_be_positive(self, field):
    for value in (0.0, -0.1):
      with self.assertRaisesRegex(
          ValueError, rf'calibration\.{field} contains {value}; allowed'
      ):
        Settings(**{field: (value,)})
    Settings(**{field: (1e-6, 0.999)})

  def test_one_threshold_and_one_start_are_allowed(self):
    Settings(num_thresholds=1, joint_starts=(0,))
    with self.assertRaisesRegex(
        ValueError, 'num_thresholds is -1; .* at least 1'
    ):
      Settings(num_thresholds=-1)

  def test_joint_promises_share_delta_and_name_their_tests(self):
    settings = Settings(
        alphas=(0.1,),
        confident_budgets=(0.7,),
        loss_and_cost=((0.2, 0.8),),
        delta=0.06,
    )
    (loss,), (cost,), (left, right) = settings.risks('binomial')
    self.assertEqual((loss.level, loss.p_value, loss.cap), (0.1, 'binomial', 1))
    self.assertEqual((cost.level, cost.p_value, cost.cap), (0.7, 'betting', 2))
    self.assertEqual((left.quantity, right.quantity), ('loss', 'cost'))
    self.assertEqual({x.delta for x in (loss, cost, left, right)}, {0.06})
    joint = dataclasses.replace(settings, is_joint=True).risks('binomial')
    self.assertEqual([x.delta for x in joint[2]], [0.03, 0.03])
    self.assertEqual([x.num_joint for x in joint[2]], [2, 2])

  def test_delta_must_be_below_one_half_for_recorded_outcomes(self):
    # Without a promise, delta is not used and not checked.
    Settings(delta=0.6).check_source('recorded')
    with self.assertRaisesRegex(ValueError, 'delta is 0.6'):
      Settings(alphas=(0.1,), delta=0.6).check_source('recorded')
    Settings(alphas=(0.1,), delta=0.6).check_source('live')

  @parameterized.parameters('group_by', 'joint_starts')
  def test_groups_and_joint_thresholds_need_known_outcomes(self, field):
    value = {'group_by': 'subject', 'joint_starts': (0, 2)}[field]
    settings = Settings(**{field: value})
    settings.check_source('known')
    for kind in ('live', 'recorded'):
      with self.assertRaisesRegex(ValueError, f'{field} needs'):
        settings.check_source(kind)


class EntriesTest(parameterized.TestCase):

  def promise(self, **fields):
    return operating_points.Promise(
        **{'quantity': 'loss', 'level': 0.1, 'delta': 0.1, 'num_problems': 9}
        | fields
    )

  def point(self, *promises, threshold=0.5):
    return operating_points.OperatingPoint(
        threshold, promises, 0.123456, 0.2, 0.3, 0.4
    )

  @parameterized.parameters(
      (-np.inf, 0.0), (np.inf, 2.0), (0.3, 0.3), (1.5, 1.5), (2.5, 2.0)
  )
  def test_infinite_thresholds_are_written_as_finite_numbers(
      self, threshold, written
  ):
    point = self.point(self.promise(), threshold=threshold)
    entry = named_points.to_json('x', 3, point, {'hash': 'h'}, source='known')
    self.assertEqual(entry['threshold'], written)
    self.assertEqual((entry['name'], entry['policy_index']), ('x', 3))
    self.assertEqual(
        (entry['hash'], entry['promise']['source']), ('h', 'known')
    )
    self.assertEqual(
        entry['promise']['measured'],
        {'accuracy': 0.1235, 'cost': 0.2, 'loss': 0.3, 'gain': 0.4},
    )

  def test_joint_delta_is_a_sum_of_at_most_one(self):
    for deltas, want in (
        ((0.1,), 0.1),
        ((0.1, 0.3), 0.4),
        ((0.7, 0.6), 1.0),
        ((None, 0.2), 0.2),
        ((None,), None),
    ):
      point = self.point(*(self.promise(delta=x) for x in deltas))
      if want is None:
        self.assertIsNone(point.joint_delta)
      else:
        self.assertAlmostEqual(point.joint_delta, want)

  def test_json_omits_fields_that_do_not_apply(self):
    plain = self.promise().to_json()
    self.assertEqual(
        plain,
        {
            'what': 'loss',
            'level': 0.1,
            'delta': 0.1,
            'n': 9,
            'p_value': None,
            'num_choices': 1,
        },
    )
    full = self.promise(
        quantity='cost',
        test='betting',
        cost_cap=2.0,
        p_value=0.01,
        num_choices=4,
    ).to_json()
    self.assertEqual((full['test'], full['cost_cap']), ('betting', 2.0))
    self.assertEqual((full['p_value'], full['num_choices']), (0.01, 4))
    marginal = self.promise(delta=None, is_marginal=True).to_json()
    self.assertTrue(marginal['is_marginal'])
    self.assertNotIn('num_choices', marginal)
    # An entry with several promises lists all but the first in 'also'.
    point = self.point(self.promise(), self.promise(delta=0.2))
    self.assertEqual((point.promise.delta, point.promise.num_joint), (0.1, 1))
    both = point.to_json()
    self.assertLen(both['also'], 1)
    self.assertAlmostEqual(both['joint_delta'], 0.3)
    self.assertNotIn('also', self.point(self.promise()).to_json())


if __name__ == '__main__':
  absltest.main()
