"""Tests that what streams equals what is computed whole, on made-up ladders."""

import functools
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
import numpy as np

from benchmarks import made_ladders
from benchmarks import scale
from experiments import ladder_stream
from experiments import records_on_disk
from experiments import train
from experiments import training_data
from routing.shards import block_log
from routing.shards import manifest as manifest_lib
from routing.shards import schema
from routing.shards import writer as writer_lib
from routing.training import sources

NUM = 300  # In four splits; 180 in train, in 6 files.


@functools.cache
def collected():
  """A work directory with made-up ladders, its configuration, and the laps."""
  folder = tempfile.TemporaryDirectory()
  workdir = pathlib.Path(folder.name)
  laps = scale.run_process('write', NUM, workdir, has_text=True)
  return workdir, scale.get_config(NUM, has_text=True), laps, folder


@functools.cache
def streamed():
  workdir, config, *_ = collected()
  return training_data.load(config, workdir)


@functools.cache
def whole():
  """The same training set, with all of it in memory."""
  workdir, config, *_ = collected()
  config = config.copy_and_resolve_references()
  config.stream.num_shards_in_memory = 0
  return training_data.load(config, workdir)


class StreamTest(absltest.TestCase):

  def test_statistics_of_files_are_those_of_all_ladders(self):
    found, expected = streamed().view, whole().view
    self.assertEqual(found.accounting, expected.accounting)
    self.assertEqual(found.features, expected.features)
    for name in ('mean', 'std'):
      np.testing.assert_allclose(
          getattr(found.statistics, name),
          getattr(expected.statistics, name),
          rtol=1e-6,
          atol=1e-7,
      )
    self.assertEqual(streamed().seen, whole().seen)
    self.assertEqual(streamed().shards, whole().shards)

  def test_each_ladder_is_seen_once_in_an_epoch(self):
    batch_at = sources.streamed(streamed().train, 0, 36, 4)
    for epoch in range(2):
      rows = [batch_at(5 * epoch + i, None)[0] for i in range(5)]
      cost = np.concatenate([x.cost.reshape(36, -1) for x in rows])
      expected = whole().train.cost.reshape(180, -1)
      # Costs tell ladders apart, and are the same to the last bit.
      self.assertLen(np.unique(expected, axis=0), 180)
      np.testing.assert_array_equal(
          np.unique(cost, axis=0), np.unique(expected, axis=0)
      )

  def test_the_arrays_of_a_file_are_rows_of_the_whole(self):
    size = streamed().train.sizes[0]
    found, expected = streamed().train.load(1), whole().train
    for name in ('mask', 'branch', 'correct', 'cost', 'loss', 'features'):
      np.testing.assert_allclose(
          getattr(found, name),
          getattr(expected, name)[size : 2 * size],
          rtol=1e-5,
          atol=1e-5,
          err_msg=name,
      )
    self.assertEqual(found.widths, expected.widths)

  def test_problems_of_select_are_drawn_where_there_are_many(self):
    workdir, config, *_ = collected()
    with mock.patch.object(ladder_stream, 'MAX_SELECT', 7):
      few = training_data.load(config, workdir)
    self.assertLen(few.select.mask, 7)
    self.assertEqual(few.seen, streamed().seen)  # All of them count as seen.
    every = streamed().select.cost.reshape(30, -1)
    place = [
        int(np.flatnonzero((every == row).all(axis=1))[0])
        for row in few.select.cost.reshape(7, -1)
    ]
    self.assertEqual(place, sorted(set(place)))
    self.assertNotEqual(place, list(range(7)))


