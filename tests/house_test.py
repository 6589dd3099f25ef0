"""The rules of the house: which way imports point, and how long things grow.

Each rule is a function from source to a list of offences. It is run on the
checkout, which must have none, and on a made-up offender, which must have one.
"""

import ast
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized

from tests import checkout

# From the ground floor up: a module imports only from its own room and from
# rooms before it. CONTRIBUTING.md draws the same picture.
ROOMS = (
    'types',
    'progress',
    'protocols',
    'costs',
    'simulation',
    'grading',
    'tasks',
    'lm',
    'engines',
    'rollout',
    'shards',
    'features',
    'policy',
    'outcomes',
    'routers',  # A learned router runs a network of `policy`.
    'objectives',
    'training',
    'calibration',
    'evaluation',
    'serving',
    'distributed',
)
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
CATCH_ALL_NAMES = ('utils', 'util', 'helpers', 'misc', 'common')
# Slow to import or not always there: only inside what needs them.
HEAVY = (
    *('lightgbm', 'matplotlib', 'pandas', 'sklearn', 'torch'),
    *('transformers', 'vllm'),
)
RETIRED = ('jax.random.PRNGKey', 'optax.global_norm', 'ocp.PyTreeCheckpointer')


def upward_imports(module: str, source: str) -> list[str]:
  """Returns the imports of `module`, e.g. 'routing.lm.decoder', that climb."""
  room = module.split('.')[1]
  offences = []
  for used in checkout.imports(ast.parse(source)):
    top, _, rest = used.partition('.')
    if top in ('', 'experiments', 'configs', 'third_party', 'tests'):
      offences.append(used)
    elif top == 'routing' and rest:
      if ROOMS.index(rest.split('.')[0]) > ROOMS.index(room):
        offences.append(used)
  return offences


def ambient_reads(source: str) -> list[str]:
  """Returns where a source reads flags or the environment."""
  tree = ast.parse(source)
  found = [
      name
      for name in checkout.imports(tree)
      if name.startswith(('absl.flags', 'absl.app', 'os.environ', 'os.getenv'))
  ]
  found += [
      name
      for name in _dotted_names(tree)
      if name in ('os.environ', 'os.getenv', 'os.putenv')
  ]
  return found


def heavy_imports(source: str) -> list[str]:
  """Returns the heavy packages that loading a module would load."""
  names = checkout.imports_at_load(ast.parse(source))
  return [name for name in names if name.split('.')[0] in HEAVY]


def retired_names(source: str) -> list[str]:
  """Returns uses of interfaces that their libraries have replaced."""
  return [n for n in _dotted_names(ast.parse(source)) if n in RETIRED]


def long_functions(source: str) -> list[str]:
  """Returns the functions of more than `MAX_FUNCTION_LINES` lines."""
  return [
      f'{node.name} ({size})'
      for node in ast.walk(ast.parse(source))
      if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
      and (size := node.end_lineno - node.lineno + 1) > MAX_FUNCTION_LINES
  ]


def undocumented(source: str) -> list[str]:
  """Returns the module, public classes, functions and methods with no word."""
  tree = ast.parse(source)
  missing = [] if ast.get_docstring(tree) else ['the module']
  pending = [(tree, '')]
  while pending:
    scope, prefix = pending.pop()
    for node in scope.body:
      is_class = isinstance(node, ast.ClassDef)
      is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
      if not (is_class or is_function) or node.name.startswith('_'):
        continue
      if not ast.get_docstring(node):
        missing.append(prefix + node.name)
      if is_class:
        pending.append((node, f'{prefix}{node.name}.'))
  return missing


def import_cycle(graph: dict[str, set[str]]) -> list[str]:
  """Returns modules that import each other in a circle, or an empty list."""
  left = dict(graph)
  while leaves := [m for m, used in left.items() if not used & left.keys()]:
    for module in leaves:
      del left[module]
  return sorted(left)


def _dotted_names(tree):
  for node in ast.walk(tree):
    if isinstance(node, ast.Attribute):
      yield ast.unparse(node)


def _sources(*patterns):
  """Yields (name, source) of the checkout's Python files."""
  for path in checkout.files(*patterns):
    if path.suffix == '.py':
      yield checkout.name(path), path.read_text(encoding='utf-8')


def _library():
  """Yields (module, source) of all files of `routing`."""
  yield from _modules('routing')


def _modules(package):
  """Yields (module, source) of all files of a top-level package."""
  for name, source in _sources('*.py'):
    if name.startswith(f'{package}/'):
      yield name.removesuffix('.py').replace('/', '.'), source


