"""Tests of what a comparison says of its routers."""

import dataclasses
import json

from absl.testing import absltest

from experiments import compare
from routing.evaluation import comparison
from routing.routers import registry
from tests import checkout
from tests import small_arena


class ComparisonTest(absltest.TestCase):

  def test_a_comparison_says_what_a_router_needs(self):
    arena = small_arena.make()
    method = registry.load('best constant')
    found = compare.evaluate_seeds('best constant', method, arena, [0], 1)
    for changes, words, names in (
        ({}, '-', []),
        (
            {'judge': True, 'samples': 8},
            'judge, 8 samples',
            ['judge', '8 samples'],
        ),
    ):
      needs = dataclasses.replace(method.needs, **changes)
      content = comparison.figures(
          {'policy': found},
          {'policy': dataclasses.replace(method, needs=needs)},
          arena,
          resamples=2,
          seed=0,
      )
      facts = content['routers']['policy']
      self.assertEqual(facts['needs'], words)
      self.assertEqual(facts['need_names'], names)

  def test_the_page_names_routers_that_are_left_out(self):
    path = checkout.ROOT / 'docs/results/arithmetic_demo_compared.json'
    content = json.loads(path.read_text(encoding='utf-8'))['content']
    said = comparison.page(content | {'left_out': {'AutoMix': 'No words.'}})
    self.assertIn('Left out: AutoMix. No words.', said)
    # Older files do not say how many problems of `select` there were.
    rows = comparison.rows(content, content['cost_metric'])
    column = comparison.COLUMNS.index('of select')
    self.assertEqual({x[column] for x in rows}, {'-'})
    facts = dict(content['routers']['policy'], num_select=1_000)
    self.assertEqual(comparison._of_select(facts), '1,000')


if __name__ == '__main__':
  absltest.main()
