"""Kills a collection of the embedded pair a few times."""

import pathlib
import subprocess
import sys

from absl.testing import absltest
import pytest

from benchmarks import kills

_ROOT = pathlib.Path(__file__).parents[1]


class KillsTest(absltest.TestCase):

  @pytest.mark.slow
  def test_a_killed_collection_ends_as_one_that_was_left_alone(self):
    # In a process of its own: one that has used JAX cannot be forked.
    done = subprocess.run(
        [sys.executable, '-m', 'benchmarks.kills']
        + ['--kills=4', '--problems=16', '--seed=1'],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertRegex(done.stdout, '4 kills .* nothing was lost or doubled')

  def test_what_is_lost_or_changed_is_noticed(self):
    killer = object.__new__(kills.Killer)
    directory = pathlib.Path(self.create_tempdir().full_path)
    (directory / 'file').write_bytes(b'a')
    killer.whole = {'file': b'b'}
    with self.assertRaisesRegex(AssertionError, r"differs in \['file'\]"):
      killer._check_end(directory)
    with self.assertRaisesRegex(AssertionError, r"has lost \['count/1'\]"):
      killer._check(directory, {'count/1'})


if __name__ == '__main__':
  absltest.main()