class CheckoutTest(parameterized.TestCase):
  """The checkout has no offence."""

  def assert_no_offence(self, offences):
    found = {name: rows for name, rows in offences if rows}
    self.assertEmpty(found)

  def test_the_library_is_found(self):
    self.assertContainsSubset(
        {'routing.types', 'routing.lm.decoder'}, dict(_library())
    )

  def test_every_room_is_in_the_order(self):
    rooms = {m.split('.')[1] for m, _ in _library()} - {'__init__'}
    self.assertContainsSubset(rooms, ROOMS)

  def test_rooms_only_look_down(self):
    self.assert_no_offence(
        (m, upward_imports(m, s))
        for m, s in _library()
        if m != 'routing.__init__'
    )

  def test_no_circle_of_imports(self):
    sources = dict(_library())
    graph = {
        module: {
            used
            for used in checkout.imports(ast.parse(source))
            if used in sources
        }
        for module, source in sources.items()
    }
    self.assertNotEmpty(graph['routing.lm.sampler'])
    self.assertEmpty(import_cycle(graph))

  def test_configs_are_data(self):
    for name, source in _sources('*.py'):
      if name.startswith('configs/'):
        for used in checkout.imports(ast.parse(source)):
          # A sweep is a product of lists.
          allowed = ('ml_collections', 'configs', 'itertools')
          self.assertIn(used.split('.')[0], allowed, name)

  @parameterized.product(
      rule=(ambient_reads, heavy_imports, undocumented),
      package=('routing', 'third_party'),
  )
  def test_library(self, rule, package):
    self.assert_no_offence((m, rule(s)) for m, s in _modules(package))

  def test_systems_of_others_use_the_library_only(self):
    found = dict(_modules('third_party'))
    self.assertIn('third_party.frugalgpt.methods', found)
    for module, source in found.items():
      for used in checkout.imports(ast.parse(source)):
        self.assertNotIn(
            used.split('.')[0], ('experiments', 'configs', 'tests'), module
        )

  def test_systems_of_others_have_a_page_each(self):
    folders = {x.split('.')[1] for x, _ in _modules('third_party')}
    for folder in folders - {'__init__'}:
      path = checkout.ROOT / 'third_party' / folder / 'README.md'
      text = path.read_text(encoding='utf-8')
      for part in (
          'the rule as',
          'differences',
          'public code',
          'known weaknesses',
          'arxiv.org',
      ):
        self.assertIn(part, text.lower(), folder)
      # The table of all systems names it.
      table = (checkout.ROOT / 'third_party' / 'README.md').read_text()
      self.assertIn(f'({folder})', table)

  def test_retired_names(self):
    self.assert_no_offence((n, retired_names(s)) for n, s in _sources('*.py'))

  def test_functions_are_short(self):
    self.assert_no_offence(
        (name, long_functions(source))
        for name, source in _sources('*.py')
        if not name.startswith('configs/')  # A config is one long list.
    )

  def test_files_are_short(self):
    for name, source in _sources('*.py'):
      self.assertLessEqual(len(source.splitlines()), MAX_FILE_LINES, name)

  def test_no_file_that_everything_falls_into(self):
    for name, _ in _sources('*.py'):
      for part in name.removesuffix('.py').split('/'):
        self.assertNotIn(part, CATCH_ALL_NAMES, name)

  def test_importing_the_package_imports_nothing_heavy(self):
    slow = ('jax', 'datasets', 'numpy', *HEAVY)
    code = (
        'import sys, time; import routing; '
        f'print([x for x in {slow} if x in sys.modules], time.process_time())'
    )
    run = subprocess.run(
        [sys.executable, '-c', code],
        cwd=checkout.ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    loaded, seconds = run.stdout.rsplit(' ', 1)
    self.assertEqual(loaded, '[]')
    # Processor time, with the start of the interpreter.
    self.assertLess(float(seconds), 1.5)


class RulesTest(parameterized.TestCase):
  """Each rule sees an offence, and only that."""

  @parameterized.parameters(
      ('from routing.training import loop', ['routing.training.loop']),
      ('from routing import evaluation', ['routing.evaluation']),
      ('import routing.serving', ['routing.serving']),
      ('from . import decoder', ['..decoder']),
      ('from experiments import train', ['experiments.train']),
      (
          'def f():\n  from routing.training import loop',
          ['routing.training.loop'],
      ),
      ('from routing import types\nfrom routing.lm import decoder', []),
  )
  def test_upward_imports(self, source, expected):
    self.assertEqual(upward_imports('routing.lm.sampler', source), expected)

  @parameterized.parameters(
      ('from absl import flags', ['absl.flags']),
      ('import os\nos.environ["A"]', ['os.environ']),
      ('from os import getenv', ['os.getenv']),
      ('import os\nos.path.join("a")\nfrom absl import logging', []),
  )
  def test_ambient_reads(self, source, expected):
    self.assertEqual(ambient_reads(source), expected)

  @parameterized.parameters(
      ('import torch', ['torch']),
      ('if 1:\n  from sklearn import svm', ['sklearn.svm']),
      ('class A:\n  import vllm', ['vllm']),
      ('def f():\n  import torch', []),
      ('if TYPE_CHECKING:\n  import torch', []),
      ('import torchless', []),
  )
  def test_heavy_imports(self, source, expected):
    self.assertEqual(heavy_imports(source), expected)

  def test_retired_names(self):
    source = 'jax.random.PRNGKey(0)\njax.random.key(0)'
    self.assertEqual(retired_names(source), ['jax.random.PRNGKey'])

  @parameterized.parameters((59, []), (60, ['f (61)']))
  def test_long_functions(self, num_statements, expected):
    source = 'async def f():\n' + '  pass\n' * num_statements
    self.assertEqual(long_functions(source), expected)

  def test_undocumented(self):
    source = 'class A:\n  "A."\n  def b(s): ...\n  def _c(s): ...\ndef d(): ...'
    self.assertEqual(undocumented(source), ['the module', 'd', 'A.b'])

  def test_import_cycle(self):
    graph = {'a': {'b'}, 'b': {'c'}, 'c': {'b'}, 'd': set()}
    # d is a leaf; a stays because it can never be loaded before b and c.
    self.assertEqual(import_cycle(graph), ['a', 'b', 'c'])
    self.assertEmpty(import_cycle({'a': {'b'}, 'b': set()}))


if __name__ == '__main__':
  absltest.main()
