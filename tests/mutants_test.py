"""Tests of the errors that `benchmarks.mutants` makes, by examples."""

import ast
import textwrap

from absl.testing import absltest
from absl.testing import parameterized

from benchmarks import mutants


def changes(source):
  """Returns the kind and the changed text of each mutant of a source."""
  found = mutants.make('a.py', source)
  return {(x.operator, x.apply(source).strip()) for x in found}


class MakeTest(parameterized.TestCase):

  @parameterized.parameters(
      ('x = a + b', 'arithmetic', {'x = a - b'}),
      ('x = (a) // (b)', 'arithmetic', {'x = (a) * (b)'}),
      ('x -= a', 'arithmetic', {'x += a'}),
      ('x = a < b', 'comparison', {'x = a <= b', 'x = a > b'}),
      ('x = a is not b', 'comparison', {'x = a is b'}),
      ('x = a and b', 'boolean', {'x = a or b'}),
      ('x = not a', 'sign', {'x = (a)'}),
      ('x = f[-1]', 'constant', {'x = f[-2]', 'x = f[-(0)]'}),
      ('x = True', 'constant', {'x = False'}),
      ('x = 0.5', 'constant', {'x = 1.0'}),
      ('x = 1e-9', 'constant', {'x = 0.0'}),
      ('x = min(a)', 'function', {'x = max(a)'}),
      ('x = np.where(a, b, c)', 'branch', {'x = np.where(a, c, b)'}),
      ('x = np.clip(a, b, c)', 'call', {'x = (a)'}),
      ('x = f(a, b=c)', 'keyword', {'x = f(a)'}),
      ('x = f(b=c, d=e)', 'keyword', {'x = f(d=e)', 'x = f(b=c)'}),
      ('x = zip(a, strict=True)', 'keyword', set()),
      ('x = zip(a, strict=True)', 'constant', set()),
      ('f(a)', 'statement', {'pass'}),
      ('x = a if b else c', 'branch', {'x = a if (not (b)) else c'}),
      ('x = [a for a in b if c]', 'branch', {'x = [a for a in b if True]'}),
  )
  def test_one_line(self, source, kind, want):
    got = {text for operator, text in changes(source) if operator == kind}
    self.assertEqual(got, want)

  @parameterized.parameters(
      ('if a:\n  raise b', ('guard', 'if False:\n  raise b')),
      ('if a:\n  b = c', ('branch', 'if not (a):\n  b = c')),
      (
          'def f():\n  return a < b',
          ('return', 'def f():\n  return not (a < b)'),
      ),
      ('def f():\n  return g(a)', ('return', 'def f():\n  return -(g(a))')),
      ('def f():\n  return a', ('return', 'def f():\n  return None')),
      ('def f(a=2): g', ('constant', 'def f(a=3): g')),
  )
  def test_several_lines(self, source, want):
    self.assertIn(want, changes(source))

  @parameterized.parameters(
      'def f():\n  """A 1 < 2."""',
      'raise ValueError(f"{1 + 2}")',
      'x: list[1] = a',
      '@f(a=1)\nclass B:\n  c: int',
      'x = "a"',
  )
  def test_docstrings_annotations_and_messages_are_not_changed(self, source):
    self.assertEmpty(mutants.make('a.py', source))

  def test_each_mutant_is_another_program_at_its_recorded_place(self):
    source = textwrap.dedent('''\
        def f(x):
          """É 1."""
          y = x + 1  # Plus one.
          return y + x + 1
        ''')
    found = mutants.make('a.py', source)
    texts = [x.apply(source) for x in found]
    self.assertLen(set(texts), len(texts))
    for mutant, text in zip(found, texts, strict=True):
      self.assertNotEqual(
          ast.dump(ast.parse(text)), ast.dump(ast.parse(source))
      )
      self.assertEqual(mutant.function, 'f')
      old, new = mutant.changed_lines(source)
      self.assertEqual(old, [source.splitlines()[mutant.line - 1].strip()])
      self.assertEqual(new, [text.splitlines()[mutant.line - 1].strip()])
    # Equal changes have distinct ranks, which lines before them do not change.
    ranks = [x.rank(0) for x in found]
    self.assertLen(set(ranks), len(ranks))
    later = mutants.make('a.py', 'import a\n\n' + source)
    self.assertEqual([x.rank(0) for x in later], ranks)
    self.assertNotEqual([x.rank(1) for x in later], ranks)


if __name__ == '__main__':
  absltest.main()