class SourceTest(absltest.TestCase):

  def test_the_source_of_a_split_is_that_of_its_ladders(self):
    workdir, config, *_ = collected()
    view = streamed().view
    card = train.make_card(config, view)
    found = records_on_disk.source(config, workdir, 'test', card, 'known')
    ladders = list(
        records_on_disk.open_split(config, workdir, 'test').records()
    )
    expected = records_on_disk.known_table(
        iter(ladders), card.features, card.accounting, card.protocol
    )
    np.testing.assert_array_equal(
        found.table.decisions.features, expected.decisions.features
    )
    np.testing.assert_array_equal(found.table.children, expected.children)
    np.testing.assert_array_equal(
        found.table.ending_cost['flops'], expected.ending_cost['flops']
    )
    self.assertEqual(found.problems, [x.problem for x in ladders])
    self.assertTrue(found.is_graded_once)

  def test_the_first_problems_of_a_split(self):
    workdir, config, *_ = collected()
    opened = records_on_disk.open_split(config, workdir, 'train')
    first = type(opened)(opened.directory, opened.kind, 70)
    ids = [x for t in first.tables() for x in t['id'].to_pylist()]
    self.assertEqual(ids, [x.problem.id for x in first.records()])
    self.assertLen(ids, 70)
    self.assertEqual(first.num_records, 70)


class WriteTest(absltest.TestCase):

  def test_a_block_has_the_bytes_of_single_records(self):
    ladders = made_ladders.ladders('prove', 0, 10)
    problems = made_ladders.Problems('prove', 10)
    shards = {}
    for name in ('block', 'single'):
      folder = pathlib.Path(self.create_tempdir(name).full_path)
      with writer_lib.LadderWriter(folder, problems, {}, 4) as writer:
        if name == 'single':
          for index, ladder in enumerate(ladders):
            writer.add(index, ladder)
          shards[name] = writer.manifest.shards
          continue
        for wrong in (
            (0, ladders[:3]),
            (2, ladders[2:6]),
            (0, ladders[1:5]),
            (12, []),
            (-4, []),
        ):
          with self.assertRaises(ValueError):
            writer.add_block(*wrong)
        for first in (4, 0, 8):
          writer.add_block(first, ladders[first : first + 4])
        shards[name] = writer.manifest.shards
        with self.assertRaisesRegex(ValueError, 'already'):
          writer.add_block(0, ladders[:4])
        self.assertEmpty(block_log.paths(folder, schema.LADDERS))
    self.assertEqual(shards['block'], shards['single'])

  def test_the_hash_of_problems_is_that_of_one_text(self):
    problems = made_ladders.Problems('test', 5)[:]
    rows = [
        [p.id, manifest_lib.splits.question_hash(p.question), p.answer]
        for p in problems
    ]
    for num in (0, 1, 5):
      self.assertEqual(
          manifest_lib.hash_problems(problems[:num]),
          manifest_lib.hash_json(rows[:num]),
      )


class BenchmarkTest(absltest.TestCase):

  def test_made_up_ladders_are_seeded_and_differ(self):
    first, again = (made_ladders.ladders('train', 30, 5) for _ in range(2))
    self.assertEqual(
        schema.LADDERS.to_table(first), schema.LADDERS.to_table(again)
    )
    for other in (('select', 30), ('train', 60)):
      found = made_ladders.ladders(*other, 5)
      self.assertNotEqual(found[0].steps[0].text, first[0].steps[0].text)
      self.assertNotEqual(found[0].problem.question, first[0].problem.question)
    for ladder in first:
      self.assertLen(ladder.steps, made_ladders.NUM_STEPS)
      self.assertLen(ladder.completions, made_ladders.NUM_STEPS)

  def test_laps_and_the_last_line(self):
    *_, laps, _ = collected()
    self.assertEqual(set(laps), {'write', 'make up'})
    taken = {'seconds': 2.0, 'elapsed': 3.0, 'peak_mib': 500.4}
    page = {'report': {**taken, 'page_bytes': 7}}
    found = scale.summary(
        {1_000: page, 10_000: {'report': {**page['report'], 'seconds': 40.0}}}
    )
    self.assertEqual(found['stages']['report']['us_per_trajectory'], [2e3, 4e3])
    self.assertEqual(found['stages']['report']['exponent'], 1.301)  # lg 20
    self.assertEqual(found['total_seconds'], [2.0, 40.0])
    self.assertEqual(found['peak_mib'], [500, 500])
    self.assertIsNone(scale.exponent([10], [1.0]))


if __name__ == '__main__':
  absltest.main()
