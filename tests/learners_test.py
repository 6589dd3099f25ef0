"""Tests of the learners beside the policy, and of how they are tuned."""

from absl.testing import absltest
from absl.testing import parameterized

from routing.routers import learners
from routing.routers import tuning

_FIELDS = dict(metric='price', features=None, seed=0)


def _reciting(values):
  """A learner whose settings are worth what is given; it fits their index."""
  settings = [{'index': index} for index in range(len(values))]
  return learners.Learner(lambda data, **fields: [fields['setting']], settings)


class LearnersTest(parameterized.TestCase):

  @parameterized.parameters(*learners.LEARNERS)
  def test_none_is_tried_more_often_than_another(self, name):
    settings = learners.LEARNERS[name].settings
    self.assertLen(settings, learners.NUM_TRIALS)
    self.assertLen({str(x) for x in settings}, learners.NUM_TRIALS)


class TuningTest(parameterized.TestCase):

  @parameterized.parameters(
      ((0.1, 0.3, 0.2), 3, 1),
      ((0.1, 0.3, 0.3), 3, 1),  # Of equals the first.
      ((0.2, 0.1, 0.3), 2, 0),  # What is not tried cannot win.
  )
  def test_the_best_trial_is_kept(self, values, num_trials, wanted):
    best = tuning.tune(
        _reciting(values),
        None,
        value=lambda found: values[found[0]['index']],
        num_trials=num_trials,
        **_FIELDS,
    )
    self.assertEqual(best.setting, {'index': wanted})
    self.assertEqual(best.families, [{'index': wanted}])
    self.assertEqual(best.values, list(values[:num_trials]))

  @parameterized.parameters(0, 4)
  def test_so_many_trials_there_are_not(self, num_trials):
    with self.assertRaisesRegex(
        ValueError, f'is {num_trials}; allowed: 1 to 3'
    ):
      tuning.tune(
          _reciting((1, 2, 3)),
          None,
          value=lambda found: 0.0,
          num_trials=num_trials,
          **_FIELDS,
      )


if __name__ == '__main__':
  absltest.main()
