"""Tests of the comparison of benchmarks with their baselines."""

import json

from absl.testing import absltest
from absl.testing import parameterized

from benchmarks import regressions


def _baseline(value, good, tolerance):
  return {'value': value, 'good': good, 'tolerance': tolerance}


class CompareTest(parameterized.TestCase):

  @parameterized.parameters(
      ('high', 5.0, 2.0),  # Half as many times faster.
      ('high', 20.0, 0.5),
      ('low', 20.0, 2.0),
      ('low', 5.0, 0.5),
  )
  def test_worsening_is_a_factor(self, good, value, expected):
    baseline = _baseline(10.0, good, 1.5)
    self.assertEqual(regressions.worsening(value, baseline), expected)

  @parameterized.parameters(
      (10.0, False), (6.7, False), (6.6, True), (16.0, False)
  )
  def test_worse_by_more_than_the_tolerance(self, value, is_worse):
    lines, worse = regressions.compare(
        {'a.b': value}, {'a.b': _baseline(10.0, 'high', 1.5)}
    )
    self.assertEqual(worse, ['a.b'] if is_worse else [])
    self.assertEqual('WORSE' in lines[0], is_worse)
    self.assertEqual('renew' in lines[0], value == 16.0)

  def test_a_ratio_without_a_baseline_is_no_regression(self):
    lines, worse = regressions.compare({'a.new': 1.0}, {})
    self.assertEmpty(worse)
    self.assertIn('without a baseline', lines[0])

  def test_what_is_renewed_keeps_its_tolerance(self):
    old = {'note': 'x', 'ratios': {'a': _baseline(1.0, 'high', 1.5), 'b': {}}}
    new = regressions.renewed(old, {'a': 2.0}, {'cores': 2})
    self.assertEqual(new['ratios']['a'], _baseline(2.0, 'high', 1.5))
    self.assertEqual(new['ratios']['b'], {})
    self.assertEqual(new['measured_on'], {'cores': 2})
    self.assertEqual(old['ratios']['a']['value'], 1.0)

  def test_a_benchmark_whose_package_is_missing_is_skipped(self):
    with absltest.mock.patch.object(
        regressions, 'BENCHMARKS', {'a': (None, 'no_such_package')}
    ):
      self.assertEmpty(regressions.measure(['a']))


class BaselinesTest(absltest.TestCase):

  def test_the_committed_file_is_whole(self):
    content = json.loads(regressions.BASELINES.read_text())
    self.assertContainsSubset(
        ('commit', 'processor', 'cores', 'load_before'), content['measured_on']
    )
    for name, row in content['ratios'].items():
      self.assertIn(name.split('.')[0], regressions.BENCHMARKS)
      self.assertIn(row['good'], ('high', 'low'))
      self.assertGreater(row['tolerance'], 1)
      self.assertNotEmpty(row['reason'])
    # Of vLLM there is no baseline yet: it was not measured.
    self.assertEqual(
        {name.split('.')[0] for name in content['ratios']},
        set(regressions.BENCHMARKS) - {'collection'},
    )


if __name__ == '__main__':
  absltest.main()
