"""Every configuration names only what exists, and every field is read."""

import ast
from collections.abc import Iterable
import dataclasses
import random
import re

from absl.testing import absltest
from absl.testing import parameterized

from experiments import settings
from routing.lm import corpus
from routing.lm import export
from routing.lm import pretrain
from routing.lm import reward_training
from routing.lm import tokenizer
from tests import checkout
from tests import configs_test


@dataclasses.dataclass
class Reads:
  """How a piece of source reads fields of objects that it calls config.

  pairs: (a, b) of each `x.a.b`, `x.a['b']` and `x.a.get('b')`, and of `y.b`
    where `y = x.a`.
  wholes: a of each `x.a` that goes elsewhere as it is: what then happens to its
    fields cannot be seen.
  looked_up: a of each `x.a[...]` whose key is computed.
  names: all names under which a field may be read from such a whole: those of
    attributes, arguments and dataclass fields, and strings.
  """

  pairs: set[tuple[str, str]] = dataclasses.field(default_factory=set)
  wholes: set[str] = dataclasses.field(default_factory=set)
  looked_up: set[str] = dataclasses.field(default_factory=set)
  names: set[str] = dataclasses.field(default_factory=set)

  def add(self, source: str) -> None:
    """Adds what a module reads."""
    tree = ast.parse(source)
    parents = {
        child: node
        for node in ast.walk(tree)
        for child in ast.iter_child_nodes(node)
    }
    for scope in ast.walk(tree):
      if isinstance(scope, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef):
        aliases = dict(_aliases(scope))
        for node in ast.walk(scope):
          self._add(node, parents.get(node), aliases)

  def _add(self, node, parent, aliases) -> None:
    """Adds what one node reads."""
    if isinstance(node, ast.arg | ast.keyword) and node.arg:
      self.names.add(node.arg)
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
      self.names.add(node.target.id)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
      self.names.add(node.value)
    elif isinstance(node, ast.Subscript) and _read(node)[1] is None:
      self.looked_up.add(ast.unparse(node.value).rpartition('.')[-1])
    owner, field = _read(node)
    if field is None:
      return
    self.names.add(field)
    before = _field(owner)
    if before is None and isinstance(owner, ast.Name):
      before = aliases.get(owner.id, owner.id)
    if before is not None:
      self.pairs.add((before, field))
    if not isinstance(parent, ast.Attribute | ast.Subscript):
      self.wholes.add(field)
    elif getattr(parent, 'attr', '') in ('to_dict', 'items', 'values', 'keys'):
      self.wholes.add(field)

  def is_read(self, path: str) -> bool:
    """Whether a field with this dotted name is read somewhere."""
    *sections, field = path.split('.')
    owners = sections[-1:] or ['config', '_config']
    if any((owner, field) in self.pairs for owner in owners):
      return True
    # Of a section within a section, either may be handed on.
    handed_on = any(x in self.wholes for x in sections)
    is_computed = any(x in self.looked_up for x in owners)
    return field in self.names and (handed_on or is_computed)


def _read(node) -> tuple[ast.AST, str | None]:
  """(object, field) of a node that reads a field; (object, None) of others."""
  if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
    return node.value, node.attr
  if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
    return node.value, str(node.slice.value)
  if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
    first = node.args[0] if node.args else None
    if node.func.attr == 'get' and isinstance(first, ast.Constant):
      return node.func.value, str(first.value)
  return node, None


def _field(node) -> str | None:
  """The last field of `x.a`, `x['a']` or `x.get('a')`: a."""
  return _read(node)[1]


def _aliases(scope) -> Iterable[tuple[str, str]]:
  """Yields (y, a) of each `y = x.a` in a function."""
  for node in ast.walk(scope):
    if isinstance(node, ast.Assign):
      for target in node.targets:
        pairs = [(target, node.value)]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
          pairs = zip(target.elts, node.value.elts, strict=False)
        for name, value in pairs:
          if isinstance(name, ast.Name) and _field(value) is not None:
            yield name.id, _field(value)


def _reads_of_the_code() -> Reads:
  found = Reads()
  for path in checkout.files('*.py'):
    if checkout.name(path).startswith(('experiments/', 'routing/')):
      found.add(path.read_text(encoding='utf-8'))
  return found


class ConfigFieldsTest(parameterized.TestCase):

  def test_every_field_is_read(self):
    reads = _reads_of_the_code()
    unread = {
        f'{name}: {path}'
        for name, _, config in configs_test.variants()
        for path in configs_test.leaves(config)
        # Whatever it holds is handed to the environment.
        if not path.startswith('environment.')
        # `experiments.pretrain` calls either of them `model`.
        and not reads.is_read(re.sub('^(small|large)[.]', 'model.', path))
    }
    self.assertEmpty(unread)

  def test_every_variant_passes_the_checks_of_the_code(self):
    for name, variant, config in configs_test.variants():
      with self.subTest(f'{name}:{variant}'):
        self._check(config)

  def test_every_run_of_a_sweep_passes_them_too(self):
    for name, module in configs_test.config_modules():
      for overrides in module.sweep() if hasattr(module, 'sweep') else ():
        with self.subTest(f'{name} {overrides}'):
          config = module.get_config()
          config.update_from_flattened_dict(overrides)
          settings.check(config)

  def _check(self, config):
    """The checks of what the configuration is for."""
    if 'routes' in config:
      settings.check(config)
      return
    if 'answers' in config:  # Of experiments.train_reward_head.
      reward_training.make_optimizer(config)
      for model, _, count in config.answers:
        self.assertIn(model, export.MODELS)
        self.assertLessEqual(count, config.problems.train)
      return
    for model in (config.small, config.large):  # Of experiments.pretrain.
      pretrain.decoder_config(model.shape, len(tokenizer.VOCABULARY))
      corpus.Corpus('test', **model.corpus).drills(random.Random(0))


class ReadsTest(parameterized.TestCase):
  """The rule sees a field that nobody reads, and only that."""

  @parameterized.parameters(
      'x = config.data.kind',
      "x = self._config.data['kind']",
      "x = config.get('data', {}).get('kind', 0)",
      'def f():\n  given = config.data\n  return given.kind',
      'a, b = config.data, 1\nprint(a.kind)',
      'make(**config.data)\nclass A:\n  kind: str',
      'for name in ("kind", "size"):\n  print(config.data[name])',
      'given = config.data.to_dict()\nif "kind" in given: pass',
  )
  def test_read(self, source):
    reads = Reads()
    reads.add(source)
    self.assertTrue(reads.is_read('data.kind'))

  @parameterized.parameters(
      'x = config.data.size',
      'x = config.task.kind',  # Another section's.
      'config.data.kind = 3',
      'make(**config.data)',  # Nothing there takes a kind.
      'def f():\n  given = config.task\n  return given.kind',
  )
  def test_unread(self, source):
    reads = Reads()
    reads.add(source)
    self.assertFalse(reads.is_read('data.kind'))

  def test_fields_without_a_section(self):
    reads = Reads()
    reads.add('x = config.seed\ny = other.num_steps')
    self.assertTrue(reads.is_read('seed'))
    self.assertFalse(reads.is_read('num_steps'))


if __name__ == '__main__':
  absltest.main()
