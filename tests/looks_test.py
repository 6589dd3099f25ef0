"""Tests of the record of looks at prove: which further look is refused."""

import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized

from routing import types
from routing.calibration import looks


def _problems(num, start=0):
  names = map(str, range(start, start + num))
  return [types.Problem(id=x, question=x, answer='') for x in names]


def _look(num=10, start=0, data='d', **settings):
  settings = {
      'procedure': 'fixed_sequence',
      'num_choices': 1,
      'delta': 0.1,
  } | settings
  problems = _problems(num, start)
  return looks.look_at(problems, data, settings), problems


class AddedTest(parameterized.TestCase):

  def _add(self, *asked):
    """Returns the looks after each of `asked` was added."""
    found = []
    for one in asked:
      found = looks.added(found, *one)
    return found

  def test_the_same_look_again_is_not_added(self):
    self.assertLen(self._add(_look()), 1)
    self.assertLen(self._add(_look(), _look()), 1)
    # Tuples are lists in JSON.
    self.assertLen(self._add(_look(alphas=(0.1,)), _look(alphas=[0.1])), 1)

  @parameterized.parameters(
      (_look(delta=0.2), 'since then: delta'),
      (_look(data='e'), 'since then: the recorded outcomes'),
      (_look(12, data='e'), 'on 10 problems .* on 12 this .* then: problems'),
      (_look(10, start=10, data='e'), 'since then: problems'),
      (_look(num_choices=2), 'since then: num_choices'),
      (_look(12, data='e', procedure='growing'), 'procedure, problems'),
  )
  def test_another_look_is_refused(self, other, message):
    with self.assertRaisesRegex(ValueError, f'{message}.*Allowed: the same'):
      self._add(_look(), other)

  def test_a_growing_sample_may_be_looked_at_again_and_again(self):
    one, two, three = (
        _look(n, data=f'd{n}', procedure='growing') for n in (10, 12, 20)
    )
    found = self._add(one, two, three)
    self.assertEqual([x.num_problems for x in found], [10, 12, 20])
    # A look that was taken before is not another one, whatever came after.
    self.assertEqual(looks.added(found, *one), found)

  @parameterized.parameters(
      (_look(8, data='e', procedure='growing'),),  # Smaller.
      (_look(12, start=1, data='e', procedure='growing'),),  # Others.
      (_look(12, data='e', procedure='growing', delta=0.2),),
      (_look(10, data='e', procedure='growing'),),  # Collected anew.
  )
  def test_growing_allows_only_new_problems_at_the_end(self, other):
    with self.assertRaisesRegex(ValueError, 'prove 1 time'):
      self._add(_look(procedure='growing'), other)

  def test_num_choices_allows_as_many_looks(self):
    first, second, third = (
        _look(num_choices=2, delta=x) for x in (0.1, 0.2, 0.3)
    )
    found = self._add(first, second)
    self.assertLen(found, 2)
    with self.assertRaisesRegex(
        ValueError, 'num_choices of 3 or more in every'
    ):
      looks.added(found, *third)
    # The first look used the full delta; later ones cannot correct that.
    with self.assertRaisesRegex(
        ValueError, 'num_choices of 2 or more in every'
    ):
      self._add(_look(), _look(num_choices=5))


class FileTest(absltest.TestCase):

  def test_round_trip_is_atomic(self):
    path = pathlib.Path(self.create_tempdir().full_path) / looks.FILE_NAME
    self.assertEqual(looks.read(path), [])
    one, _ = _look(alphas=(0.1,))
    looks.write(path, [one])
    self.assertEqual(looks.read(path), [one])
    self.assertLen(json.loads(path.read_text()), 1)
    path.with_name(path.name + '.tmp').write_text('[{"da')
    self.assertEqual(looks.read(path), [one])
    looks.write(path, [one, one])
    self.assertEqual([x.name for x in path.parent.iterdir()], [path.name])


if __name__ == '__main__':
  absltest.main()
