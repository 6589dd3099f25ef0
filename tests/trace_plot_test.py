"""Tests of the plot of which model wrote each step."""

from absl.testing import absltest
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


def _trajectory(num_small, num_discarded, num_large, is_correct=True):
  steps = (_step(0),) * num_small + (_step(1),) * num_large
  discarded = (_step(0),) * num_discarded
  return types.Trajectory(
      problem=types.Problem('p/7', 'q', 'a'),
      steps=steps,
      discarded=discarded,
      decisions=(),
      calls=tuple(step.usage for step in steps + discarded),
      is_correct=is_correct,
  )


class TrajectoriesTest(absltest.TestCase):

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
