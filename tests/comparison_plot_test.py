"""The plot of a comparison: what colours and line styles say."""

import dataclasses
import json
import pathlib

from absl.testing import absltest
import numpy as np

from routing.evaluation import comparison_plot
from routing.routers import registry
from routing.routers import router as router_lib
from tests import checkout


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
            'learned policy, redraft': 'draft, log-probabilities',
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
    self.assertEqual(colours['learned policy, redraft'], '#000000')
    # What shares a colour differs in its line.
    looks = [(x['color'], x.get('linestyle')) for x in styles.values()]
    self.assertLen(set(looks), len(names))

  def test_every_need_has_a_colour(self):
    for field in dataclasses.fields(router_lib.Needs):
      needs = router_lib.Needs(None)
      if field.name != 'protocol':
        needs = dataclasses.replace(needs, **{field.name: 2})
      with self.subTest(field.name):
        content = _content({'x': needs.in_words()})
        content['routers']['x']['need_names'] = needs.names()
        label, _ = comparison_plot._need(content, 'x')
        self.assertEqual(label == 'nothing', field.name == 'protocol')

  def test_the_list_of_needs_counts_and_not_the_text(self):
    content = _content({'x': 'the chance of each token'})
    content['routers']['x']['need_names'] = ['draft', 'log-probabilities']
    label, _ = comparison_plot._need(content, 'x')
    self.assertEqual(label, 'log-probabilities of steps')
    content['routers']['x']['need_names'] = []
    self.assertEqual(comparison_plot._need(content, 'x')[0], 'nothing')

  def test_a_need_without_a_colour_raises(self):
    content = _content({'x': 'draft, the chance of each token'})
    with self.assertRaisesRegex(ValueError, 'x needs the chance of each token'):
      comparison_plot._need(content, 'x')

  def test_kept_files_have_the_text_only(self):
    paths = list(checkout.ROOT.glob('docs/results/*compared.json'))
    self.assertNotEmpty(paths)
    for path in paths:
      content = json.loads(path.read_text(encoding='utf-8'))['content']
      for name, facts in content['routers'].items():
        label, _ = comparison_plot._need(content, name)
        self.assertEqual(
            label == 'nothing', facts['needs'] in ('-', 'draft'), name
        )

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
