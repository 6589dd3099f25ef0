"""Tests of the supervised learners and of their tuning."""

import threading
import time
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import threadpoolctl

from routing.outcomes import table as table_lib
from routing.routers import boosted_trees
from routing.routers import boosting
from routing.routers import fitted_q
from routing.routers import learners
from routing.routers import parallel_fits
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


class SideBySideTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.enter_context(
        mock.patch.object(parallel_fits, '_num_cores', lambda: 2)
    )
    self.begun, self.running, self.most = [], 0, 0
    self.lock = threading.Lock()

  def _learner(self, seconds, is_wrong=None):
    """Returns a learner whose fits take a while; one of them may fail."""

    def fit(data, *, setting, **fields):
      index = setting['index']
      with self.lock:
        self.begun.append(index)
        self.running += 1
        self.most = max(self.most, self.running)
      time.sleep(seconds[index])
      with self.lock:
        self.running -= 1
      if index == is_wrong:
        raise ValueError(f'setting {index} cannot be fitted')
      return [setting]

    settings = [{'index': index} for index in range(len(seconds))]
    return learners.Learner(fit, settings)

  def _tune(self, learner, value):
    return tuning.tune(
        learner, None, value=value, num_trials=len(learner.settings), **_FIELDS
    )

  def test_values_are_in_the_order_of_the_settings(self):
    learner = self._learner((0.2, 0.01, 0.1, 0.01))
    best = self._tune(learner, lambda found: found[0]['index'] % 3)
    self.assertEqual(best.values, [0, 1, 2, 0])
    self.assertEqual(best.setting, {'index': 2})
    self.assertEqual(self.most, 2)  # As many as there are cores.

  def test_after_an_error_no_further_fit_begins(self):
    learner = self._learner((0.0, 0.05, 0.0, 0.0, 0.0, 0.0), is_wrong=0)
    with self.assertRaisesRegex(ValueError, 'setting 0 cannot be fitted'):
      self._tune(learner, lambda found: 0.0)
    self.assertContainsSubset(self.begun, [0, 1, 2])
    self.begun.clear()
    with self.assertRaisesRegex(ValueError, 'no value'):
      self._tune(self._learner([0.01] * 6), self._no_value)
    self.assertLessEqual(len(self.begun), 4)

  def _no_value(self, found):
    raise ValueError('no value')

  def test_fits_share_the_cores_and_keep_the_limits_of_the_user(self):
    found = []

    def fit(data, *, setting, **fields):
      found.extend(
          (x['user_api'], x['num_threads'])
          for x in threadpoolctl.threadpool_info()
      )
      return [setting]

    def tune(num_settings):
      found.clear()
      self._tune(learners.Learner(fit, [{}] * num_settings), lambda x: 0.0)
      return set(found)

    boosted_trees.load()
    # Not every machine has a BLAS whose threads can be limited.
    kinds = {x['user_api'] for x in threadpoolctl.threadpool_info()}
    self.assertIn('openmp', kinds)
    self.assertEqual(tune(2), {(x, 1) for x in kinds})
    with threadpoolctl.threadpool_limits(1, user_api='blas'):
      found = tune(1)
    self.assertEqual(found, {(x, 2 if x == 'openmp' else 1) for x in kinds})

  def test_trees_are_those_of_fits_in_turn(self):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 5)).astype(np.float32)
    targets = features[:, 0] + rng.normal(size=200)

    def predictions(setting):
      fit = boosted_trees.learner(features, setting, 'regression')
      return fit(targets)(features)

    def fit(data, *, setting, **fields):
      return [predictions(setting)]

    learner = learners.Learner(fit, fitted_q.TREE_SETTINGS[:3])
    found = []
    self._tune(learner, lambda x: found.append(x[0]) or 0.0)
    for got, setting in zip(found, learner.settings, strict=True):
      np.testing.assert_array_equal(got, predictions(setting))


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
