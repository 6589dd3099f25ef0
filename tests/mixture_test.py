"""Tests of tasks that mix the problems of others."""

import collections
import json
import pathlib

from absl.testing import absltest

from configs import arithmetic
from experiments import builders
from routing.tasks import registry


class MixtureTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    for name in ('a', 'b'):
      (self.folder / f'{name}.jsonl').write_text(
          ''.join(
              json.dumps({'question': f'{name} {i}?', 'answer': str(i)}) + '\n'
              for i in range(200)
          )
      )

  def part(self, name, share, **options):
    files = {'all': f'{name}.jsonl'}
    return dict(name='jsonl', share=share, files=files, **options)

  def make(self, *parts, **options):
    return registry.make('mixture', parts=parts, path=self.folder, **options)

  def load(self, task, size=12, seed=0):
    sizes = dict.fromkeys(('train', 'select', 'prove', 'test'), size)
    return task.source.load(sizes, seed).parts

  def test_every_beginning_of_a_split_has_the_shares(self):
    task = self.make(self.part('a', 0.75), self.part('b', 0.25))
    for problems in self.load(task).values():
      for size in (4, 8, 12):
        counts = collections.Counter(x.question[0] for x in problems[:size])
        self.assertEqual(counts, {'a': size * 3 // 4, 'b': size // 4})

  def test_a_smaller_split_begins_a_larger_one(self):
    task = self.make(self.part('a', 0.6), self.part('b', 0.4))
    few, many = self.load(task, 7), self.load(task, 19)
    for split, problems in few.items():
      self.assertEqual(many[split][:7], problems)

  def test_a_part_keeps_its_splits_and_names_its_problems(self):
    task = self.make(self.part('a', 0.5), self.part('b', 0.5))
    alone = registry.make('jsonl', files={'all': 'a.jsonl'}, path=self.folder)
    own = self.load(alone, 6)
    for split, problems in self.load(task).items():
      found = [x for x in problems if x.question.startswith('a')]
      self.assertEqual([x.id for x in found], [x.id for x in own[split]])
      self.assertEqual({x.subject for x in problems}, {'jsonl'})

  def test_what_is_refused(self):
    a, b = self.part('a', 0.5), self.part('b', 0.5)
    for parts, message in (
        ((), r'the shares \[\]'),
        ((a, self.part('b', 0.6)), r'the shares \[0.5, 0.6\]'),
        ((a, {'name': 'jsonl'}), 'needs a name and a share'),
        ((a, self.part('b', 0.5, grader='exact')), 'the graders exact, math'),
    ):
      with self.subTest(message), self.assertRaisesRegex(ValueError, message):
        self.make(*parts)
    with self.assertRaisesRegex(ValueError, 'have the same question'):
      self.load(self.make(a, a))
    with self.assertRaisesRegex(ValueError, 'problems.train is -1'):
      self.load(self.make(a, b), -1)

  def test_a_generators_grader_grades_the_other_parts_by_rules(self):
    numbers, puzzles = self.part('a', 0.5), {'name': 'reasoning_gym'}
    for parts in ((numbers, puzzles), (puzzles, numbers)):
      task = self.make(*(dict(part, share=0.5) for part in parts))
      self.assertEqual(task.grader, 'generator')
      self.assertEqual(task.finders, self.make(dict(parts[0], share=1)).finders)
    exact = self.part('a', 0.5, grader='exact')
    with self.assertRaisesRegex(ValueError, 'the graders exact, generator'):
      self.make(exact, dict(puzzles, share=0.5))

  def test_where_files_are_changes_no_record(self):
    config = arithmetic.get_config('smoke')
    keys = []
    for folder in ('/x', '/y'):
      config.task = dict(name='mixture', path=folder)
      config.task.parts = (
          self.part('a', 0.5, path=folder),
          self.part('b', 0.5),
      )
      keys.append(builders.task_key(config))
    self.assertEqual(*keys)
    self.assertLen(keys[0]['parts'], 2)


if __name__ == '__main__':
  absltest.main()
