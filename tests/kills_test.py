"""Tests that the benchmark of kills notices what a kill has broken.

The kills themselves are a stage of `.ci/run`: they take a minute.
"""

import pathlib

from absl.testing import absltest

from benchmarks import kills


class KillsTest(absltest.TestCase):

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
