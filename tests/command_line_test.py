"""Tests of how experiments start."""

import logging
import pathlib
import subprocess
import sys

from absl.testing import absltest

from experiments import command_line
import routing


def _record(path, level):
  return logging.LogRecord('absl', level, str(path), 1, 'said', (), None)


class LaunchTest(absltest.TestCase):

  def test_other_libraries_are_heard_from_warnings_on(self):
    ours = pathlib.Path(routing.__file__).parent / 'progress.py'
    others = ours.parents[1] / '.venv/lib/orbax/checkpoint/saver.py'
    for path, level, is_shown in (
        (ours, logging.INFO, True),
        (command_line.__file__, logging.INFO, True),
        (others, logging.INFO, False),
        (others, logging.WARNING, True),
    ):
      self.assertEqual(
          command_line._is_ours_or_serious(_record(path, level)), is_shown
      )

  def test_help_shows_the_flags_of_the_program(self):
    done = subprocess.run(
        [sys.executable, '-m', 'experiments.report', '--help'],
        capture_output=True,
        text=True,
        check=False,
    )
    self.assertIn('--workdir: Directory of the experiment.', done.stdout)


if __name__ == '__main__':
  absltest.main()
