"""Tests of problems without a record and steps without log-probabilities."""

import dataclasses
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.features import confidence
from routing.shards import reader
from routing.shards import writer as writer_lib
from tests import scripted_pair


class FailureTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.create_tempdir().full_path) / 'train'
    self.ladders = scripted_pair.make_ladders(8)

  def _open(self):
    problems = [ladder.problem for ladder in self.ladders]
    return writer_lib.LadderWriter(self.directory, problems, {}, 3)

  def _take(self, writer, index, failed):
    if index in failed:
      writer.fail(index, f'reason {index}')
    else:
      writer.add(index, self.ladders[index])

  # Failures in the middle, at both ends, and in a whole shard.
  @parameterized.parameters(({4},), ({0, 7},), ({3, 4, 5, 7},))
  def test_each_problem_is_in_a_shard_or_in_the_record_of_failures(
      self, failed
  ):
    for order in (range(8), reversed(range(8))):
      self.directory = self.directory.with_name(str(order))
      writer = self._open()
      for index in order:
        self._take(writer, index, failed)
      manifest = reader.read_manifest(self.directory)
      self.assertTrue(manifest.is_complete)
      self.assertEmpty(self._open().missing())
      there = [
          ladder.problem.id for ladder in reader.read_ladders(self.directory)
      ]
      self.assertEqual(
          there, [f'count/{i}' for i in range(8) if i not in failed]
      )
      self.assertEqual(
          [(x.index, x.id, x.reason) for x in manifest.failures],
          [(i, f'count/{i}', f'reason {i}') for i in sorted(failed)],
      )

  def test_a_failure_is_not_tried_again_after_a_kill(self):
    writer = self._open()
    writer.fail(1, 'too long')
    writer.add(0, self.ladders[0])
    writer.close()
    # Killed here: problem 2 is missing, so problem 0 is in a log.
    writer = self._open()
    self.assertEqual(writer.missing(), [2, 3, 4, 5, 6, 7])
    for index in writer.missing():
      writer.add(index, self.ladders[index])
    self.assertTrue(reader.read_manifest(self.directory).is_complete)
    self.assertLen(reader.read_ladders(self.directory), 7)

  def test_a_second_record_or_failure_raises_an_error(self):
    writer = self._open()
    writer.add(0, self.ladders[0])
    writer.fail(1, '')
    for index in (0, 1):
      with self.assertRaisesRegex(ValueError, f'count/{index} .* already has'):
        writer.fail(index, '')
    with self.assertRaisesRegex(ValueError, 'count/1 .* already has'):
      writer.add(1, self.ladders[1])

  def test_a_collection_with_a_missing_problem_is_unfinished(self):
    writer = self._open()
    for index in range(7):
      self._take(writer, index, {2})
    with self.assertRaisesRegex(ValueError, '5 of 8'):
      reader.read_ladders(self.directory)


class NoLogProbsTest(absltest.TestCase):

  def test_steps_without_log_probs_are_stored_and_masked(self):
    (ladder,) = scripted_pair.make_ladders(1)
    first = ladder.steps[0]
    bare = dataclasses.replace(
        first,
        log_probs=np.zeros(0, np.float32),
        top_log_probs=np.zeros((len(first.token_ids), 0), np.float32),
    )
    ladder = dataclasses.replace(ladder, steps=(bare, *ladder.steps[1:]))
    directory = pathlib.Path(self.create_tempdir().full_path)
    writer_lib.LadderWriter(directory, [ladder.problem], {}, 1).add(0, ladder)
    (back,) = reader.read_ladders(directory)
    self.assertEqual(scripted_pair.plain(back), scripted_pair.plain(ladder))
    values = dict(
        zip(
            confidence.NAMES,
            confidence.describe(back.steps[0], back.steps[:1]),
            strict=True,
        )
    )
    self.assertEqual(values.pop('num_tokens'), len(first.token_ids))
    self.assertEqual(set(values.values()), {0.0})


if __name__ == '__main__':
  absltest.main()
