"""Every configuration file: its variants, its lock, its sweep."""

import importlib

from absl.testing import absltest
from absl.testing import parameterized
import ml_collections

from tests import checkout


def config_modules():
  """Yields (name, module) of each file in configs/ that gives a config."""
  for path in checkout.files('*.py'):
    name = checkout.name(path)
    if name.startswith('configs/') and path.stem != '__init__':
      module = importlib.import_module(
          name.removesuffix('.py').replace('/', '.')
      )
      if hasattr(module, 'get_config'):
        yield name, module


def variants():
  """Yields (file, variant, config) for everything that can be asked for."""
  for name, module in config_modules():
    for variant in module.VARIANTS:
      yield name, variant, module.get_config(variant)


def leaves(config, prefix=''):
  """Yields the dotted name of each field that holds no further fields."""
  for key in config:
    value = config.get_ref(key).get()
    if isinstance(value, ml_collections.ConfigDict):
      yield from leaves(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}'


class ConfigsTest(parameterized.TestCase):

  def test_the_reference_experiment_is_there(self):
    names = [(name, variant) for name, variant, _ in variants()]
    self.assertContainsSubset(
        [('configs/arithmetic.py', v) for v in ('full', 'demo', 'smoke')], names
    )

  def test_every_variant_gives_a_config_with_a_seed(self):
    for name, variant, config in variants():
      with self.subTest(f'{name}:{variant}'):
        self.assertIsInstance(config, ml_collections.ConfigDict)
        self.assertIsInstance(config.seed, int)

  def test_the_default_is_the_first_variant(self):
    for name, module in config_modules():
      self.assertEqual(
          module.get_config().to_json(sort_keys=True),
          module.get_config(module.VARIANTS[0]).to_json(sort_keys=True),
          name,
      )

  def test_variants_share_their_fields(self):
    # Else an override that works in the smoke run would fail in the full one.
    for name, variant, config in variants():
      full = importlib.import_module(
          name.removesuffix('.py').replace('/', '.')
      ).get_config()
      self.assertCountEqual(leaves(config), leaves(full), f'{name}:{variant}')

  def test_variants_differ(self):
    for name, module in config_modules():
      seen = {module.get_config(v).to_json() for v in module.VARIANTS}
      self.assertLen(seen, len(module.VARIANTS), name)

  def test_two_calls_share_nothing(self):
    for name, module in config_modules():
      first, second = module.get_config(), module.get_config()
      first.seed = first.seed + 1
      self.assertNotEqual(first.seed, second.seed, name)

  def test_a_misspelt_field_is_refused_once_locked(self):
    for name, variant, config in variants():
      config.lock()
      with self.subTest(f'{name}:{variant}'):
        with self.assertRaisesRegex(AttributeError, 'Did you mean.*"seed"'):
          config.sede = 1

  def test_an_unknown_variant_is_refused_by_name(self):
    for name, module in config_modules():
      with self.subTest(name):
        with self.assertRaisesRegex(
            ValueError, f"'no such'.*{module.VARIANTS[0]}"
        ):
          module.get_config('no such')

  def test_sweeps_change_fields_that_exist(self):
    for name, module in config_modules():
      if hasattr(module, 'sweep'):
        fields = set(leaves(module.get_config()))
        runs = list(module.sweep())
        self.assertNotEmpty(runs, name)
        for overrides in runs:
          self.assertContainsSubset(overrides, fields, name)


if __name__ == '__main__':
  absltest.main()
