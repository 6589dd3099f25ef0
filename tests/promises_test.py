"""Tests of the names and sentences of promises."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.calibration import calibrator
from routing.calibration import named_points
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from routing.routers import card as card_lib
from routing.routers import promises

Risk = risks_lib.Risk
LOSS, COST = Risk('loss', 0.05, 0.1), Risk('cost', 0.6, 0.1, 2.0, 'betting')
CAPPED = (
    "mean cost, each problem's capped at 2 times the large model's, <= 0.6 "
    'with probability 0.9'
)


def point(risks, num=400):
  """Returns a point without losses at which all costs are 0.3."""
  values = {
      name: np.full((1, num), value)
      for name, value in dict(correct=1.0, cost=0.3, loss=0.0, gain=0.0).items()
  }
  return thresholds_lib.from_values(values, np.zeros(1), risks)


class NameTest(parameterized.TestCase):

  def test_separate_and_joint_promises(self):
    self.assertEqual(point([LOSS, COST]).name, 'loss<=0.05@0.9&cost<=0.6@0.9')
    shared = risks_lib.shared([LOSS, COST], 0.1)
    self.assertEqual([risk.delta for risk in shared], [0.05, 0.05])
    self.assertEqual(point(shared).name, 'loss<=0.05&cost<=0.6@0.9')
    self.assertEqual(point(shared).joint_delta, 0.1)
    (alone,) = risks_lib.shared([LOSS], 0.1)
    self.assertEqual(alone, LOSS)

  @parameterized.parameters(2, 3, 7)
  def test_a_choice_divides_delta_and_keeps_the_name(self, num):
    risk = risks_lib.corrected(LOSS, num)
    self.assertAlmostEqual(risk.delta, 0.1 / num)
    self.assertEqual((risk.num_choices, risk.name), (num, LOSS.name))
    self.assertEqual(risks_lib.corrected(0.1, num), 0.1 / num)
    # Sharing and correcting commute.
    one = [
        risks_lib.corrected(x, num) for x in risks_lib.shared([LOSS, COST], 0.1)
    ]
    both = risks_lib.corrected(LOSS, num), risks_lib.corrected(COST, num)
    other = risks_lib.shared(both, 0.1)
    for x, y in zip(one, other, strict=True):
      self.assertAlmostEqual(x.delta, y.delta)
      self.assertAlmostEqual(x.delta, 0.1 / 2 / num)
    self.assertEqual(promises.name_of(one), 'loss<=0.05&cost<=0.6@0.9')

  @parameterized.parameters(0, 1.5, -1)
  def test_an_invalid_number_of_choices_raises(self, num):
    with self.assertRaisesRegex(ValueError, f'at least 1, got {num}'):
      risks_lib.corrected(LOSS, num)


class SettingsTest(parameterized.TestCase):

  @parameterized.parameters(
      (False, 1, 0.1, 'loss<=0.05@0.9&cost<=0.6@0.9'),
      (True, 1, 0.05, 'loss<=0.05&cost<=0.6@0.9'),
      (True, 2, 0.025, 'loss<=0.05&cost<=0.6@0.9'),
  )
  def test_pairs_are_tested_at_their_share(self, is_joint, among, delta, name):
    wanted = calibrator.CalibrationSettings(
        alphas=(0.05,),
        loss_and_cost=((0.05, 0.6),),
        is_joint=is_joint,
        num_choices=among,
    )
    alone, pair = wanted.risks('binomial')
    self.assertAlmostEqual(alone[0].delta, 0.1 / among)
    self.assertEqual(alone[0].name, 'loss<=0.05@0.9')
    for risk in pair:
      self.assertAlmostEqual(risk.delta, delta)
    self.assertEqual(promises.name_of(pair), name)


class SentencesTest(parameterized.TestCase):

  def json(self, found, **extra):
    return named_points.to_json(found.name, 0, found, {}, **extra)['promise']

  def test_every_sentence_about_cost_mentions_the_cap(self):
    found = point([COST])
    entry = self.json(found)
    held = card_lib.OperatingPoint(found.name, 0, 0.0, entry, '')
    for text in (
        promises.claim(COST),
        str(found.promise),
        str(found),
        promises.in_words(entry),
        str(held),
    ):
      self.assertIn(CAPPED, text)
    with self.assertRaises(risks_lib.Refusal) as refusal:
      point([COST], num=2)
    self.assertIn(CAPPED, str(refusal.exception))

  def test_promise_and_json_give_the_same_sentence(self):
    for risks in ([LOSS], [LOSS, COST], risks_lib.shared([LOSS, COST], 0.2)):
      found = point(risks)
      self.assertEqual(promises.in_words(self.json(found)), str(found))

  @parameterized.parameters(
      ([LOSS, COST], 0.2, 'jointly with probability 0.8'),
      (
          risks_lib.shared([LOSS, COST], 0.1),
          0.1,
          'jointly with probability 0.9',
      ),
  )
  def test_several_promises_state_the_joint_probability(
      self, risks, joint, says
  ):
    found = point(risks)
    self.assertAlmostEqual(self.json(found)['joint_delta'], joint)
    self.assertIn(says, str(found))

  def test_deltas_that_sum_to_one_or_more_give_no_joint_guarantee(self):
    entry = {'what': 'loss', 'level': 0.1, 'delta': 0.6}
    got = promises.in_words({**entry, 'also': [entry]})
    self.assertIn('jointly without a guarantee', got)

  def test_the_sentence_says_whether_a_choice_is_covered(self):
    alone = point([LOSS])
    self.assertEqual(self.json(alone)['num_choices'], 1)
    self.assertIn('for this point alone', str(alone))
    found = point([risks_lib.corrected(LOSS, 5)])
    self.assertEqual(self.json(found)['num_choices'], 5)
    self.assertAlmostEqual(found.promise.delta, 0.02)
    self.assertIn('<= 0.05 with probability 0.98', str(found))
    self.assertIn('up to 5 such points', str(found))
    self.assertIn('with probability 0.9 also for the one chosen', str(found))
    both = [risks_lib.corrected(x, 2) for x in (LOSS, COST)]
    self.assertIn(
        'with probability 0.8 also for the one chosen', str(point(both))
    )

  def test_untested_and_marginal_points_state_no_probability(self):
    pick = thresholds_lib.Promise('cost', 0.4, None, 9)
    self.assertNotIn('with probability', str(pick))
    self.assertNotIn('num_choices', pick.to_json())
    held = card_lib.OperatingPoint(pick.name, 0, 0.5, pick.to_json(), '')
    self.assertNotIn('promised', str(held))
    marginal = thresholds_lib.Promise(
        'miscoverage', 0.1, None, 9, is_marginal=True
    )
    self.assertIn('on average over calibration', str(marginal))

  def test_a_group_is_named(self):
    found = self.json(point([LOSS]), group='hard', delta_of_all_groups=0.2)
    self.assertIn("problems of the group 'hard' only", promises.in_words(found))
    self.assertIn(
        'all groups at once with probability 0.8', promises.in_words(found)
    )


if __name__ == '__main__':
  absltest.main()
