"""Tests of what an actor takes over from the process that began."""

import contextlib
import os
import pathlib
import platform
from unittest import mock

from absl.testing import absltest
import jax

from experiments import command_line
from experiments import ray_nodes

_CACHE = (
    'jax_compilation_cache_dir',
    'jax_compilation_cache_max_size',
    'jax_persistent_cache_min_compile_time_secs',
)


class OriginTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    for name in _CACHE:
      self.addCleanup(jax.config.update, name, getattr(jax.config, name))
    jax.config.update('jax_compilation_cache_dir', None)
    self.here = self.create_tempdir().full_path
    self.enterContext(contextlib.chdir(self.create_tempdir().full_path))
    self.enterContext(mock.patch.dict(os.environ))
    os.environ.pop('NPROC', None)

  def test_place_cores_and_cache_are_those_of_the_origin(self):
    with contextlib.chdir(self.here):
      origin = ray_nodes.origin('/run', 1.5)
    origin.enter()
    self.assertEqual(os.getcwd(), os.path.realpath(self.here))
    self.assertEqual(os.environ['NPROC'], '2')  # XLA reads it.
    self.assertEqual(
        jax.config.jax_compilation_cache_dir,
        f'/run/{command_line.COMPILED_FOLDER}',
    )

  def test_another_machine_keeps_programs_of_its_own(self):
    before = pathlib.Path.cwd()
    origin = ray_nodes.Origin('/not/there', 'other', '/run', 0.0)
    with self.assertLogs('absl', 'WARNING') as logs:
      origin.enter()
    self.assertIn('/not/there does not exist on', logs.output[0])
    self.assertEqual(pathlib.Path.cwd(), before)
    self.assertEqual(os.environ['NPROC'], '1')
    self.assertEqual(
        jax.config.jax_compilation_cache_dir,
        f'/run/{command_line.COMPILED_FOLDER}/{platform.node()}',
    )


if __name__ == '__main__':
  absltest.main()
