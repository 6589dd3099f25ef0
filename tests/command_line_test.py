"""Tests of how experiments start."""

import io
import logging
import os
import pathlib
import subprocess
import sys

from absl.testing import absltest
import jax
from jax.experimental.compilation_cache import compilation_cache
import jax.numpy as jnp

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

  def test_programs_are_run_in_place_unless_the_user_says_otherwise(self):
    option = 'jax_cpu_enable_async_dispatch'
    wanted = {'': False, 'true': True}
    others = {k: v for k, v in os.environ.items() if k != option.upper()}
    for given, expected in wanted.items():
      done = subprocess.run(
          [
              sys.executable,
              '-c',
              'import jax; from experiments import command_line; '
              f'command_line.run(lambda: print(jax.config.values["{option}"]))',
          ],
          capture_output=True,
          check=True,
          env=os.environ | {option.upper(): given} if given else others,
          text=True,
      )
      self.assertEqual(done.stdout.strip(), str(expected))

  def test_help_shows_the_flags_of_the_program(self):
    done = subprocess.run(
        [sys.executable, '-m', 'experiments.report', '--help'],
        capture_output=True,
        text=True,
        check=False,
    )
    self.assertIn('--workdir: Directory of the experiment.', done.stdout)


class CompiledTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    for name in (
        'jax_compilation_cache_dir',
        'jax_compilation_cache_max_size',
        'jax_persistent_cache_min_compile_time_secs',
    ):
      self.addCleanup(jax.config.update, name, getattr(jax.config, name))
    compilation_cache.reset_cache()  # It remembers its first directory.
    self.addCleanup(compilation_cache.reset_cache)
    self.workdir = pathlib.Path(self.create_tempdir().full_path)
    self.kept = self.workdir / command_line.COMPILED_FOLDER

  def compile(self):
    """Compiles a program that is new to this process; however quickly."""
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)

    def program(x):
      for i in range(20):
        x = jnp.sin(x + i)
      return x

    jax.jit(program)(jnp.ones(3)).block_until_ready()

  def test_what_is_compiled_stays_in_the_work_directory(self):
    jax.config.update('jax_compilation_cache_dir', None)
    command_line.keep_compiled(str(self.workdir))
    self.compile()
    self.assertLen(list(self.kept.glob('jit_program-*-cache')), 1)
    events = []
    jax.monitoring.register_event_listener(lambda x, **_: events.append(x))
    self.compile()
    self.assertIn('/jax/compilation_cache/cache_hits', events)

  def test_a_directory_that_the_user_has_named_comes_first(self):
    named = self.workdir / 'named'
    jax.config.update('jax_compilation_cache_dir', str(named))
    command_line.keep_compiled(str(self.workdir))
    self.compile()
    self.assertNotEmpty(list(named.iterdir()))
    self.assertFalse(self.kept.exists())


if __name__ == '__main__':
  absltest.main()
