"""Tests of the comparison of a judge with rules, with a scripted model."""

from absl.testing import absltest
from absl.testing import parameterized

from benchmarks import judge
from routing.engines import scripted
from routing.grading import equivalence


def _row(name, gold, pred, expected=True):
  return {'id': name, 'gold': gold, 'pred': pred, 'expected': expected}


_ROWS = [
    _row('same', 'x', ' x'),
    _row('mv263', '1 - 1/e', '1 + 1/e'),
    _row('a', '2x', 'x + x'),
    _row('b', '2x', r'$\boxed{x}$', False),
    _row('c', 'two', '2'),
]


class JudgeBenchmarkTest(parameterized.TestCase):

  def test_pairs_that_need_a_judge(self):
    rows = judge.sample(_ROWS, 3)
    self.assertCountEqual([row['id'] for row in rows], ['a', 'b', 'c'])
    self.assertEqual(rows[:2], judge.sample(_ROWS, 2))

  @parameterized.parameters(0, 4)
  def test_too_few_pairs_are_refused(self, num):
    with self.assertRaisesRegex(ValueError, f'{num}; allowed: 1 to 3'):
      judge.sample(_ROWS, num)

  def test_a_route_is_asked(self):
    # Right if the answer is `x + x`.
    def script(request):
      return 'Correct' if '\nx + x\n' in request.question else 'Incorrect.'

    engine = scripted.ScriptedEngine('judge', 0, script)
    rules = equivalence.MathVerify(workers=1)
    self.addCleanup(rules.close)
    with judge.asking(engine) as ask:
      found = judge.judged(_ROWS[2:], ask, rules)
    self.assertEqual([x.judge.is_correct for x in found], [True, False, False])
    self.assertEqual({x.judge.method for x in found}, {'judge'})
    self.assertEqual([x.rules.is_correct for x in found[:2]], [True, False])
    self.assertEqual((engine.num_sessions, engine.num_open), (3, 0))


if __name__ == '__main__':
  absltest.main()
