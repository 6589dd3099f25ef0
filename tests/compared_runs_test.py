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
from routing.evaluation import harness
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
      made = small_arena.untrained(seed, protocol=protocol, seen=record)
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
        (_config(redraft, redraft), "two runs of 'learned policy, redraft'"),
        (_config(mixed, seeds=(0, 1)), r"\['redraft', 'switch'\]; allowed: o"),
        (_config(str(pathlib.Path(redraft) / 'no')), 'which has no seed0'),
    ):
      with self.assertRaisesRegex(ValueError, words):
        compared_runs.methods(config)

  def test_what_is_of_no_comparison_is_refused_at_once(self):
    arena = small_arena.make()
    problems = arena.alone['test'].problems
    record = _NOTHING.with_problems('train', problems[:1])
    workdir = self._run([router.REDRAFT], record)
    with self.assertRaisesRegex(ValueError, "has seen it in split 'train'"):
      compared_runs.check(_config(workdir), arena, ())
    compared_runs.check(_config(self._run([router.REDRAFT])), arena, ('a', 'b'))
    other = dataclasses.replace(
        small_arena.FEATURES, groups=('confidence', 'progress', 'cost')
    )
    arena = small_arena.make(
        samples=lambda split, protocol: dataclasses.replace(
            small_arena.sample(split, protocol), features=other
        )
    )
    with self.assertRaisesRegex(ValueError, 'other features than'):
      compared_runs.check(_config(self._run([router.SWITCH])), arena, ())

  def test_other_weights_are_refused(self):
    workdir = self.create_tempdir().full_path
    made = small_arena.untrained(
        0,
        protocol=router.REDRAFT,
        seen=_NOTHING,
        weights_sha256=('a' * 64, 'b' * 64),
    )
    made.save(train.run_directory(workdir, 0))
    with self.assertRaisesRegex(ValueError, 'The ladders are of models with'):
      compared_runs.check(
          _config(workdir), small_arena.make(), ('a' * 64, 'c' * 64)
      )

  @parameterized.parameters(router.REDRAFT, router.SWITCH)
  def test_it_answers_live_between_the_models_alone(self, protocol):
    routers = {
        seed: small_arena.untrained(seed, protocol=protocol) for seed in (0, 1)
    }
    method = entrants.trained('theirs', protocol, routers)
    arena = small_arena.make()
    found = compare.evaluate_seeds('theirs', method, arena, [0, 1], 1)
    self.assertEqual([entry.seed for entry in found], [0, 1])
    for entry in found:
      most = entrants.NUM_THRESHOLDS + 2
      self.assertBetween(len(entry.knobs), 2, most)
    # At the extremes it never leaves the small model, and never keeps it.
    (family,) = harness.fit(method, arena, {}, 0)
    self.assertEqual((family.knobs[0], family.knobs[-1]), (np.inf, -np.inf))
    ends = np.array([np.inf, -np.inf])
    got = harness.outcomes(method, family, ends, arena, 'test', 0)
    alone = arena.samples('test', router.COMMIT)
    np.testing.assert_array_equal(
        got.correct, [alone.small_correct, alone.large_correct]
    )

  @parameterized.parameters(
      ('models', dict(specs=small_arena.ACCOUNTING.specs[1:3])),
      ('cost metric', dict(metric='flops')),
      (
          'features',
          dict(features=dataclasses.replace(small_arena.FEATURES, max_ngram=2)),
      ),
  )
  def test_a_policy_of_something_else_is_refused(self, what, changes):
    made = small_arena.untrained(0, protocol=router.REDRAFT)
    made.card = dataclasses.replace(made.card, **changes)
    method = entrants.trained('theirs', router.REDRAFT, {0: made})
    train_sample = small_arena.sample('train', router.PEEK)
    with self.assertRaisesRegex(
        ValueError, f'theirs was trained with other {what}'
    ):
      method.fit(train_sample, setting={}, seed=0)


if __name__ == '__main__':
  absltest.main()
