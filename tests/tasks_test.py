"""Tests of tasks: problems from rows, their splits, and the registry."""

import dataclasses
import gzip
import importlib.util
import json
import pathlib
import time
import unittest

from absl.testing import absltest
from absl.testing import parameterized
import pytest

from routing.tasks import registry
from routing.tasks import splits
from routing.tasks import tables
from routing.tasks import task as task_lib

_ALL = dict.fromkeys(splits.SPLITS, task_lib.ALL)


def _row(i, **fields):
  return {'question': f'What is {i}?', 'answer': str(i), **fields}


def _write(path: pathlib.Path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


class TablesTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def test_a_row_becomes_a_problem(self):
    fields = tables.Fields(
        question=('story', 'asked'),
        answer='solution',
        finder='hash',
        id='key',
        subject='kind',
        meta=('level',),
    )
    row = dict(
        story='Two cats.', asked='How many?', solution='1+1\n#### 2', key='a7'
    )
    row.update(kind='pets', level=3, unused=None)
    (problem,) = tables.to_problems({'all': [row]}, fields, 'mine').parts['all']
    self.assertEqual(problem.id, 'mine/all/a7')
    self.assertEqual(problem.question, 'Two cats. How many?')
    self.assertEqual(problem.answer, '2')
    self.assertEqual(problem.subject, 'pets')
    self.assertEqual(problem.meta, {'level': 3})

  @parameterized.parameters(
      (27.0, '27'), (0.5, '0.5'), (['\\pi', '2'], '\\pi, 2'), (' x ', 'x')
  )
  def test_references_that_are_not_text(self, value, expected):
    rows = {'all': [_row(1, answer=value)]}
    loaded = tables.to_problems(rows, tables.Fields(), 'mine')
    self.assertEqual(loaded.parts['all'][0].answer, expected)

  def test_rows_that_cannot_be_used_are_left_out_with_the_reason(self):
    rows = {
        'train': [
            _row(1),
            _row(2, answer=None),
            _row(3, question=' '),
            _row(4, question='what  IS 1?'),
            _row(5),
        ],
        'test': [_row(5), _row(6)],
    }
    loaded = tables.to_problems(rows, tables.Fields(), 'mine')
    self.assertEqual([p.answer for p in loaded.parts['train']], ['1'])
    self.assertEqual([p.answer for p in loaded.parts['test']], ['5', '6'])
    self.assertEqual(
        {dropped.id: dropped.reason for dropped in loaded.dropped},
        {
            'mine/train/1': 'empty answer',
            'mine/train/2': 'empty question',
            'mine/train/3': 'repeated question',
            'mine/train/4': 'question also in test',
        },
    )
    self.assertEqual(
        task_lib.why_dropped(loaded.dropped[:2] * 2),
        '2 empty answer, 2 empty question',
    )

  def test_a_missing_field_is_named(self):
    with self.assertRaisesRegex(
        ValueError, "Row 1 of mine/all has no field 'asked'; it has 'question'"
    ):
      tables.to_problems(
          {'all': [_row(1, asked='x'), _row(2)]},
          tables.Fields(question='asked'),
          'mine',
      )

  def test_files(self):
    rows = [_row(1), _row(2)]
    _write(self.folder / 'a.jsonl', rows)
    text = (self.folder / 'a.jsonl').read_bytes() + b'\n\n'
    (self.folder / 'b.jsonl.gz').write_bytes(gzip.compress(text))
    (self.folder / 'c.json').write_text(json.dumps(rows, indent=1))
    for name in ('a.jsonl', 'b.jsonl.gz', 'c.json'):
      self.assertEqual(list(tables.read_rows(self.folder / name)), rows)

  @parameterized.parameters(
      ('{"a": 1}\n{"a": \n', ':2 is not JSON'),
      ('{"a": 1}\n\n[1]\n', r':3 is not a JSON object: .*\[1\]'),
  )
  def test_bad_files_are_refused_with_the_line(self, text, said):
    path = self.folder / 'x.jsonl'
    path.write_text(text)
    with self.assertRaisesRegex(ValueError, said):
      list(tables.read_rows(path))
    with self.assertRaisesRegex(
        ValueError, 'no.jsonl does not exist; set task'
    ):
      list(tables.read_rows(self.folder / 'no.jsonl'))


class SplitsTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def _load(self, parts, sizes=_ALL, seed=0):
    for name, rows in parts.items():
      _write(self.folder / f'{name}.jsonl', rows)
    task = registry.make(
        'jsonl',
        path=str(self.folder),
        files={name: f'{name}.jsonl' for name in parts},
    )
    return task.source.load(sizes, seed).parts

  def test_one_file_is_divided_into_four(self):
    parts = self._load({'all': map(_row, range(2_000))})
    self.assertCountEqual(
        [p.answer for part in parts.values() for p in part],
        map(str, range(2_000)),
    )
    for name, share in zip(
        splits.SPLITS, (0.45, 0.15, 0.15, 0.25), strict=True
    ):
      # Four standard deviations of a binomial share.
      self.assertAlmostEqual(len(parts[name]) / 2_000, share, delta=0.045)

  def test_a_test_file_stays_whole_and_the_rest_is_divided(self):
    parts = self._load(
        {
            'train': map(_row, range(1_000)),
            'test': map(_row, range(1_000, 1_100)),
        }
    )
    self.assertCountEqual(
        [p.answer for p in parts['test']], map(str, range(1_000, 1_100))
    )
    self.assertAlmostEqual(len(parts['train']) / 1_000, 0.6, delta=0.065)
    self.assertAlmostEqual(len(parts['prove']) / 1_000, 0.2, delta=0.055)

  def test_own_splits_stay_as_they_are(self):
    given = {
        name: [_row(10 * i), _row(10 * i + 1)]
        for i, name in enumerate(splits.SPLITS)
    }
    parts = self._load(given)
    for name, rows in given.items():
      self.assertCountEqual(
          [p.answer for p in parts[name]], [row['answer'] for row in rows]
      )

  def test_test_problems_alone_train_nothing(self):
    parts = self._load({'test': map(_row, range(20))})
    self.assertEqual([len(parts[s]) for s in splits.SPLITS], [0, 0, 0, 20])

  def test_a_smaller_split_begins_a_larger_one_and_the_seed_chooses(self):
    rows = {'all': list(map(_row, range(300)))}
    small = self._load(rows, dict(train=10, test=5))
    large = self._load(rows, dict(train=30, test=5))
    self.assertEqual(small['train'], large['train'][:10])
    self.assertEqual(small['test'], large['test'])
    rows = {'all': rows['all'][::-1]}  # The order of the file has no effect.
    again = self._load(rows, dict(train=10, test=5))
    self.assertEqual(
        [p.question for p in again['train']],
        [p.question for p in small['train']],
    )
    other = self._load(rows, dict(train=10, test=5), seed=1)
    self.assertNotEqual(
        {p.question for p in other['train']},
        {p.question for p in small['train']},
    )

  def test_more_than_there_are_is_refused(self):
    rows = {'all': list(map(_row, range(100)))}
    with self.assertRaisesRegex(ValueError, r'problems.train is 99, but .* -1'):
      self._load(rows, dict(train=99))
    with self.assertRaisesRegex(ValueError, 'problems.test is -2; allowed'):
      self._load(rows, dict(test=-2))


class RegistryTest(parameterized.TestCase):

  def test_unknown_tasks_and_options_are_refused(self):
    with self.assertRaisesRegex(
        ValueError, "'gsm'; allowed: arithmetic, gsm8k"
    ):
      registry.make('gsm')
    with self.assertRaisesRegex(ValueError, "no option 'file'; allowed: path"):
      registry.make('gsm8k', file='x')
    with self.assertRaisesRegex(ValueError, 'needs task.files'):
      registry.make('jsonl')
    with self.assertRaisesRegex(
        ValueError, "task.fields has 'q'; allowed: que"
    ):
      registry.make('jsonl', files={'all': 'x'}, fields={'q': 'x'})
    with self.assertRaisesRegex(ValueError, 'kor_bench reads the files'):
      registry.make('kor_bench').source.load(_ALL, 0)

  def test_arithmetic_is_a_task_like_the_others(self):
    task = registry.make('arithmetic')
    loaded = task.source.load(dict(train=4, test=3), 0)
    self.assertEqual([len(loaded.parts[s]) for s in ('train', 'test')], [4, 3])
    question = loaded.parts['test'][0].question
    self.assertEqual(task.prompt.text(question), question)

  def test_the_hub_is_asked_by_name_subset_split_and_revision(self):
    source = registry.make('gsm8k').source
    source = dataclasses.replace(
        source, hub=dataclasses.replace(source.hub, revision='abc')
    )
    asked = []

    def rows(*args):
      asked.append(args)
      return [_row(len(asked), answer=f'#### {len(asked)}')]

    with unittest.mock.patch.object(tables, 'hub_rows', rows):
      loaded = source.all()
    self.assertEqual(
        asked,
        [
            ('openai/gsm8k', 'main', 'train', 'abc'),
            ('openai/gsm8k', 'main', 'test', 'abc'),
        ],
    )
    self.assertEqual(loaded.parts['test'][0].answer, '2')

  @unittest.skipUnless(
      importlib.util.find_spec('reasoning_gym'),
      'reasoning-gym is not installed: pip install reasoning-gym',
  )
  def test_generators(self):
    source = registry.make(
        'reasoning_gym',
        generators=('gsm_symbolic', 'chain_sum'),
        settings={'chain_sum': {'min_terms': 3, 'max_terms': 3}},
    ).source
    loaded = source.load(dict(train=12, test=6), 0)
    self.assertEqual([len(loaded.parts[s]) for s in ('train', 'test')], [12, 6])
    kinds = {p.subject for p in loaded.parts['train']}
    self.assertEqual(kinds, {'gsm_symbolic', 'chain_sum'})
    grown = source.load(dict(train=40, test=6), 0)
    self.assertEqual(grown.parts['train'][:12], loaded.parts['train'])
    self.assertEqual(grown.parts['test'], loaded.parts['test'])
    other = source.load(dict(train=12), 1)
    self.assertNotEqual(other.parts['train'], loaded.parts['train'])
    for options, said in (
        (dict(generators=('chess',)), "cannot make 'chess'"),
        (dict(settings={'gsm_symbolic': {'x': 1}}), "cannot make 'gsm_symb"),
    ):
      with self.assertRaisesRegex(ValueError, said):
        registry.make('reasoning_gym', **options).source.load({'test': 1}, 0)
    with self.assertRaisesRegex(ValueError, 'has no end'):
      source.load(_ALL, 0)


@pytest.mark.usefixtures('routing_data')
class PublicFilesTest(parameterized.TestCase):
  """The real files, read whole."""

  @parameterized.parameters(
      ('gsm8k', dict(train=7_473, test=1_319), ''),
      (
          'math',
          dict(train=7_497, test=500),
          '1 repeated question, 2 empty answer',
      ),
      ('math500', dict(test=500), ''),
      ('omni_math_rule', dict(all=2_816), '5 repeated question'),
      ('aime24', dict(test=30), ''),
      ('amc23', dict(test=40), ''),
      ('minerva', dict(test=272), ''),
      ('olympiad_bench', dict(test=675), ''),
      ('kor_bench', dict(all=1_248), '2 repeated question'),
  )
  def test_counts(self, name, counts, left_out):
    loaded = registry.make(name, path=str(self.routing_data)).source.all()
    self.assertEqual({k: len(v) for k, v in loaded.parts.items()}, counts)
    self.assertEqual(task_lib.why_dropped(loaded.dropped), left_out)
    problems = [p for part in loaded.parts.values() for p in part]
    self.assertLen({p.id for p in problems}, len(problems))
    for problem in problems:
      self.assertNotEmpty(problem.question)
      self.assertNotEmpty(problem.answer)

  def test_no_question_is_in_two_splits(self):
    for name in ('gsm8k', 'math', 'omni_math_rule'):
      task = registry.make(name, path=str(self.routing_data))
      parts = task.source.load(_ALL, 0).parts
      splits.check_disjoint(
          **{
              split: [splits.question_hash(p.question) for p in problems]
              for split, problems in parts.items()
          }
      )

  def test_known_answers(self):
    path = str(self.routing_data)
    gsm8k = registry.make('gsm8k', path=path).source.all()
    self.assertEqual(gsm8k.parts['test'][0].answer, '18')  # Janet's ducks.
    amc = registry.make('amc23', path=path).source.all()
    self.assertEqual(amc.parts['test'][0].answer, '27')  # 27.0 in the file.

  def test_all_files_load_quickly(self):
    start = time.process_time()
    for name in ('gsm8k', 'math', 'omni_math_rule', 'minerva', 'kor_bench'):
      registry.make(name, path=str(self.routing_data)).source.all()
    # Measured 1.5 s; the limit is for hangs and quadratic loops.
    self.assertLess(time.process_time() - start, 30)


if __name__ == '__main__':
  absltest.main()
