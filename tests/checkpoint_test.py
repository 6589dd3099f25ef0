"""Tests of the JSON files of a run directory: same content, or an error."""

import json
import pathlib

from absl.testing import absltest

from routing.training import checkpoint


class PinTest(absltest.TestCase):

  def test_same_content_passes_and_other_content_is_refused(self):
    path = pathlib.Path(self.create_tempdir().full_path) / 'a' / 'f.json'
    content = {'x': (1, 2), 'y': {'z': 3.5}}
    checkpoint.pin_json(path, content, 'training set')
    checkpoint.pin_json(path, content, 'training set')
    before = path.read_text()
    with self.assertRaisesRegex(ValueError, r'training set .*y\.z\.'):
      checkpoint.pin_json(path, {'x': [1, 2], 'y': {'z': 4}}, 'training set')
    self.assertEqual(path.read_text(), before)
    self.assertEqual(json.loads(before), {'x': [1, 2], 'y': {'z': 3.5}})


if __name__ == '__main__':
  absltest.main()
