"""Tests of extending a collection: more problems after the same first ones."""

import asyncio
import dataclasses
import functools
import itertools
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import pandas

from experiments import unattended_collection
from routing.shards import manifest as manifest_lib
from routing.shards import reader
from routing.shards import writer
from tests import scripted_pair

_SIZE = 4


def _open(directory, ladders):
  problems = [x.problem for x in ladders]
  return writer.LadderWriter(directory, problems, {'seed': 0}, _SIZE)


def _fill(directory, ladders, failed=()):
  """Collects the missing problems; returns their indices."""
  shards = _open(directory, ladders)
  missing = shards.missing()
  with shards:
    for i in missing:
      if i in failed:
        shards.fail(i, 'refused')
      else:
        shards.add(i, ladders[i])
  return missing


class ExtendedTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.create_tempdir().full_path) / 'prove'
    self.ladders = scripted_pair.make_ladders(12)

  def _check(self, num, without=()):
    """Checks that every reader finds each of the first `num` problems once."""
    wanted = [f'count/{i}' for i in range(num) if i not in without]
    back = reader.read_ladders(self.directory)
    self.assertEqual([x.problem.id for x in back], wanted)
    self.assertEqual(
        list(map(scripted_pair.plain, back)),
        [
            scripted_pair.plain(self.ladders[i])
            for i in range(num)
            if i not in without
        ],
    )
    files = sorted(self.directory.glob('*.parquet'))
    ids = [pandas.read_parquet(x)['id'].tolist() for x in files]
    self.assertEqual(list(itertools.chain(*ids)), wanted)

  @parameterized.parameters(itertools.product((1, 3, 4, 6, 8), (7, 8, 9, 12)))
  def test_no_problem_is_collected_twice_or_lost(self, before, after):
    if before >= after:
      self.skipTest('That is no extension.')
    _fill(self.directory, self.ladders[:before])
    full = {
        path: path.read_bytes()
        for path in self.directory.glob('*.parquet')
        if int(path.stem[-5:]) < before // _SIZE
    }
    missing = _fill(self.directory, self.ladders[:after])
    self.assertEqual(missing, list(range(before, after)))
    self._check(after)
    for path, content in full.items():
      self.assertEqual(path.read_bytes(), content)
    # The data equals that of a collection with all problems from the start.
    other = self.directory.with_name('other')
    _fill(other, self.ladders[:after])
    self.assertEqual(
        reader.read_manifest(self.directory).content_hash,
        reader.read_manifest(other).content_hash,
    )

  def test_repeated_extension_within_one_block(self):
    for num in (5, 6, 7, 8, 11):
      _fill(self.directory, self.ladders[:num])
      self._check(num)
      self.assertEmpty(_open(self.directory, self.ladders[:num]).missing())

  def test_failed_problems_stay_failed(self):
    _fill(self.directory, self.ladders[:6], failed=[1, 5])
    missing = _fill(self.directory, self.ladders[:10], failed=[6, 7])
    self.assertEqual(missing, [6, 7, 8, 9])
    self._check(10, without=[1, 5, 6, 7])
    self.assertEmpty(_open(self.directory, self.ladders[:10]).missing())

  def test_an_extended_collection_is_unfinished_at_first(self):
    _fill(self.directory, self.ladders[:6])
    shards = _open(self.directory, self.ladders[:9])
    with self.assertRaisesRegex(ValueError, 'holds 6 of 9 problems'):
      reader.read_ladders(self.directory)
    with self.assertRaisesRegex(ValueError, 'count/5 .* already has'):
      shards.add(5, self.ladders[5])
    shards.add(7, self.ladders[7])
    self.assertEqual(shards.missing(), [6, 8])  # 7 is in a log.

  def test_an_unfinished_collection_can_be_extended(self):
    shards = _open(self.directory, self.ladders[:6])
    for i in (4, 5, 0):
      shards.add(i, self.ladders[i])
    shards.close()
    missing = _fill(self.directory, self.ladders[:9])
    self.assertEqual(missing, [1, 2, 3, 6, 7, 8])
    self._check(9)

  @parameterized.parameters(range(12))
  def test_it_resumes_after_a_kill_at_any_write(self, moment):
    _fill(self.directory, self.ladders[:6])
    replace, count = manifest_lib.replace_file, itertools.count()

    def cancel_speculation(path, write, after):
      number = next(count)
      if number == moment // 2 and not after:
        raise OSError('killed')
      replace(path, write)
      if number == moment // 2:
        raise OSError('killed')

    dying = functools.partial(cancel_speculation, after=moment % 2)
    with mock.patch.object(manifest_lib, 'replace_file', dying):
      with self.assertRaises(OSError) if moment < 10 else self.subTest():
        _fill(self.directory, self.ladders[:11])
    there = manifest_lib.load(self.directory)
    self.assertGreaterEqual(sum(shard.rows for shard in there.shards), 6)
    _fill(self.directory, self.ladders[:11])
    self._check(11)

  def test_other_first_problems_or_settings_raise_an_error(self):
    _fill(self.directory, self.ladders[:6])
    files = {x: x.read_bytes() for x in self.directory.iterdir()}
    first = dataclasses.replace(self.ladders[0].problem, question='9:9')
    other = [dataclasses.replace(self.ladders[0], problem=first)]
    with self.assertRaisesRegex(ValueError, 'num_problems: 6 on .* 9 req'):
      _open(self.directory, other + self.ladders[1:9])
    problems = [x.problem for x in self.ladders[:9]]
    with self.assertRaisesRegex(ValueError, 'settings.seed: 0 on disk, 1 r'):
      writer.LadderWriter(self.directory, problems, {'seed': 1}, _SIZE)
    with self.assertRaisesRegex(ValueError, 'num_problems: 6 on .* 5 req'):
      _open(self.directory, self.ladders[:5])
    self.assertEqual({x: x.read_bytes() for x in files}, files)

  def test_engines_get_requests_for_new_problems_only(self):
    problems = scripted_pair.make_problems(9)
    asked = []
    for num in (6, 9):
      engines = scripted_pair.make_engines(2)
      shards = writer.LadderWriter(self.directory, problems[:num], {}, _SIZE)
      asyncio.run(
          unattended_collection.collect_missing(
              scripted_pair.collect_ladders,
              problems[:num],
              engines,
              shards,
              specs=scripted_pair.SPECS[:2],
              concurrency=4,
          )
      )
      self.assertEmpty(shards.missing())
      asked.append({x.question for e in engines for x in e.requests})
    self.assertEqual(asked[0], {x.question for x in problems[:6]})
    self.assertEqual(asked[1], {x.question for x in problems[6:]})
    self.assertLen(reader.read_ladders(self.directory), 9)


if __name__ == '__main__':
  absltest.main()
