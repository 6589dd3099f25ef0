"""Tests of what a user is told about a mistake in a command line."""

import contextlib
import pathlib
import re
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized

from configs import arithmetic
from configs import compare_arithmetic
from experiments import compare
from experiments import mistakes
from experiments import settings
from tests import checkout
from tests import commands_test


class HintTest(parameterized.TestCase):

  @parameterized.parameters(
      (
          "Unknown cost metric 'flps'; allowed: price, flops, latency.",
          " Did you mean 'flops'?",
      ),
      (
          "Unknown variant 'Dmo'; use full, demo, smoke.",
          " Did you mean 'demo'?",
      ),
      (
          "x contains 'fitted Q, tres'; allowed: fitted Q, trees, boosting.",
          " Did you mean 'fitted Q, trees'?",
      ),
      ("y is 'a'; allowed: 'known' or 'recorded'.", ''),
      ('--jobs is 0; allowed: >= 1.', ''),
      ('No such thing.', ''),
  )
  def test_the_nearest_allowed_value(self, message, hint):
    self.assertEqual(mistakes.hinted(message), message + hint)

  @parameterized.parameters(
      ('cost_metric', 'flpos', 'flops'),
      ('data.kind', 'laders', 'ladders'),
      ('task.name', 'arithmetics', 'arithmetic'),
      ('protocol.name', 'Escalate', 'escalate'),
      ('protocol.view', 'pek', 'peek'),
      ('objective.form', 'budgets', 'budget'),
      ('network.kind', 'mpl', 'mlp'),
      ('features.groups', ('text', 'progres'), 'progress'),
      ('calibration.source', 'knwon', 'known'),
      ('calibration.procedure', 'bonferoni', 'bonferroni'),
      ('evaluation.source', 'knwon', 'known'),
      ('evaluation.learners', ('boost',), 'boosting'),
      ('track', 'wandB', 'wandb'),
  )
  def test_a_misspelt_choice_of_a_configuration(self, field, wrong, right):
    config = arithmetic.get_config('smoke')
    config.update_from_flattened_dict({field: wrong})
    with self.assertRaises(ValueError) as caught:
      settings.check(config)
    message = mistakes.hinted(str(caught.exception))
    self.assertIn(
        repr(wrong[-1] if isinstance(wrong, tuple) else wrong), message
    )
    self.assertEndsWith(message, f" Did you mean '{right}'?")

  @parameterized.parameters(
      ('train_seeds', ('abc',)), ('train_seeds', ()), ('train_seeds', (0, 1, 0))
  )
  def test_seeds_are_different_numbers(self, field, value):
    config = arithmetic.get_config('smoke')
    config.update_from_flattened_dict({field: value})
    message = f'{field} is {value}; allowed: one or more whole numbers, all di'
    with self.assertRaisesRegex(ValueError, re.escape(message)):
      settings.check(config)

  @parameterized.parameters(
      ('num_trials', 0, 'is 0; allowed: >= 1'),
      ('policy_settings', (), 'is empty; allowed: one or more'),
  )
  def test_a_comparison_tries_at_least_one_setting(self, name, value, message):
    config = compare_arithmetic.get_config('smoke')
    settings.check(config)
    config.compare.update({name: value})
    for check in (settings.check, lambda x: compare.compare(x, 'nowhere')):
      with self.assertRaisesRegex(ValueError, f'compare.{name} {message}'):
        check(config)


class ConfigTest(parameterized.TestCase):

  @parameterized.parameters(
      (
          ['--config=configs/arithmetc.py'],
          "no such file. Did you mean 'configs/arithmetic.py'?",
      ),
      (['--config=configs/arithmetic.py:dmo'], "Did you mean 'demo'?"),
      (
          ['--config=configs/arithmetic.py', '--config.batch_sise=8'],
          "no field 'batch_sise'. Did you mean 'batch_size'? Fields: ",
      ),
      (
          ['--config=configs/arithmetic.py', '--config.dropout=8'],
          "no field 'dropout'. Did you mean 'network.dropout'?",
      ),
      (
          ['--config=configs/arithmetic.py', '--config.protocol.nam=x'],
          "no field 'nam'. Did you mean 'name'? Fields: max_decisions, name,",
      ),
      (
          ['--config=configs/arithmetic.py', '--config.ruler=flops'],
          'is now called --config.cost_metric',
      ),
  )
  def test_a_mistake(self, words, message):
    with contextlib.chdir(checkout.ROOT):
      self.assertIn(message, mistakes.config_problem(words))

  def test_what_is_right(self):
    words = ['--config=configs/arithmetic.py:demo', '--config.seed=1']
    with contextlib.chdir(checkout.ROOT):
      self.assertIsNone(mistakes.config_problem(words))

  def test_a_configuration_of_the_package_is_found_from_elsewhere(self):
    words = [
        'x',
        '--config',
        'configs/arithmetic.py:demo',
        '--config.seed',
        '1',
    ]
    path = checkout.ROOT / 'configs/arithmetic.py'
    with contextlib.chdir(self.create_tempdir().full_path):
      self.assertEqual(
          mistakes.located(words),
          ['x', f'--config={path}:demo', '--config.seed=1'],
      )
      # One that lies here is preferred.
      pathlib.Path('configs').mkdir()
      pathlib.Path('configs/arithmetic.py').touch()
      self.assertEqual(
          mistakes.located(words)[1], '--config=configs/arithmetic.py:demo'
      )


class CommandTest(absltest.TestCase):
  """As a user types it: one line, and exit code 1."""

  def _says(self, program, *words):
    done = subprocess.run(
        [sys.executable, '-m', f'experiments.{program}', *words],
        cwd=checkout.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    self.assertEqual(done.returncode, 1)
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines[0].startswith('Loading') else done.stderr.strip()

  def test_a_flag(self):
    said = self._says('report', '--wokdir=x')
    self.assertStartsWith(
        said, "report: --wokdir: no such flag. Did you mean '--workdir'? Flags:"
    )
    self.assertIn('--dry_run', said)

  def test_a_choice_of_a_flag(self):
    # Told in this process, which is quicker, under the name of the package.
    words = ['--config=configs/arithmetic.py', '--split=tran']
    self.assertEqual(
        commands_test.fault('experiments.collect', words),
        "experiments: --split: got 'tran'; allowed: train, select, prove, "
        "test. Did you mean 'train'?",
    )

  def test_a_value_of_a_field(self):
    said = self._says(
        'train',
        '--config=configs/arithmetic.py',
        f'--workdir={self.create_tempdir().full_path}',
        '--config.network.kind=gur',
    )
    self.assertStartsWith(said, "train: Unknown network kind 'gur'; allowed: ")
    self.assertEndsWith(said, "Did you mean 'gru'?")


if __name__ == '__main__':
  absltest.main()
