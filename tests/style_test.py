"""Tests that tables, plots and pages call the same things by the same names."""

from absl.testing import absltest
from matplotlib import figure as figure_lib

from routing import costs
from routing.evaluation import plots
from routing.evaluation import style
from tests import checkout


class StyleTest(absltest.TestCase):

  def test_every_cost_metric_has_one_label(self):
    self.assertCountEqual(style.COST_LABELS, costs.COST_METRICS)
    for metric, label in style.COST_LABELS.items():
      axes = figure_lib.Figure().subplots()
      plots.clean_axes(axes, metric)
      self.assertEqual(axes.get_xlabel(), f'{label} (1 = large model alone)')

  def test_what_is_drawn_has_a_label(self):
    for name in (*style.STYLES, *style.MORE_STYLES):
      self.assertIn(name, style.LABELS)

  def test_pages_end_at_the_same_cost_as_plots(self):
    path = checkout.ROOT / 'routing/evaluation/page/charts.js'
    text = path.read_text(encoding='utf-8')
    self.assertIn(f'Math.min(highest, {style.MAX_COST})', text)


if __name__ == '__main__':
  absltest.main()
