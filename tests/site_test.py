"""Tests of what makes pages of the site. `make docs` builds it as a whole."""

import importlib.util
import sys
import types

from absl.testing import absltest
from absl.testing import parameterized
import pytest

from tests import checkout

pytest.importorskip('mkdocs', reason='Needs the extra `docs`.')
pytest.importorskip('latex2mathml', reason='Needs the extra `docs`.')
pytest.importorskip('griffe', reason='Needs the extra `docs`.')


def _load(name):
  """Returns a module of docs/, which is no package."""
  path = checkout.ROOT / 'docs' / f'{name}.py'
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module
  spec.loader.exec_module(module)
  return module


def _page(name):
  return types.SimpleNamespace(file=types.SimpleNamespace(src_uri=name))


class HooksTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.hooks = _load('site_hooks')

  @parameterized.parameters(
      ('index.md', '[a](docs/costs.md#x)', '[a](costs.md#x)'),
      ('index.md', '<img src="docs/a.png" width="9">', None),
      ('index.md', '![b](docs/a.png)', '![b](a.png)'),
      ('costs.md', '[a](../README.md#b)', '[a](index.md#b)'),
      ('costs.md', '[a](tasks.md)', '[a](tasks.md)'),
      ('costs.md', '[a](#here) [b](https://c.org/d)', None),
      ('how_to/gpu.md', '[a](../../routing/tasks)', '[a](../api/tasks.md)'),
      ('how_to/gpu.md', '[a](../../routing/costs.py)', '[a](../api/index.md)'),
      (
          'faq.md',
          '[a](../experiments/colab/real_pair.ipynb)',
          '[a](notebooks/real_pair.md)',
      ),
      ('log.md', '[a](../docs/costs.md)', '[a](costs.md)'),
      ('results.md', '[a](results)', '[a](results/index.md)'),
  )
  def test_links_lead_to_pages(self, name, text, expected):
    if expected is None:
      expected = text.replace('docs/', '')
    got = self.hooks.on_page_markdown(text, _page(name), None, None)
    self.assertEqual(got, expected)

  def test_every_room_of_the_reference_exists(self):
    for room in self.hooks.ROOMS:
      self.assertNotEmpty(self.hooks.modules(room), room)
    self.assertIn('routing.objectives.exact', self.hooks.modules('objectives'))
    # Each package and each module beside them.
    self.assertContainsSubset(
        {'lm', 'simulation', 'distributed', 'tasks', 'serving'},
        set(self.hooks.ROOMS),
    )
    self.assertNotIn('page', self.hooks.ROOMS)
    top = self.hooks._pages()['api/index.md']
    for name in ('types', 'protocols', 'costs', 'progress'):
      self.assertIn(f'::: routing.{name}\n', top + '\n')

  def test_formulas_become_mathml(self):
    content = (
        'a <span class="arithmatex">\\(x &lt; y\\)</span>'
        '<div class="arithmatex">\\[z\\]</div>'
    )
    got = self.hooks.on_page_content(content, None, None, None)
    self.assertEqual(got.count('<math'), 2)
    self.assertNotIn('arithmatex', got)
    self.assertIn('display="block"', got)

  def test_a_page_may_load_nothing_from_elsewhere(self):
    from mkdocs import exceptions

    page = _page('a.md')
    fine = '<a href="https://a.org">a</a><script src="b.js"></script>'
    self.assertEqual(self.hooks.on_post_page(fine, page, None), fine)
    for wrong in (
        '<script src="https://a.org/b.js"></script>',
        '<img alt="" src="//a.org/b.png">',
        '<link rel="stylesheet" href="https://a.org/b.css">',
        '<link href="https://a.org" rel="preconnect">',
    ):
      with self.assertRaisesRegex(exceptions.PluginError, 'a.md loads from'):
        self.hooks.on_post_page(wrong, page, None)


class DocstringsTest(parameterized.TestCase):

  @parameterized.parameters(
      ('First.\n\n  a = b * c', 'First.\n\n    a = b * c'),
      (
          'First.\n\nlow, high: bounds,\n  both finite.\nn: how many.',
          'First.\n\n- `low, high`: bounds,\n  both finite.\n- `n`: how many.',
      ),
      ('First.\n\nArgs:\n  a: b.\n\n  More.', None),
      ('First.\n\nNote: this is text.\nSo is this.', None),
  )
  def test_as_markdown(self, text, expected):
    got = _load('site_docstrings').as_markdown(text)
    self.assertEqual(got, text if expected is None else expected)


if __name__ == '__main__':
  absltest.main()
