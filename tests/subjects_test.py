"""`data.subject`: a run that uses the problems of one subject only."""

import pathlib

from absl.testing import absltest
from absl.testing import parameterized

from configs import gsm8k_qwen25_coder
from experiments import evaluate
from experiments import ladder_stream
from experiments import records_on_disk
from experiments import split_on_disk
import routing
from routing.shards import columns
from routing.shards import schema
from routing.shards import writer as writer_lib


def _config(subject, **problems):
  config = gsm8k_qwen25_coder.get_config('shipped')
  config.data.subject = subject
  config.problems.update(**problems)
  return config


class SubjectsTest(parameterized.TestCase):

  def _split(self, subject, split='select', **problems):
    config = _config(subject, **problems)
    return records_on_disk.open_split(config, self.create_tempdir(), split)

  def test_records_and_tables_are_those_of_the_subject(self):
    every = routing.load_ladders('qwen25_coder', 'select')
    ids = {}
    for subject in ('gsm8k', 'simple_equations'):
      opened = self._split(subject)
      wanted = [x.problem.id for x in every if x.problem.subject == subject]
      ids[subject] = [x.problem.id for x in opened.records()]
      in_tables = [
          problem.id
          for table in opened.tables()
          for problem in columns.decode_problems(table)
      ]
      self.assertEqual(ids[subject], wanted)
      self.assertEqual(in_tables, wanted)
      self.assertEqual(opened.num_records, len(wanted))
    self.assertLen({*ids['gsm8k'], *ids['simple_equations']}, len(every))

  def test_sizes_count_the_problems_before(self):
    opened = self._split('gsm8k', select=20)
    first = routing.load_ladders('qwen25_coder', 'select')[:20]
    self.assertEqual(
        [x.problem.id for x in opened.records()],
        [x.problem.id for x in first if x.problem.subject == 'gsm8k'],
    )

  def test_results_say_how_many_were_used(self):
    config = _config('simple_equations', test=30)
    counted = evaluate._num_problems(config, self.create_tempdir())
    self.assertEqual(counted['test'], 15)
    self.assertEqual(counted['select'], self._split('gsm8k').num_records)

  def test_a_subject_that_is_not_there_is_refused_with_those_that_are(self):
    with self.assertRaisesRegex(
        ValueError, "'algebra'.*'gsm8k', 'simple_equations'"
    ):
      list(self._split('algebra').tables())

  @parameterized.parameters(
      {'data.kind': 'replies', 'protocol.name': 'switch'},
      {'scorer.model': 'shipped/reward'},
      {'objective.estimator': 'vtrace'},
  )
  def test_where_it_would_be_ignored_it_is_refused(self, **changed):
    config = _config('gsm8k')
    config.update_from_flattened_dict(changed)
    with self.assertRaisesRegex(ValueError, "data.subject is 'gsm8k'"):
      records_on_disk.check(config)

  def test_a_stream_reads_the_files_that_have_the_subject(self):
    every = routing.load_ladders('qwen25_coder', 'select')
    equations = [x for x in every if x.problem.subject == 'simple_equations']
    others = [x for x in every if x.problem.subject == 'gsm8k']
    ladders = [*others[:2], *equations[:3], others[2]]
    directory = self.create_tempdir().full_path
    problems = [x.problem for x in ladders]
    settings = self._split('').manifest.settings
    with writer_lib.LadderWriter(directory, problems, settings, 2) as writer:
      for i, ladder in enumerate(ladders):
        writer.add(i, ladder)
    split = split_on_disk.Split(
        pathlib.Path(directory), schema.LADDERS, subject='simple_equations'
    )
    select = self._split('simple_equations', 'test')
    train = ladder_stream.read(_config(''), split, select).train
    self.assertEqual(train.sizes, [2, 1])  # The first file has none.
    for index, size in enumerate(train.sizes):
      self.assertLen(train.load(index).mask, size)

  @parameterized.parameters((4, [0, 1], 4), (5, [0, 1], 4), (6, [0, 1, 2], 5))
  def test_failed_problems_count_among_the_first(self, count, files, records):
    ladders = routing.load_ladders('qwen25_coder', 'select')[:6]
    directory = self.create_tempdir().full_path
    problems = [x.problem for x in ladders]
    settings = self._split('').manifest.settings
    with writer_lib.LadderWriter(directory, problems, settings, 2) as writer:
      for i, ladder in enumerate(ladders):
        if i == 4:  # The first of the last file.
          writer.fail(i, 'refused')
        else:
          writer.add(i, ladder)
    opened = split_on_disk.Split(pathlib.Path(directory), schema.LADDERS, count)
    self.assertEqual(opened.file_numbers, files)
    self.assertEqual(opened.num_records, records)
    kept = [x for i, x in enumerate(problems[:count]) if i != 4]
    self.assertEqual([x.problem for x in opened.records()], kept)


if __name__ == '__main__':
  absltest.main()
