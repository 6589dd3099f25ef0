"""Tests of what a stage says beforehand: work, size and time."""

import ast
import contextlib
import io
import json
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized

from configs import arithmetic
from configs import arithmetic_pair
from configs import arithmetic_redraft
from configs import arithmetic_reward
from configs import compare_arithmetic
from experiments import calibrate
from experiments import compare
from experiments import evaluate
from experiments import plan_table
from experiments import pretrain
from experiments import serve_plan
from experiments import stage_plans
from experiments import train
from experiments import train_reward_head
from routing.routers import learned
from tests import checkout

_STAGES = (
    *('collect', 'train', 'calibrate', 'evaluate', 'report', 'pipeline'),
    *('compare', 'sweep', 'pretrain', 'serve', 'train_reward_head'),
    'scoring/score_steps',
)


def _printed(show, *given):
  with contextlib.redirect_stdout(io.StringIO()) as shown:
    show(*given)
  return ' '.join(shown.getvalue().split())


class StagesTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path) / 'run'
    self.config = arithmetic.get_config('smoke')

  @parameterized.parameters(*_STAGES)
  def test_every_stage_has_a_plan(self, stage):
    path = checkout.ROOT / 'experiments' / f'{stage}.py'
    (call,) = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == 'command_line.run'
    ]
    self.assertIn('plan', [keyword.arg for keyword in call.keywords])

  def test_the_work_of_training_by_hand(self):
    config = self.config
    config.features.groups = ('progress',)
    config.network.hidden = (10,)
    config.update(num_steps=100, batch_size=50)
    config.protocol.max_decisions = 4
    # Group `progress`: share of the decisions, tokens so far, and which of the
    # two models wrote last; from the names of the features themselves.
    num_features = stage_plans._num_features(config)
    weights = 10 * num_features + 10 * 2
    self.assertEqual(stage_plans._num_weights(config), weights)
    (row,) = stage_plans.train_rows(config, self.workdir)
    # Two levels; forward and backward take 6 operations per weight.
    work = 100 * 2 * 6 * weights * 50 * 4
    self.assertAlmostEqual(
        row.seconds,
        stage_plans._START
        + stage_plans._TRAIN_START
        + work / stage_plans._TRAIN_FLOPS,
    )
    self.assertIn('left: 1 of 1 seeds', row.what)

  def test_the_demo_takes_about_what_it_took(self):
    config = arithmetic.get_config('demo')
    (trained,) = stage_plans.train_rows(config, self.workdir)
    self.assertBetween(trained.seconds / 17.5, 0.7, 1.4)
    (calibrated,) = stage_plans.calibrate_rows(config, self.workdir)
    self.assertBetween(calibrated.seconds / 4.0, 0.7, 1.4)

  def test_what_is_done_takes_no_time(self):
    self.config.train_seeds = (0, 1)
    both = stage_plans.train_rows(self.config, self.workdir)[0].seconds
    folder = train.run_directory(self.workdir, 1)
    folder.mkdir(parents=True)
    (folder / learned.CARD_FILE).touch()
    (row,) = stage_plans.train_rows(self.config, self.workdir)
    start = stage_plans._START  # Once, for however many seeds.
    self.assertAlmostEqual(row.seconds - start, (both - start) / 2)
    self.config.train_seeds = (1,)
    (row,) = stage_plans.train_rows(self.config, self.workdir)
    self.assertEqual(row.seconds, 0)
    (row,) = stage_plans.calibrate_rows(self.config, self.workdir)
    self.assertGreater(row.seconds, 0)
    (folder / learned.POINTS_FILE).touch()
    (self.workdir / evaluate.RESULTS_FILE).touch()
    # Files that exist may be of other inputs; the pipeline runs these again.
    for is_current in (True, False):
      with (
          mock.patch.object(calibrate, 'is_current', return_value=is_current),
          mock.patch.object(evaluate, 'is_current', return_value=is_current),
      ):
        for rows in (stage_plans.calibrate_rows, stage_plans.evaluate_rows):
          row = rows(self.config, self.workdir)[0]
          self.assertEqual(row.seconds == 0, is_current)

  def test_scoring_steps(self):
    with self.assertRaisesRegex(ValueError, 'scorer.model is empty'):
      stage_plans.show_score_steps(self.config, self.workdir)
    self.config.scorer.model = 'shipped/reward'
    for show in (stage_plans.show_score_steps, stage_plans.show_pipeline):
      said = _printed(show, self.config, self.workdir)
      self.assertIn('score steps', said)
      self.assertIn('shipped/reward', said)
      self.assertIn(f'{self.config.problems.select} + ', said)

  def test_more_problems_take_longer(self):
    few = stage_plans.evaluate_rows(self.config, self.workdir)[0].seconds
    self.config.problems.update(train=10_000, test=10_000)
    many = stage_plans.evaluate_rows(self.config, self.workdir)[0].seconds
    self.assertGreater(many, 10 * few)

  def test_what_cannot_be_counted_is_unknown(self):
    self.config.problems.update(train=-1, select=-1)  # All there are.
    rows = [
        *stage_plans.calibrate_rows(self.config, self.workdir),
        *stage_plans.evaluate_rows(self.config, self.workdir),
    ]
    self.assertEqual({row.seconds for row in rows}, {None})
    config = arithmetic_redraft.get_config('on_policy-smoke')
    (row,) = stage_plans.train_rows(config, self.workdir)
    self.assertIsNone(row.seconds)

  def test_shown(self):
    for show in (
        stage_plans.show_train,
        stage_plans.show_calibrate,
        stage_plans.show_evaluate,
        stage_plans.show_pipeline,
    ):
      said = _printed(show, self.config, self.workdir)
      self.assertIn('about', said)
    self.assertIn('ladders test', said)
    self.assertIn('report', said)
    said = _printed(stage_plans.show_train, self.config, self.workdir)
    self.assertIn('Not collected yet: ladders train, ladders select', said)
    said = _printed(stage_plans.show_report, self.workdir)
    self.assertIn('no results yet', said)
    self.assertFalse(self.workdir.exists())

  @parameterized.parameters(
      (None, 'unknown'), (0, 'done'), (7.2, 'about 7 s'), (127, 'about 2 min')
  )
  def test_times(self, seconds, expected):
    self.assertStartsWith(plan_table.in_words(seconds), expected)


