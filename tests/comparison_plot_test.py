"""The plot of a comparison: what colours and line styles say."""

import pathlib

from absl.testing import absltest
import numpy as np

from routing.evaluation import comparison_plot
from routing.routers import registry
from routing.routers import router as router_lib


def _content(needs):
  """Returns a comparison of routers with these needs and made-up curves."""
  cost = np.linspace(0.1, 1.0, 5)
  methods = {
      name: {
          'area': dict(mean=0.6, low=0.5, high=0.7),
          'curve': dict(
              cost=cost.tolist(),
              accuracy=cost.tolist(),
              low=cost.tolist(),
              high=cost.tolist(),
          ),
      }
      for name in (*needs, 'oracle')
  }
  return {
      'cost_metric': 'price',
      'num_problems': 9,
      'reference': 'policy',
      'routers': {name: dict(needs=x) for name, x in needs.items()},
      'cost_metrics': {'price': dict(methods=methods)},
  }


class ComparisonPlotTest(absltest.TestCase):

  def test_a_colour_says_what_a_router_needs(self):
    content = _content(
        {
            'policy': 'draft, log-probabilities',
            'trees': 'draft, log-probabilities',
            'threshold': 'draft, log-probabilities',
            'SpecReason': 'draft, judge',
            'RSD': 'draft, step score',
            'constant': '-',
        }
    )
    names = [*content['routers'], 'oracle']
    styles = comparison_plot._styles(names, content)
    colours = {name: x['color'] for name, x in styles.items()}
    self.assertEqual(colours['policy'], '#000000')
    self.assertEqual(colours['trees'], colours['threshold'])
    self.assertEqual(colours['SpecReason'], colours['RSD'])
    self.assertLen(set(colours.values()), 4)
    # What shares a colour differs in its line.
    looks = [(x['color'], x.get('linestyle')) for x in styles.values()]
    self.assertLen(set(looks), len(names))

  def test_only_what_needs_nothing_is_drawn_as_such(self):
    for name in registry.names():
      with self.subTest(name):
        needs = registry.load(name).needs
        content = _content({name: needs.in_words()})
        label, _ = comparison_plot._need(content, name)
        is_plain = needs == router_lib.Needs(
            needs.protocol, samples=needs.samples
        )
        self.assertEqual(
            label == 'nothing', is_plain and needs.samples == 1, label
        )

  def test_a_file_is_written(self):
    path = pathlib.Path(self.create_tempdir().full_path) / 'plot.png'
    content = _content({'policy': '-', 'RSD': 'step score'})
    comparison_plot.plot(content, path)
    self.assertEqual(path.read_bytes()[1:4], b'PNG')


if __name__ == '__main__':
  absltest.main()
