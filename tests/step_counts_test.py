"""Tests of the comparison of our steps with those of public sources."""

import os
import pathlib

from absl.testing import absltest
from absl.testing import parameterized

from benchmarks import step_counts
from routing.tasks import delimiter as delimiter_lib

_DATA = pathlib.Path(os.environ.get('ROUTING_DATA', '../shared/data'))
_BLANK, _LINE = step_counts.DELIMITERS
_NUMBERED = {'pattern': delimiter_lib.NUMBERED}
# Source and delimiter -> texts, texts with as many steps, and differing places;
# the table of docs/steps.md.
_FIGURES = {
    ('ProcessBench, gsm8k', _BLANK): (276, 276, {}),
    ('ProcessBench, gsm8k', _LINE): (276, 225, {'inside a step': 361}),
    ('ProcessBench, math', _BLANK): (683, 683, {}),
    ('ProcessBench, math', _LINE): (683, 386, {'inside a step': 2958}),
    ('ProcessBench, olympiadbench', _BLANK): (666, 666, {}),
    ('ProcessBench, olympiadbench', _LINE): (
        *(666, 249),
        {'answer line': 1, 'inside a step': 6039},
    ),
    ('ProcessBench, omnimath', _BLANK): (689, 688, {'in a block': 1}),
    ('ProcessBench, omnimath', _LINE): (
        *(689, 290),
        {'in a block': 1, 'inside a step': 4823},
    ),
    ('MR-GSM8K', _BLANK): (404, 0, {'no delimiter': 2874}),
    ('MR-GSM8K', _LINE): (404, 404, {}),
    ('Abel, 7b', _BLANK): (915, 136, {'no delimiter': 3826}),
    ('Abel, 7b', _LINE): (915, 854, {'answer line': 61}),
    ('Abel, 13b', _BLANK): (915, 106, {'no delimiter': 3986}),
    ('Abel, 13b', _LINE): (
        *(915, 833),
        {'answer line': 79, 'inside a step': 5},
    ),
    ('Abel, 70b', _BLANK): (915, 186, {'no delimiter': 3519}),
    ('Abel, 70b', _LINE): (
        *(915, 854),
        {'answer line': 59, 'inside a step': 9},
    ),
    ('GSM8K, solutions', _BLANK): (
        *(1319, 0),
        {'no delimiter': 3497, 'after an open block': 1},
    ),
    ('GSM8K, solutions', _LINE): (
        *(1319, 0),
        {'answer line': 1318, 'after an open block': 1},
    ),
}


class ReasonsTest(parameterized.TestCase):

  # In all, the source's second step begins at the capital B.
  @parameterized.parameters(
      ('a\n\nB', _BLANK, []),
      ('a\n\n\n\nB', _BLANK, []),  # Blank lines may belong to either step.
      ('a\nB', _BLANK, ['no delimiter']),
      ('a $$1\n\nB 2$$', _BLANK, ['in a block']),
      ('a $$1\n\nB 2', _BLANK, ['after an open block']),
      ('a\nB\n#### 3', _LINE, ['answer line']),
      ('a\nB\nc\nd', _LINE, ['inside a step', 'inside a step']),
      (
          'a\nb B\n#### 3',
          _LINE,
          ['no delimiter', 'inside a step', 'answer line'],
      ),
  )
  def test_each_differing_place_has_a_reason(self, text, delimiter, expected):
    solution = step_counts.Solution(text, (0, text.index('B')))
    ours = step_counts.starts(step_counts.cut(text, delimiter))
    self.assertEqual(list(step_counts.reasons(solution, ours)), expected)

  def test_counts(self):
    solutions = [
        step_counts.Solution('a\n\nb', (0, 3)),
        step_counts.Solution('a\nb\n\nc', (0, 2, 5)),
        step_counts.Solution('a\n\nb', (0,)),
        step_counts.Solution('a b\n\nc', (0, 2)),  # As many, elsewhere.
    ]
    got = step_counts.counts(solutions, _BLANK)
    self.assertEqual((got.texts, got.equal, got.same), (4, 2, 1))
    self.assertEqual(got.difference, (0 - 1 + 1 + 0) / 4)
    self.assertEqual(got.kinds, {'no delimiter': 2, 'inside a step': 2})

  def test_no_solutions_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'at least one'):
      step_counts.counts([], _BLANK)


class PublishedStepsTest(absltest.TestCase):

  def test_figures_of_the_page(self):
    if not (_DATA / 'processbench').exists():
      self.skipTest(f'{_DATA} is not there; set ROUTING_DATA to the data.')
    found = {}
    for name, solutions in step_counts.sources(_DATA):
      for delimiter in step_counts.DELIMITERS:
        got = step_counts.counts(solutions, delimiter)
        # Texts with as many steps have them at the same places.
        self.assertEqual(got.same, got.equal, (name, delimiter))
        found[name, delimiter] = (got.texts, got.equal, dict(got.kinds))
      if name.startswith(('Abel', 'MR-GSM8K')):
        numbered = step_counts.counts(solutions, _NUMBERED)
        self.assertEqual(numbered.same, numbered.texts, name)
    self.assertEqual(found, _FIGURES)


if __name__ == '__main__':
  absltest.main()
