"""Tests of what a run says before its first stage and after its last."""

import pathlib
import shlex

from absl.testing import absltest
from absl.testing import parameterized

from configs import arithmetic
from experiments import mistakes
from experiments import report
from tests import checkout

_ASKED = 'configs/arithmetic.py:demo'


class OpeningTest(parameterized.TestCase):

  def test_stages_time_and_place_are_named(self):
    lines = report.opening(
        ['collect a', 'collect b', 'train'], pathlib.Path('runs/x'), 3
    )
    self.assertEqual(lines[0], '3 stages: collect (a, b), train.')
    self.assertEqual(lines[1], 'About 3 min on two idle cores.')
    self.assertIn('runs/x', lines[2])

  def test_the_time_is_that_of_the_variant(self):
    config = arithmetic.get_config('demo')
    # Takes as long.
    config.cost_metric, config.seed = 'flops', 1
    config.optimizer.learning_rate = 1e-4
    config.lock()
    minutes = report.expected_minutes(config, _ASKED)
    self.assertEqual(minutes, arithmetic.MINUTES['demo'])

  def test_a_file_without_variants_has_no_time_and_no_full_size(self):
    path = pathlib.Path(self.create_tempdir().full_path) / 'mine.py'
    path.write_text('from configs.arithmetic import get_config')
    config = arithmetic.get_config()
    self.assertIsNone(report.expected_minutes(config, str(path)))
    self.assertNotIn('The full size', report.next_commands(str(path), [], 'x'))

  def test_only_a_short_run_has_a_full_size(self):
    for asked, is_short in (
        ('configs/arithmetic.py:demo', True),
        ('configs/paper.py:gsm8k-tiny', True),
        ('configs/paper.py:math', False),
        ('configs/own_models.py:servers', False),
    ):
      found = report.next_commands(asked, [], 'x')
      self.assertEqual('The full size' in found, is_short, asked)

  @parameterized.parameters(
      ('problems.train', 801),
      ('routes', ()),
      ('network.hidden', (128,)),
      ('objective.levels', (0.5,)),
      ('features.groups', ('progress',)),
      ('scorer.model', 'shipped/reward'),
      ('calibration.num_thresholds', 9),
  )
  def test_the_time_of_other_work_is_not_known(self, field, value):
    config = arithmetic.get_config('demo')
    config.update_from_flattened_dict({field: value})
    self.assertIsNone(report.expected_minutes(config, _ASKED))

  def test_the_time_of_a_variant_that_was_not_measured_is_not_known(self):
    self.assertIsNone(
        report.expected_minutes(
            arithmetic.get_config(), 'configs/arithmetic.py'
        )
    )


class NextTest(parameterized.TestCase):

  @parameterized.parameters(
      ('configs/arithmetic.py:demo', 3),
      ('configs/arithmetic.py', 2),  # Full already.
      ('configs/arithmetic_redraft.py:vtrace-smoke', 2),
  )
  def test_every_command_can_be_run(self, asked, number):
    found = report.next_commands(asked, [], 'runs/x')
    self.assertLen(found, number)
    for command in found.values():
      _, dash_m, program, *words = shlex.split(command)
      self.assertEqual((dash_m, program), ('-m', 'experiments.pipeline'))
      self.assertStartsWith(words[0], '--config=')
      self.assertIsNone(mistakes.config_problem(words))
      self.assertNotIn('--workdir=runs/x', words)  # Which is another's.

  def test_another_metric_is_for_the_same_problems(self):
    found = report.next_commands(
        _ASKED, ['--config.problems.train=9'], 'runs/x'
    )
    command = found['Another cost metric, on the same problems']
    self.assertContainsSubset(
        ['--config.problems.train=9', '--config.data.directory=runs/x'],
        shlex.split(command),
    )

  def test_records_that_the_configuration_names_are_not_in_the_work_directory(
      self,
  ):
    asked = 'configs/gsm8k_qwen25_coder.py:shipped'
    for command in report.next_commands(asked, [], 'runs/x').values():
      self.assertNotIn('data.directory', command)

  def test_the_notebook_is_there(self):
    lines = report.closing('w', {})
    self.assertIn('Report, for a browser: w/report.html', lines)
    path = lines[-1].split()[-1]
    self.assertTrue((checkout.ROOT / path).is_file())


if __name__ == '__main__':
  absltest.main()
