"""Tests of how experiments start."""

import io
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

  def test_a_terminal_gets_messages_alone_and_says_whose_they_are(self):
    ours, others = command_line.__file__, '/x/site-packages/orbax/saver.py'
    for path, level, expected in (
        (ours, logging.INFO, 'said\n'),
        (ours, logging.WARNING, 'Warning: said\n'),
        (others, logging.WARNING, 'Warning (orbax): said\n'),
        ('/x/other.py', logging.ERROR, 'Error (absl): said\n'),
    ):
      stream = io.StringIO()
      command_line._TerminalHandler(stream).emit(_record(path, level))
      self.assertEqual(stream.getvalue(), expected)

  def test_what_was_asked_is_the_config_and_its_overrides(self):
    words = ['--config=a.py:b', '--config.seed=1', '--workdir=x', '-config.c=2']
    self.assertEqual(
        command_line.asked(words),
        ('a.py:b', ['--config.seed=1', '-config.c=2']),
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
