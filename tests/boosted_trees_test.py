"""Tests of the boosted trees of the supervised learners."""

import builtins
import pickle
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import threadpoolctl

from routing.routers import boosted_trees

_SETTING = dict(num_iterations=20, learning_rate=0.2, num_leaves=6)


def _data(num_rows=400):
  """Returns features, of which the first one matters, and targets."""
  rng = np.random.default_rng(0)
  features = rng.normal(size=(num_rows, 5)).astype(np.float32)
  return features, np.sin(features[:, 0]) + 0.1 * rng.normal(size=num_rows)


class TreesTest(parameterized.TestCase):

  def test_a_regression_finds_the_feature_that_matters(self):
    features, targets = _data()
    found = boosted_trees.learner(features, _SETTING, 'regression')(targets)
    error = np.square(found(features) - targets).mean()
    self.assertLess(error, 0.1 * targets.var())

  def test_a_classifier_gives_probabilities(self):
    features, targets = _data()
    found = boosted_trees.learner(features, _SETTING, 'binary')(targets > 0)
    chances = found(features)
    self.assertBetween(chances.min(), 0.0, 0.5)
    self.assertBetween(chances.max(), 0.5, 1.0)
    self.assertGreater(np.mean((chances > 0.5) == (targets > 0)), 0.9)

  def test_bins_are_shared_by_all_targets(self):
    features, targets = _data()
    fit = boosted_trees.learner(features, _SETTING, 'regression')
    first = fit(targets)
    fit(-targets)
    self.assertEqual(fit(targets), first)
    alone = boosted_trees.learner(features, _SETTING, 'regression')(-targets)
    self.assertEqual(fit(-targets), alone)
    self.assertNotEqual(alone, first)

  @parameterized.parameters('regression', 'binary')
  def test_trees_do_not_depend_on_the_number_of_threads(self, objective):
    features, targets = _data(40_000)
    if objective == 'binary':
      targets = targets > 0.3
    found = set()
    boosted_trees.load()
    for num_threads in (1, 2, 3):
      with threadpoolctl.threadpool_limits(num_threads, user_api='openmp'):
        fit = boosted_trees.learner(features, _SETTING, objective)
        found.add(fit(targets))
    self.assertLen(found, 1)

  def test_a_pickle_does_not_depend_on_what_was_asked(self):
    features, targets = _data()
    found = boosted_trees.learner(features, _SETTING, 'regression')(targets)
    before = pickle.dumps(found)
    wanted = found(features)
    self.assertEqual(pickle.dumps(found), before)
    np.testing.assert_array_equal(pickle.loads(before)(features), wanted)

  @parameterized.parameters((1, 3), (30, 1))
  def test_features_that_say_nothing_give_the_mean(self, num_rows, num_columns):
    targets = np.arange(num_rows, dtype=np.float64)
    features = np.zeros((num_rows, num_columns), np.float32)
    found = boosted_trees.learner(features, _SETTING, 'regression')(targets)
    np.testing.assert_allclose(found(features), targets.mean())

  def test_a_system_without_openmp_is_told_what_to_install(self):
    load = builtins.__import__

    def without(name, *rest):
      if name == 'lightgbm':
        raise OSError('libgomp.so.1: cannot open shared object file')
      return load(name, *rest)

    with mock.patch.object(builtins, '__import__', without):
      with self.assertRaisesRegex(ValueError, 'libgomp.so.1.*libgomp1 on'):
        boosted_trees.load()


if __name__ == '__main__':
  absltest.main()
