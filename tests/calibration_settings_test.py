"""Settings of a calibration: rejected before any work, or followed."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.calibration import calibrator
from routing.calibration import groups as groups_lib
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from routing.evaluation import evaluator
from routing.outcomes import known
from routing.outcomes import sources
from routing.routers import card as card_lib
from tests import calibrator_test
from tests import importance_test
from tests import ladders

_KEEN, _BLIND = ladders.Family(), ladders.Family(spread=5.0)
_source = calibrator_test._source
_calibrator = calibrator_test._calibrator


class NotAllowedTest(parameterized.TestCase):

  @parameterized.parameters(
      (dict(procedure='nonsense'), "procedure is 'nonsense'; allowed: fixed_s"),
      (dict(budgets=(0.5, 1.2)), r'budgets contains 1.2; .*in \(0, 1\], since'),
      (dict(budgets=(0,)), 'budgets contains 0; allowed'),
      (dict(confident_budgets=(1.2,)), 'confident_budgets contains 1.2'),
      (
          dict(loss_and_cost=((0.1, 1.2),)),
          r'loss_and_cost contains 1.2; allowed: numbers in \(0, 1\],',
      ),
      (
          dict(loss_and_cost=((1.0, 0.5),)),
          r'loss_and_cost contains 1.0; allowed: numbers in \(0, 1\)\.',
      ),
      (dict(alphas=(0.1, 1.0)), r'alphas contains 1.0; .* in \(0, 1\)\.'),
      (dict(alphas=(-0.1,)), 'alphas contains -0.1; allowed'),
      (dict(alphas=(0.1,), delta=1.0), r'delta must be in \(0, 1\), got 1.0'),
      (dict(alphas=(0.1,), num_choices=0), 'at least 1, got 0'),
      (
          dict(joint_starts=(1, 3)),
          r'joint_starts is \(1, 3\); allowed: .* 0',
      ),
      (dict(joint_starts=(0, 3, 3)), r'joint_starts is \(0, 3, 3\); allowed'),
      (dict(num_thresholds=0), 'num_thresholds is 0; .* at least 1'),
  )
  def test_raises_on_a_setting_that_is_not_allowed(self, wanted, message):
    with self.assertRaisesRegex(ValueError, message):
      calibrator.CalibrationSettings(**wanted)

  def test_a_budget_of_the_large_model_is_allowed(self):
    found = calibrator.CalibrationSettings(
        budgets=(1,), confident_budgets=(1,), loss_and_cost=((0.1, 1),)
    )
    self.assertEqual(found.budgets, (1,))
    self.assertEqual(found.confident_budgets, (1,))

  @parameterized.parameters(
      ('recorded', 'growing', 'allowed: fixed_sequence.'),
      ('recorded', 'bonferroni', 'allowed: fixed_sequence.'),
      ('live', 'growing', 'allowed: fixed_sequence, bonferroni.'),
  )
  def test_raises_on_a_procedure_that_the_source_does_not_support(
      self, kind, name, allowed
  ):
    wanted = calibrator.CalibrationSettings(alphas=(0.1,), procedure=name)
    message = f'procedure is {name!r}, but the outcomes are {kind}; {allowed}'
    with self.assertRaisesRegex(ValueError, message):
      wanted.check_source(kind)
    wanted.check_source('known')
    calibrator.CalibrationSettings(alphas=(0.1,)).check_source(kind)

  def test_recorded_outcomes_need_a_delta_below_a_half(self):
    wanted = calibrator.CalibrationSettings(alphas=(0.1,), delta=0.5)
    wanted.check_source('known')
    with self.assertRaisesRegex(ValueError, 'delta is 0.5; .* below 0.5'):
      wanted.check_source('recorded')
    calibrator.CalibrationSettings(
        alphas=(0.1,), delta=0.5, num_choices=2
    ).check_source('recorded')

  def test_the_calibrator_checks_its_source(self):
    prove = _recorded(200, seed=1)[0]
    with self.assertRaisesRegex(ValueError, 'growing.*outcomes are recorded'):
      _calibrator(prove=prove, alphas=(0.1,), procedure='growing')


class ProcedureTest(parameterized.TestCase):
  """Each promise is tested by the procedure of the settings."""

  def setUp(self):
    super().setUp()
    self.select, self.prove = _source(1), _source(2)
    self.grid = self.select.grid(_KEEN, 200)
    self.values = self.prove.evaluate(_KEEN, self.grid, 'price').values()
    self.risks = [risks_lib.Risk('loss', 0.15, 0.1, p_value='binomial')]

  def _points(self, procedure):
    found = _calibrator(
        self.select,
        self.prove,
        found=(_KEEN,),
        alphas=(0.15,),
        group_by='subject',
        joint_starts=(0, 3),
        procedure=procedure,
    )
    points = {x['name']: x for x in found.points()}
    self.assertEmpty(found.refused)
    return points

  @parameterized.parameters(*risks_lib.PROCEDURES)
  def test_one_threshold_and_groups(self, procedure):
    points = self._points(procedure)
    want = thresholds_lib.from_values(
        self.values, self.grid, self.risks, procedure=procedure
    )
    got = points['loss<=0.15@0.9']
    self.assertEqual(got['threshold'], want.threshold)
    self.assertEqual(got['promise']['p_value'], want.promise.p_value)
    of_groups = groups_lib.from_values(
        self.values,
        self.grid,
        self.risks,
        labels=np.array([x.subject for x in self.prove.problems]),
        procedure=procedure,
    )
    for name in ('algebra', 'sets'):
      got = points[f'loss<=0.15@0.9[{name}]']
      self.assertEqual(got['threshold'], of_groups[name].threshold)
    test = 'growing' if procedure == 'growing' else 'binomial'
    self.assertEqual({x['promise']['test'] for x in points.values()}, {test})

  def test_no_two_procedures_give_the_same_points(self):
    # Otherwise the test above could not distinguish them, by steps too.
    points = [self._points(x) for x in risks_lib.PROCEDURES]
    for name in points[0]:
      found = [
          (x[name]['threshold'], x[name]['promise']['p_value']) for x in points
      ]
      for i, j in ((0, 1), (0, 2), (1, 2)):
        self.assertNotEqual(found[i], found[j], name)


class MaxCostTest(absltest.TestCase):
  """A point that costs more than the large model alone is refused."""

  def test_known_outcomes(self):
    found = _calibrator(
        found=(_BLIND,),
        alphas=(0.02,),
        group_by='subject',
        joint_starts=(0, 3),
    )
    self.assertEmpty(found.points())
    self.assertEqual(
        [x['name'] for x in found.refused],
        [
            'loss<=0.02@0.9',
            'loss<=0.02@0.9[algebra]',
            'loss<=0.02@0.9[sets]',
            'loss<=0.02@0.9/steps0,3',
        ],
    )
    for refused in found.refused:
      self.assertRegex(
          refused['reason'], 'cost 1.0.*the large model alone, which'
      )

  def test_recorded_outcomes(self):
    select, family = _recorded(20_000, seed=1)
    prove, _ = _recorded(20_000, seed=0, family=family)
    found = _calibrator(
        select, prove, found=(family,), alphas=(0.4,), num_thresholds=5
    )
    self.assertEmpty(found.points())
    (refused,) = found.refused
    self.assertRegex(
        refused['reason'], 'needs thresholds that .*the large model a'
    )


class _Recorded:
  """A family with the scores of `importance_test.sample`, found by size."""

  fingerprint = 'recorded'

  def __init__(self):
    self.known = {}

  def score(self, decisions):
    """Returns the scores of the sample with as many decisions."""
    return self.known[len(decisions.depth)], None


def _recorded(num, seed, family=None):
  """Returns trajectories as a source, and the family with their scores."""
  scores, batch = importance_test.sample(num, seed)
  family = family or _Recorded()
  mask = np.asarray(batch.mask, bool)
  family.known[int(mask.sum())] = np.asarray(scores)[mask]
  source = sources.Recorded(
      batch=batch,
      costs={'price': batch.costs},
      uncertainty=np.zeros((*mask.shape, 3)),
      owner=np.arange(num),
      large_correct=np.ones(num),
      problems=ladders.make_known(num).problems,
      min_effective_size=10.0,
  )
  return source, family


class GroupsTest(absltest.TestCase):

  def test_shares_of_delta_do_not_depend_on_prove(self):
    select = _source(1)
    for subjects in (('sets', 'algebra'), ('sets', 'algebra', 'new', 'newer')):
      prove = _source(2, subjects)
      found = _calibrator(
          select, prove, alphas=(0.15,), group_by='subject', joint_starts=()
      )
      points = {x['name']: x for x in found.points()}
      for name in ('sets', 'algebra'):
        promise = points[f'loss<=0.15@0.9[{name}]']['promise']
        self.assertAlmostEqual(promise['delta'], 0.05)
        self.assertEqual(promise['n'], 600 / len(subjects))
    self.assertEqual(
        [x['name'] for x in found.refused],
        ['loss<=0.15@0.9[new]', 'loss<=0.15@0.9[newer]'],
    )
    self.assertIn("group 'new', so it has no share", found.refused[0]['reason'])
    self.assertIsNone(found.refused[0]['needed'])

  def test_a_problem_without_a_group_is_refused_before_the_look(self):
    prove = _source(2)
    nameless = dataclasses.replace(prove.problems[7], subject='')
    prove.problems[7] = nameless
    with self.assertRaisesRegex(ValueError, 'has no subject'):
      _calibrator(prove=prove, alphas=(0.1,), group_by='subject')


class ByStepTest(absltest.TestCase):

  def _point(self, **kwargs):
    found = _calibrator(
        found=(_KEEN,), alphas=(0.15,), joint_starts=(0, 3), **kwargs
    )
    return found.points()[-1], found

  def test_there_is_one_threshold_per_decision_of_the_protocol(self):
    point, _ = self._point()
    kappas = point['threshold']
    # The ladders have six decisions; the protocol has eight.
    self.assertLen(kappas, 8)
    self.assertLen(set(kappas[3:]), 1)
    deeper = ladders.make_known(50, seed=3, num_steps=8)
    self.assertEqual(deeper.table.decisions.max_depth, 8)
    given = card_lib.OperatingPoint(
        'x', 0, tuple(kappas), point['promise'], 'hash'
    )
    (entry,), left_out = evaluator.operating_points(
        [given], [_KEEN], deeper, 'price'
    )
    self.assertEmpty(left_out)
    self.assertGreater(entry['cost'], 0)
    with self.assertRaisesRegex(
        ValueError, 'for 6 decisions, but a problem has 8'
    ):
      scores, _ = _KEEN.score(deeper.table.decisions)
      known.at_depth_thresholds(deeper.table, scores, np.zeros((1, 6)), 'price')

  def test_a_decision_that_no_problem_has_is_refused_by_name(self):
    found = _calibrator(found=(_KEEN,), alphas=(0.15,), joint_starts=(0, 6))
    self.assertEqual([x['name'] for x in found.points()], ['loss<=0.15@0.9'])
    (refused,) = found.refused
    self.assertEqual(refused['name'], 'loss<=0.15@0.9/steps0,6')
    self.assertIn('No problem of select has a decision 6', refused['reason'])


if __name__ == '__main__':
  absltest.main()
