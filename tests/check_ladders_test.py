"""The independent check of ladders passes on real ones and finds damage."""

import dataclasses
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized

from benchmarks import check_ladders
from configs import arithmetic
from experiments import collect
from routing import costs


class CheckLaddersTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    config = arithmetic.get_config('smoke')
    config.problems.update(train=6, select=1, prove=1, test=1)
    folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.directory = collect.collect_split(config, folder, 'train')

  def test_real_ladders_pass(self):
    self.assertEqual(check_ladders.check(self.directory), [])

  def test_a_wrong_grade_is_found(self):
    with mock.patch.object(check_ladders, 'is_right', lambda *_: True):
      wrong = check_ladders.check(self.directory)
    self.assertNotEmpty(wrong)
    self.assertContainsSubsequence(wrong[0], 'is graded wrong')

  @parameterized.parameters('read', 'cached', 'written')
  def test_a_token_that_is_not_charged_is_found(self, name):
    charge = costs.call_cost

    def less(usage, spec, metric):
      fewer = {name: getattr(usage, name) - 1}
      return charge(dataclasses.replace(usage, **fewer), spec, metric)

    with mock.patch.object(costs, 'call_cost', less):
      self.assertEqual(
          check_ladders.check(self.directory),
          [f'{self.directory}: costs differ'],
      )

  @parameterized.parameters(
      ('6 * 12 = 72\n\n#### 72', '72'),
      ('so \\boxed{1,234.50} dollars', '1234.5'),
      ('#### $5\n\nNext question ... #### 7', '5'),
      ('He has -3.', '-3'),
      ('It is .5 of it', '0.5'),
  )
  def test_where_the_number_stands(self, text, reference):
    self.assertTrue(check_ladders.is_right(text, reference))
    self.assertFalse(check_ladders.is_right(text, '11'))

  def test_no_number_is_wrong(self):
    self.assertFalse(check_ladders.is_right('I do not know.', '0'))

  def test_what_the_limit_cut_is_wrong(self):
    for mark in ('#### ', '\\boxed{'):
      text = f'18 - 12 = 6 gallons.\n\n{mark}'
      self.assertFalse(check_ladders.is_right(text, '6'))
      self.assertTrue(check_ladders.is_right(text + '6}', '6'))


if __name__ == '__main__':
  absltest.main()
