"""Tests of how a router's way through ladders is shown."""

from absl.testing import absltest
from absl.testing import parameterized

from experiments.studies import walks
from routing import costs
from routing import protocols
from routing.outcomes import records
from routing.routers import fixed
from tests import scripted_pair

_SPECS = scripted_pair.SPECS
_ACCOUNTING = costs.Accounting(_SPECS, 'price', 1.0)


def _walks(router, view='peek', count=40):
  protocol = protocols.Protocol('escalate', view)
  return [
      walks.walk(x, router, _ACCOUNTING, protocol)
      for x in scripted_pair.make_ladders(count)
  ]


class WalkTest(parameterized.TestCase):

  @parameterized.product(step=[0, 1, 2, 9], view=['peek', 'commit'])
  def test_outcome_and_cost_are_those_of_the_table(self, step, view):
    for got in _walks(fixed.StepRouter(step), view):
      charged = costs.ladder_costs(
          got.ladder, _SPECS, 'price', draft_is_paid=view == 'peek'
      )
      right = records.grades(got.ladder, 3, got.ladder.num_decisions)
      if step < got.ladder.num_decisions:
        self.assertLen(got.decisions, step + 1)
        self.assertEqual(got.is_correct, right[step, 0, 0])
        expected = charged.handover[step, 0]
      else:
        self.assertLen(got.decisions, got.ladder.num_decisions)
        self.assertEqual(got.is_correct, got.ladder.is_correct)
        expected = charged.stay
      self.assertAlmostEqual(got.cost, expected / charged.all_large)

  def test_kinds(self):
    for step in (0, 1, 9):
      for got in _walks(fixed.StepRouter(step)):
        (alone,) = (
            x.is_correct
            for x in got.ladder.completions
            if (x.step, x.route, x.sample) == (0, 2, 0)
        )
        kind = got.kind
        self.assertEqual(
            got.is_correct, kind in ('rescued', 'needless', 'kept')
        )
        self.assertEqual(
            got.ladder.is_correct, kind in ('needless', 'spoiled', 'kept')
        )
        if kind != 'lost':
          handed_over = got.completion is not None
          self.assertEqual(handed_over, kind not in ('kept', 'missed'))
        if not got.is_correct and kind != 'spoiled':
          self.assertEqual(alone, kind != 'lost')

  def test_some_of_each_kind_are_drawn(self):
    found = _walks(fixed.StepRouter(1))
    kinds = {x.kind for x in found}
    self.assertGreater(len(kinds), 2)
    for count in (0, 1, 3):
      chosen = list(walks.drawn(found, count, 0))
      for kind in kinds:
        expected = min(count, sum(x.kind == kind for x in found))
        self.assertEqual(sum(x.kind == kind for x in chosen), expected)
    self.assertEqual(
        list(walks.drawn(found, 2, 5)), list(walks.drawn(found, 2, 5))
    )

  def test_the_page_shows_all_steps(self):
    found = _walks(fixed.StepRouter(1))
    text = walks.page(found, found, ['small', 'medium', 'large'])
    num_right = sum(x.is_correct for x in found)
    self.assertIn(f'40 problems, {num_right} right.', text)
    self.assertEqual(
        text.count('**hands over to medium**'),
        sum(x.completion is not None for x in found),
    )
    for got in found:
      heading = f'## {got.kind.capitalize()}: {got.ladder.problem.id}'
      self.assertIn(heading, text)

  def test_marks_of_tables_are_escaped(self):
    self.assertEqual(walks._text('a|b\n\nc *d*'), 'a\\|b / c \\*d\\*')
    self.assertLen(walks._text('x' * 999), 400)

  def test_other_protocols_are_refused(self):
    (ladder,) = scripted_pair.make_ladders(1)
    with self.assertRaisesRegex(ValueError, "'redraft'; allowed: 'escalate'"):
      walks.walk(
          ladder,
          fixed.SmallRouter(),
          _ACCOUNTING,
          protocols.Protocol('redraft'),
      )


if __name__ == '__main__':
  absltest.main()
