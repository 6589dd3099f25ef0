"""Tests of the supervised learners and of their tuning."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.outcomes import table as table_lib
from routing.routers import boosting
from routing.routers import learners
from routing.routers import tuning

_FIELDS = dict(metric='price', features=None, seed=0)


def _reciting(values):
  """Returns a learner whose settings have the given values."""
  settings = [{'index': index} for index in range(len(values))]
  return learners.Learner(lambda data, **fields: [fields['setting']], settings)


class LearnersTest(parameterized.TestCase):

  @parameterized.parameters(*learners.LEARNERS)
  def test_all_learners_have_as_many_trials(self, name):
    settings = learners.LEARNERS[name].settings
    self.assertLen(settings, learners.NUM_TRIALS)
    self.assertLen({str(x) for x in settings}, learners.NUM_TRIALS)


class TuningTest(parameterized.TestCase):

  @parameterized.parameters(
      ((0.1, 0.3, 0.2), 3, 1),
      ((0.1, 0.3, 0.3), 3, 1),  # The first of equal values.
      ((0.2, 0.1, 0.3), 2, 0),  # Trials beyond num_trials are not run.
  )
  def test_the_best_trial_is_returned(self, values, num_trials, wanted):
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
  def test_too_many_trials_raise(self, num_trials):
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


class FixedByHandoverTest(parameterized.TestCase):

  @parameterized.parameters(
      # Shares of right answers for the paths small-small, small-large,
      # large-small and large-large; then the expected label at the root,
      # after the small model and after the large one.
      ((0, 1, 1, 0), (True, True, False)),
      ((1, 1, 1, 0), (False, False, False)),  # The small model alone is right.
      (
          (0, 1, 0, 1),
          (False, True, True),
      ),  # One large step is not enough.
      ((0.5, 0.75, 0.75, 0.5), (True, True, False)),  # Half is not most.
  )
  def test_where_control_returns(self, shares, wanted):
    builder = table_lib.TableBuilder(['price'])
    for _ in range(2):  # Problems do not mix.
      builder.begin_problem(1.0)
      root = builder.add_decision(np.zeros(1), 0.0, 2)
      for first in range(2):
        here = builder.add_decision(np.zeros(1), 0.0, 2, (root, first))
        for second in range(2):
          share = shares[2 * first + second]
          builder.add_ending((here, second), share, 1 - share, [1.0])
    np.testing.assert_array_equal(
        boosting.is_fixed_by_handover(builder.table()), [*wanted, *wanted]
    )


if __name__ == '__main__':
  absltest.main()
