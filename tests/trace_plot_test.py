"""Tests of the plot of which model wrote each step."""

from absl.testing import absltest
from absl.testing import parameterized
from matplotlib import colors
import numpy as np

from routing import costs
from routing import types
from routing.evaluation import trace_plot

_SPECS = tuple(
    costs.spec_by_parameters(name, 100, 1, 8) for name in ('small', 'large')
)
_ACCOUNTING = costs.Accounting(_SPECS, 'decoded_tokens', reference=400.0)


def _step(route):
  return types.Step(
      text='step\n\n',
      token_ids=(1, 2),
      log_probs=np.zeros(2, np.float32),
      top_log_probs=np.zeros((2, 0), np.float32),
      is_final=False,
      usage=types.Usage(route, 0, 0, 2),
  )


def _answer(routes, decided, num_discarded, kind='draft', is_correct=True):
  """Returns a trajectory.

  Args:
    routes: writers of the steps.
    decided: routes of the decisions.
    num_discarded: number of discarded drafts.
    kind: of all calls.
    is_correct: its grade.
  """
  steps = tuple(map(_step, routes))
  discarded = (_step(0),) * num_discarded
  return types.Trajectory(
      problem=types.Problem('p/7', 'q', 'a'),
      steps=steps,
      discarded=discarded,
      decisions=tuple(types.Decision(x, 0.5) for x in decided),
      calls=tuple(
          types.Call(x.route, 0, 0, 2, kind=kind) for x in steps + discarded
      ),
      is_correct=is_correct,
  )


def _trajectory(num_small, num_discarded, num_large, is_correct=True):
  """Returns an answer under `escalate`."""
  return _answer(
      [0] * num_small + [1] * num_large,
      [0] * num_small + [1] * num_discarded,
      num_discarded,
      is_correct=is_correct,
  )


def _drawn(trajectory):
  """Returns the boxes of the plot from left to right: s, L, or x = a draft."""
  (axes,) = trace_plot.trajectories([trajectory], _ACCOUNTING).axes
  letters = {'#a6cee3': 's', '#0072b2': 'L', '#d9d9d9': 'x'}
  bars = sorted(axes.patches, key=lambda x: x.get_x())
  return ''.join(letters[colors.to_hex(x.get_facecolor())] for x in bars)


class TrajectoriesTest(parameterized.TestCase):

  def test_a_box_for_every_paid_step(self):
    figure = trace_plot.trajectories(
        [_trajectory(2, 1, 3), _trajectory(1, 0, 0, False)], _ACCOUNTING
    )
    axes = figure.axes[0]
    lefts = [(bar.get_x(), bar.get_y() + 0.35) for bar in axes.patches]
    # Row 0: two small, the draft, three large; row 1: one small.
    self.assertEqual(
        [(round(x), round(y)) for x, y in lefts],
        [(i, 0) for i in range(6)] + [(0, 1)],
    )
    self.assertEqual(
        [bool(bar.get_hatch()) for bar in axes.patches],
        [False, False, True, False, False, False, False],
    )

  @parameterized.parameters(
      # Under `switch` the writers take turns.
      ([0, 1, 0, 1, 1], [0, 1, 0, 1, 1], 0, 'step', 'sLsLL'),
      # Under `redraft` each draft stands before what replaced it.
      ([0, 1, 0, 1, 0], [0, 1, 0, 1, 0], 2, 'draft', 'sxLsxLs'),
      # After the last decision the large model writes several steps.
      ([0, 0, 1, 1, 1], [0, 0, 1], 1, 'draft', 'ssxLLL'),
      # Of the same length, without a draft: `commit`.
      ([0, 0, 1, 1, 1], [0, 0, 1], 0, 'hand_over', 'ssLLL'),
      # The large model writes the end again, although it had written step 1.
      ([0, 1, 0, 1], [0, 1, 0, 0], 1, 'step', 'sLsxL'),
      ([0, 1, 1, 1], [0, 1, 0], 1, 'step', 'sLxLL'),
      # Files from before kinds of calls.
      ([0, 1, 0], [0, 1, 0], 1, '', 'sxLs'),
      # Whole answers: the first one was not accepted.
      ([1], [], 1, 'hand_over', 'xL'),
  )
  def test_boxes_are_in_the_order_of_writing(
      self, routes, decided, num_discarded, kind, expected
  ):
    trajectory = _answer(routes, decided, num_discarded, kind)
    self.assertEqual(_drawn(trajectory), expected)

  def test_each_row_shows_its_grade_and_cost(self):
    # Six steps of two tokens at 100 parameters: 1,200 of 400.
    figure = trace_plot.trajectories([_trajectory(2, 1, 3)], _ACCOUNTING)
    texts = [text.get_text() for text in figure.axes[0].texts]
    self.assertEqual(texts, ['right, cost 3.00'])

  def test_an_empty_plot_raises(self):
    with self.assertRaisesRegex(ValueError, 'at least one'):
      trace_plot.trajectories([], _ACCOUNTING)


if __name__ == '__main__':
  absltest.main()
