"""Tests that a report shows no answers of another router than its figures."""

import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized

from experiments import records_on_disk
from experiments import report
from experiments import report_page
from experiments import train
from routing.evaluation import plots
from routing.evaluation import tables
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


class WholeTest(parameterized.TestCase):

  @parameterized.parameters('table.md', 'frontier.png', 'cost_metrics.png')
  def test_a_file_is_written_whole_or_not_at_all(self, name):
    workdir = pathlib.Path(self.create_tempdir().full_path)
    (workdir / name).write_text('the report before')

    class Killed(BaseException):
      """Ends the process in the middle of a file."""

    def stopped(results, file):
      del results
      file.write(b'ha')
      raise Killed()

    whole = lambda results, file: None
    drawn = {'frontier.png': whole, 'cost_metrics.png': whole, name: stopped}
    write_text = pathlib.Path.write_text

    def write(path, text):
      write_text(path, text[:2] if path.name.startswith(name) else text)
      if path.name.startswith(name):
        raise Killed()

    with (
        mock.patch.object(report, 'load', lambda workdir: {}),
        mock.patch.object(report_page, 'write'),
        mock.patch.object(tables, 'markdown', lambda results: 'half'),
        mock.patch.object(plots, 'frontier', drawn['frontier.png']),
        mock.patch.object(plots, 'cost_metrics', drawn['cost_metrics.png']),
        mock.patch.object(pathlib.Path, 'write_text', write),
        self.assertRaises(Killed),
    ):
      report.write(workdir)
    self.assertEqual((workdir / name).read_text(), 'the report before')


if __name__ == '__main__':
  absltest.main()
