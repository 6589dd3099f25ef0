"""From shards to report with the scripted pair: calibrate, evaluate, draw."""

import asyncio
import dataclasses
import json
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
import numpy as np

from configs import arithmetic
from experiments import builders
from experiments import calibrate
from experiments import evaluate
from experiments import graded
from experiments import live
from experiments import report
from experiments import train
from experiments import training_sets
from routing import costs
from routing.features import batching
from routing.grading import equivalence
from routing.outcomes import stopping as stopping_lib
from routing.rollout import collect
from routing.rollout import driver
from routing.routers import fixed
from routing.routers import learned
from routing.shards import writer as writer_lib
from tests import scripted_pair

_SIZES = {'train': 80, 'validation': 100, 'test': 60}


def make_config():
  config = arithmetic.get_config('smoke')
  config.train_seeds = (0, 1)
  config.features.update(question_width=8, step_width=8)
  config.calibration.update(budgets=(0.3, 0.6), alphas=(0.1,))
  config.evaluation.update(resamples=50, live=25, coverage=30)
  return config


def collect_all(workdir: pathlib.Path) -> None:
  """Writes the shards of three disjoint splits."""
  problems = scripted_pair.make_problems(sum(_SIZES.values()))
  start = 0
  for split, size in _SIZES.items():
    rows = problems[start : start + size]
    start += size
    models = [dataclasses.asdict(x) for x in scripted_pair.SPECS[:2]]
    writer = writer_lib.LadderWriter(
        workdir / 'shards' / split, rows, {'models': models}, 32
    )
    asyncio.run(
        collect.collect_ladders(
            rows,
            scripted_pair.make_engines(2),
            writer.add,
            plan=collect.Plan(driver.Sampling()),
            grade=equivalence.exact,
            concurrency=16,
        )
    )


class EvaluateTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.workdir = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.config = make_config()
    collect_all(cls.workdir)
    train.train_all(cls.config, cls.workdir)
    calibrate.calibrate_all(cls.config, cls.workdir)
    with mock.patch.object(
        builders, 'engines', lambda _: scripted_pair.make_engines(2)
    ):
      evaluate.evaluate(cls.config, cls.workdir)
    cls.results = report.load(cls.workdir)
    cls.router = learned.load(train.run_directory(cls.workdir, 0))
    cls.test = graded.load(cls.workdir, 'test', cls.router.card)

  def test_points_are_named_and_belong_to_their_router(self):
    names = [point.name for point in self.router.points]
    self.assertEqual(names, ['cost<=0.3', 'cost<=0.6', 'loss<=0.1@0.9'])
    for point in self.router.points:
      self.assertEqual(point.checkpoint_hash, self.router.checkpoint_hash)
    self.assertIn('loss<=0.1@0.9', str(self.router))

  def test_promise_was_tested_on_the_half_that_training_did_not_see(self):
    promise = self.router.at('loss<=0.1@0.9').point.promise
    self.assertEqual(promise['n'], 50)  # Of 100 validation problems.
    self.assertEqual(promise['delta'], 0.1)
    self.assertIsNone(self.router.at('cost<=0.6').point.promise['delta'])
    data = training_sets.load(self.config, self.workdir)
    self.assertLen(data.validation.mask, 50)
    shards = graded.load(self.workdir, 'validation', self.router.card)
    np.testing.assert_array_equal(
        data.validation.stay_cost, shards.batch.stay_cost[0::2]
    )

  def test_budget_is_kept_on_validation(self):
    for seed in self.config.train_seeds:
      router = learned.load(train.run_directory(self.workdir, seed))
      validation = graded.load(self.workdir, 'validation', router.card)
      for budget in self.config.calibration.budgets:
        point = router.at(f'cost<={budget:g}')
        cost = live.predict(point, validation.batch).mean_cost[0]
        self.assertLessEqual(cost, budget + 1e-6)

  def test_live_is_what_replay_predicts(self):
    self.assertLen(self.results['live'], 3)
    for entry in self.results['live']:
      self.assertEqual(entry['num_agreeing'], 25)
      self.assertAlmostEqual(entry['cost'], entry['predicted_cost'], 6)
      self.assertEqual(entry['accuracy'], entry['predicted_accuracy'])

  def _compare(self, router, points, **kwargs):
    """All test problems, answered live, next to `points`."""
    accounting = self.router.card.accounting
    answered = asyncio.run(
        live.answer_all(
            self.config,
            [ladder.problem for ladder in self.test.ladders],
            router,
            scripted_pair.make_engines(2, **kwargs),
            accounting,
        )
    )
    return live.compare(
        answered,
        self.test.ladders,
        points,
        accounting,
        builders.protocol(self.config),
    )

  def test_what_was_written_in_vain_is_paid_and_not_predicted(self):
    outcomes = stopping_lib.from_batch(self.test.batch)
    router, points = fixed.StepRouter(1), replay.at_steps(outcomes, [1])
    without, one, two = (
        self._compare(router, points, num_ahead=num) for num in range(3)
    )
    self.assertEqual(without['cost_in_vain'], 0.0)
    self.assertGreater(one['cost_in_vain'], 0.0)
    self.assertAlmostEqual(two['cost_in_vain'], 2 * one['cost_in_vain'])
    self.assertAlmostEqual(
        two['cost'] - one['cost'], one['cost_in_vain'], places=9
    )
    self.assertEqual(one['num_agreeing'], two['num_agreeing'])

  def test_fixed_routers_live_are_what_replay_predicts(self):
    outcomes = stopping_lib.from_batch(self.test.batch)
    for router, points in (
        (fixed.SmallRouter(), replay.at_steps(outcomes, [outcomes.num_steps])),
        (fixed.LargeRouter(), replay.at_steps(outcomes, [0])),
        (fixed.StepRouter(2), replay.at_steps(outcomes, [2])),
        (
            fixed.ConfidenceRouter(0.11),
            replay.at_thresholds(self.test.doubt, outcomes, np.array([0.11])),
        ),
    ):
      got = self._compare(router, points)
      self.assertEqual(got['num_agreeing'], _SIZES['test'])

  def test_every_ruler_and_every_method_is_there(self):
    self.assertEqual(tuple(self.results['rulers']), costs.RULERS)
    for figures in self.results['rulers'].values():
      self.assertSameElements(
          figures['methods'],
          [
              'policy',
              'supervised',
              'confidence',
              'fixed step',
              'coin',
              'random',
              'oracle',
          ],
      )
      self.assertLen(figures['methods']['policy']['points'], 2)  # Seeds.

  def test_nothing_beats_the_oracle(self):
    for ruler in ('price', 'flops', 'decoded'):  # Scripts are equally fast.
      methods = self.results['rulers'][ruler]['methods']
      for name, method in methods.items():
        best = methods['oracle']['area']['mean']
        self.assertLessEqual(method['area']['mean'], best + 0.01, name)

  def test_recharging_changes_cost_alone(self):
    card = self.router.card
    price, flops = (
        graded.recharge(self.test, card, ruler) for ruler in ('price', 'flops')
    )
    np.testing.assert_array_equal(
        price.handover_correct, flops.handover_correct
    )
    np.testing.assert_array_equal(price.features, flops.features)
    self.assertGreater(
        np.abs(price.handover_cost - flops.handover_cost).max(), 0.05
    )
    again = batching.ladder_batch(
        self.test.ladders,
        card.features,
        dataclasses.replace(card.accounting, ruler='flops'),
        card.protocol,
    )
    np.testing.assert_array_equal(again.handover_cost, flops.handover_cost)

  def test_broken_promises_are_counted_against_the_whole_set(self):
    got = self.results['coverage']
    self.assertEqual(got['num_problems'], sum(_SIZES.values()))
    self.assertEqual(got['num_samples'], 30)
    self.assertBetween(got['promised']['broken'], 0, 6)
    self.assertLess(got['promised']['broken'], got['picked']['broken'])
    self.assertGreaterEqual(got['promised']['cost'], got['best']['cost'])

  def test_report_is_drawn_and_printed(self):
    for path in report.write(self.workdir):
      self.assertGreater(path.stat().st_size, 500)
    report.show(self.workdir)

  def test_promise_out_of_reach_leaves_the_points_as_they_were(self):
    path = train.run_directory(self.workdir, 0) / learned.POINTS_FILE
    before = path.read_bytes()
    config = make_config()
    for changes, says in (
        (dict(alphas=(0.02,)), r'takes 114 trajectories or more.*got 50'),
        (dict(budgets=(1.5,)), r'Budget 1.5 is outside \[0\.\d+, 1\]'),
    ):
      config.calibration.update(changes)
      with self.assertRaisesRegex(ValueError, says):
        calibrate.calibrate_all(config, self.workdir)
    self.assertEqual(path.read_bytes(), before)

  def test_ladders_of_another_pair_are_refused(self):
    other = dataclasses.replace(self.router.card, specs=scripted_pair.SPECS[1:])
    with self.assertRaisesRegex(ValueError, 'the models must be the same'):
      graded.load(self.workdir, 'test', other)

  def test_nothing_evaluated_is_said(self):
    with self.assertRaisesRegex(ValueError, 'nothing was evaluated there'):
      report.load(self.create_tempdir().full_path)

  def test_results_are_strict_json(self):
    text = (self.workdir / 'results.json').read_text()
    json.loads(text, parse_constant=self.fail)


if __name__ == '__main__':
  absltest.main()
