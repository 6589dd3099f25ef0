"""Tests that a report shows no answers of another router than its figures."""

import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized

from experiments import records_on_disk
from experiments import report_page
from experiments import train
from routing.routers import learned
from routing.routers import saved
from routing.shards import manifest as manifest_lib


class WhyNotTest(parameterized.TestCase):

  @parameterized.parameters(
      ('card', 'another', 'was trained again'),
      ('points', '[1]', 'was calibrated again'),
      ('points', None, 'was calibrated again'),
      ('test', 'another', 'were collected again'),
      ('', '', ''),
  )
  def test_what_has_changed_since_the_evaluation(self, what, now, reason):
    workdir = pathlib.Path(self.create_tempdir().full_path)
    (workdir / 'config.json').write_text('{"train_seeds": [0]}')
    points = train.run_directory(workdir, 0) / learned.POINTS_FILE
    points.parent.mkdir(parents=True)
    points.write_text('[]')
    results = {
        'checkpoints': ['card'],
        'points_sha256': [manifest_lib.hash_file(points)],
        'shards': {'test': 'records'},
    }
    found = {'card': 'card', 'test': 'records', 'points': '[]', what: now}
    points.unlink()
    if found['points'] is not None:
      points.write_text(found['points'])
    opened = mock.Mock(**{'manifest.content_hash': found['test']})
    with (
        mock.patch.object(train, 'is_finished', return_value=True),
        mock.patch.object(
            saved, 'read_card', return_value={'hash': found['card']}
        ),
        mock.patch.object(records_on_disk, 'open_split', return_value=opened),
    ):
      said = report_page._why_not(workdir, results)
    self.assertIn(reason, said)
    self.assertEqual(bool(reason), bool(said))


if __name__ == '__main__':
  absltest.main()
