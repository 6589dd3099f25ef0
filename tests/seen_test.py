"""Tests of the record of seen problems: its content and its errors."""

import itertools
import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized

from routing import types
from routing.tasks import seen as seen_lib
from routing.tasks import splits


def _problem(name, question=None):
  question = question or f'How much is {name}?'
  return types.Problem(id=name, question=question, answer='0')


def _record():
  """Returns a record of one problem per split, named after the split."""
  record = seen_lib.NOTHING
  for name in splits.SPLITS:
    record = record.with_problems(name, [_problem(name)])
  return record


class CheckTest(parameterized.TestCase):

  @parameterized.parameters(itertools.product(splits.SPLITS, splits.SPLITS))
  def test_a_question_serves_one_split_only(self, seen_as, wanted):
    # New problems raise no error, so the message names the third problem.
    problems = [_problem('new'), _problem('newer'), _problem(seen_as)]
    if seen_as == wanted:
      _record().check(wanted, problems)
      return
    with self.assertRaisesRegex(
        ValueError,
        f"Problem '{seen_as}' .*there to {wanted} on.*in split '{seen_as}'; "
        f"allowed: .*seen in split '{wanted}' only. 1 of 3 problems",
    ):
      _record().check(wanted, problems)
    with self.assertRaises(ValueError):
      _record().with_problems(wanted, problems)

  def test_case_and_white_space_do_not_change_a_question(self):
    copy = _problem('a copy', 'how much  is TRAIN?')
    with self.assertRaisesRegex(ValueError, "'a copy' .*it in split 'train'"):
      _record().check('test', [copy])

  def test_an_unknown_record_raises_an_error_for_every_problem(self):
    self.assertFalse(seen_lib.UNKNOWN.is_known)
    for name in splits.SPLITS:
      with self.assertRaisesRegex(ValueError, 'The router does not say'):
        seen_lib.UNKNOWN.check(name, [_problem('train')])
    with self.assertRaisesRegex(ValueError, 'runs/seed0 does not say'):
      seen_lib.UNKNOWN.require_known('runs/seed0')
    seen_lib.NOTHING.require_known('runs/seed0')

  def test_inherited_questions_are_added_and_own_splits_stay(self):
    own = seen_lib.NOTHING.with_problems('train', [_problem('select')])
    found = own.with_inherited(_record())
    digest = lambda name: splits.question_hash(_problem(name).question)
    self.assertEqual(found.train, {digest('train'), digest('select')})
    self.assertEmpty(found.select)
    self.assertEqual(found.prove, {digest('prove')})
    self.assertTrue(found.is_known)
    self.assertFalse(own.with_inherited(seen_lib.UNKNOWN).is_known)

  def test_the_hash_depends_on_the_content_only(self):
    self.assertEqual(_record().hash, _record().hash)
    self.assertLen({_record().hash, seen_lib.NOTHING.hash}, 2)
    self.assertNotEqual(seen_lib.UNKNOWN.hash, seen_lib.NOTHING.hash)

  def test_adding_does_not_change_the_earlier_record(self):
    before = _record()
    after = before.with_problems('train', [_problem('new')] * 2)
    self.assertLen(before.train, 1)
    self.assertEqual(
        after.train - before.train,
        {splits.question_hash('How much is new?')},
    )
    self.assertEqual(after.prove, before.prove)
    self.assertTrue(after.is_known)

  def test_unknown_split(self):
    with self.assertRaisesRegex(ValueError, 'validation.*train, select, prove'):
      _record().check('validation', [])

  def test_overlapping_splits_raise_an_error(self):
    with self.assertRaisesRegex(ValueError, "'train' and 'prove' share 1"):
      seen_lib.Seen(train=frozenset('ab'), prove=frozenset('bc'))


class FileTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    directory = pathlib.Path(self.create_tempdir().full_path)
    self.path = directory / 'seen.json'

  def test_round_trip(self):
    record = _record().with_problems('train', map(_problem, 'cab'))
    content = json.loads(json.dumps(record.to_json()))
    self.assertEqual(content['train'], sorted(content['train']))
    self.assertLen(content['train'], 4)
    self.assertEqual(seen_lib.Seen.from_json(content), record)
    seen_lib.write(self.path, record)
    self.assertEqual(seen_lib.read(self.path), record)
    self.assertEqual(
        [x.name for x in self.path.parent.iterdir()], ['seen.json']
    )

  def test_a_missing_file_gives_an_unknown_record(self):
    self.assertEqual(seen_lib.read(self.path), seen_lib.UNKNOWN)
    self.assertNotEqual(seen_lib.UNKNOWN, seen_lib.NOTHING)

  def test_ten_thousand_questions_take_a_small_file(self):
    problems = [_problem(str(i)) for i in range(10_000)]
    record = seen_lib.NOTHING.with_problems('train', problems)
    seen_lib.write(self.path, record)
    # 16 digits, two quotes and a comma each.
    self.assertBetween(self.path.stat().st_size, 190_000, 190_100)

  def test_another_layout_raises_an_error(self):
    content = _record().to_json()
    del content['prove']
    with self.assertRaisesRegex(ValueError, 'allowed: is_known, train'):
      seen_lib.Seen.from_json(content)


if __name__ == '__main__':
  absltest.main()
