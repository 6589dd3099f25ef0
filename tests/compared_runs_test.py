"""Tests of policies of other runs as rows of a comparison."""

import dataclasses
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import ml_collections
import numpy as np

from experiments import compare
from experiments import compared_runs
from experiments import train
from routing.routers import entrants
from routing.routers import router
from routing.tasks import seen
from tests import small_arena

_NAME = 'learned policy, redraft'
_NOTHING = seen.Seen(is_known=True)


def _config(*directories, seeds=(0,)):
  return ml_collections.ConfigDict(
      dict(train_seeds=seeds, compare=dict(trained=directories))
  )


class RunsTest(parameterized.TestCase):

  def _run(self, protocols, record=_NOTHING):
    """Returns the directory of a run with one router for each protocol."""
    workdir = self.create_tempdir().full_path
    for seed, protocol in enumerate(protocols):
      made = small_arena.untrained(seed, None, protocol, record)
      made.save(train.run_directory(workdir, seed))
    return workdir

  def test_a_run_is_a_row_named_after_its_protocol(self):
    redraft = self._run([router.REDRAFT, router.REDRAFT])
    switch = self._run([router.SWITCH, router.SWITCH])
    found = compared_runs.methods(_config(redraft, switch, seeds=(0, 1)))
    self.assertEqual(list(found), [_NAME, 'learned policy, switch'])
    self.assertEqual(found[_NAME].needs.protocol, router.REDRAFT)
    # What is kept of a row depends on the weights.
    other = compared_runs.methods(_config(redraft))
    self.assertNotEqual(found[_NAME].settings, other[_NAME].settings)
    # Configurations from before have no such field.
    without = ml_collections.ConfigDict(dict(compare={}))
    self.assertEqual(compared_runs.methods(without), {})

  def test_what_is_no_row_is_refused(self):
    redraft = self._run([router.REDRAFT])
    mixed = self._run([router.REDRAFT, router.SWITCH])
    for config, words in (
        (_config(redraft, seeds=(0, 3)), 'has no seed3; train there'),
        (_config(redraft, redraft), 'two runs in redraft; allowed: one'),
        (_config(mixed, seeds=(0, 1)), r"\['redraft', 'switch'\]; allowed: o"),
        (_config(str(pathlib.Path(redraft) / 'no')), 'which has no seed0'),
    ):
      with self.assertRaisesRegex(ValueError, words):
        compared_runs.methods(config)

  def test_a_policy_that_has_seen_a_test_problem_is_refused(self):
    problems = small_arena.make().alone['test'].problems
    record = _NOTHING.with_problems('train', problems[:1])
    workdir = self._run([router.REDRAFT], record)
    with self.assertRaisesRegex(ValueError, 'train'):
      compared_runs.methods(_config(workdir), {'test': problems})

  @parameterized.parameters(router.REDRAFT, router.SWITCH)
  def test_it_answers_live_between_the_models_alone(self, protocol):
    routers = {
        seed: small_arena.untrained(seed, None, protocol) for seed in (0, 1)
    }
    method = entrants.trained('theirs', protocol, routers)
    arena = small_arena.make()
    found = compare.evaluate_seeds('theirs', method, arena, [0, 1], 1)
    self.assertEqual([entry.seed for entry in found], [0, 1])
    for entry in found:
      knobs = [knob for _, knob in entry.knobs]
      self.assertBetween(len(knobs), 2, entrants.NUM_THRESHOLDS + 2)
      # From the cheapest: it never leaves the small model.
      self.assertEqual(knobs[0], np.inf)
      small = arena.samples('test', router.COMMIT).small_correct
      np.testing.assert_array_equal(entry.test.correct[0], small)

  @parameterized.parameters(
      ('models', dict(specs=small_arena.ACCOUNTING.specs[1:3])),
      ('cost metric', dict(metric='flops')),
      (
          'features',
          dict(features=dataclasses.replace(small_arena.FEATURES, max_ngram=2)),
      ),
  )
  def test_a_policy_of_something_else_is_refused(self, what, changes):
    made = small_arena.untrained(0, None, router.REDRAFT)
    made.card = dataclasses.replace(made.card, **changes)
    method = entrants.trained('theirs', router.REDRAFT, {0: made})
    train_sample = small_arena.sample('train', router.PEEK)
    with self.assertRaisesRegex(
        ValueError, f'theirs was trained with other {what}'
    ):
      method.fit(train_sample, setting={}, seed=0)


if __name__ == '__main__':
  absltest.main()