class OthersTest(absltest.TestCase):

  def test_a_comparison(self):
    workdir = pathlib.Path(self.create_tempdir().full_path)
    config = compare_arithmetic.get_config('smoke')
    config.compare.update(
        routers=('policy', 'best constant', 'confidence'), num_trials=6
    )
    folder = workdir / compare.FOLDER / 'entries'
    folder.mkdir(parents=True)
    (folder / 'best-constant-0123456789abcdef.npz').touch()
    # The name of another router begins like that of this one.
    (folder / 'confidence-mean-0123456789abcdef.npz').touch()
    said = _printed(compare.show_plan, config, workdir)
    self.assertIn('best constant, evaluated before', said)
    self.assertNotIn('policy, evaluated before', said)
    self.assertNotIn('confidence, evaluated before', said)
    # The settings of the policy are those of the configuration.
    self.assertIn('6 settings on select', said)
    # It collects no `prove`, and answers live by its own settings.
    self.assertIn('ladders test', said)
    self.assertNotIn('ladders prove', said)
    self.assertNotIn('evaluation answers live', said)
    self.assertIn('16 problems of train, 8 of select, 12 of test', said)
    config.compare.num_live.test = 0  # Then no model is asked.
    self.assertNotIn('live', _printed(compare.show_plan, config, workdir))

  def test_a_pair(self):
    config = arithmetic_pair.get_config()
    said = _printed(pretrain.show_plan, config, 'nowhere', None, None)
    path = checkout.ROOT / 'routing/lm/weights/card.json'
    card = json.loads(path.read_text(encoding='utf-8'))
    for name in ('small', 'large'):
      self.assertIn(f'{name}: {card[name]["parameters"]:,} weights', said)
      # The time of a step, against that of the shipped pair.
      weights, steps = card[name]['parameters'], card[name]['steps']
      tokens = steps * config[name].corpus.tokens_per_step
      guessed = tokens * (pretrain._PER_TOKEN + weights * pretrain._PER_WEIGHT)
      self.assertBetween(guessed / card[name]['seconds'], 0.7, 1.4)

  def test_a_reward_model(self):
    workdir = pathlib.Path(self.create_tempdir().full_path)
    config = arithmetic_reward.get_config()
    said = _printed(train_reward_head.show_plan, config, str(workdir))
    self.assertIn('9,000 answers', said)
    self.assertIn('400 steps of 18 answers', said)
    self.assertNotIn('done', said.split('time', 1)[1].split('Time')[0])
    (workdir / train_reward_head.EXAMPLES_FILE).touch()
    said = _printed(train_reward_head.show_plan, config, str(workdir))
    self.assertIn('done', said.split('time', 1)[1].split('Time')[0])

  def test_a_service(self):
    said = _printed(
        serve_plan.show,
        arithmetic.get_config(),
        *('shipped', '127.0.0.1', 0, None, None, None, None, False),
    )
    self.assertIn('129,024 parameters', said)
    self.assertIn('loss<=0.05@0.9', said)


if __name__ == '__main__':
  absltest.main()
