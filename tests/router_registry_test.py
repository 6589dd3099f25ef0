"""Tests of the registry of routers, and of routers from outside."""

import pathlib
import re
import sys
from unittest import mock

from absl.testing import absltest

from routing.evaluation import harness
from routing.routers import registry
from routing.routers import router
from tests import small_arena


class _EntryPoint:
  """What an installed package would declare."""

  def __init__(self, name, value):
    self.name, self.value = name, 'package.module:METHOD'
    self.load = lambda: value


class RegistryTest(absltest.TestCase):

  def _with(self, name, value):
    found = [_EntryPoint(name, value)]
    self.enter_context(
        mock.patch.object(
            registry.metadata, 'entry_points', lambda group: found
        )
    )

  def test_a_package_brings_a_router(self):
    method = router.Method('theirs', router.Needs(router.COMMIT), lambda: [])
    self._with('theirs', method)
    self.assertIs(registry.load('theirs'), method)
    self.assertEqual(registry.names()[-1], 'theirs')

  def test_an_installed_package_is_found(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    (folder / 'their_router.py').write_text(
        'from routing.routers import router\n'
        'needs = router.Needs(router.COMMIT)\n'
        "METHOD = router.Method('theirs', needs, lambda *_, **__: [])\n"
    )
    info = folder / 'their_package-1.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Name: their-package\nVersion: 1.0\n')
    (info / 'entry_points.txt').write_text(
        f'[{registry.GROUP}]\ntheirs = their_router:METHOD\n'
    )
    self.enter_context(mock.patch.object(sys, 'path', [*sys.path, str(folder)]))
    self.addCleanup(sys.modules.pop, 'their_router', None)
    self.assertIn('theirs', registry.names())
    self.assertEqual(registry.load('theirs').name, 'theirs')

  def test_the_example_of_the_page_is_a_router(self):
    page = pathlib.Path(__file__).parents[1] / 'docs' / 'comparison.md'
    section = page.read_text().partition('## Add a router in one file')[2]
    code = re.search(r'```python\n(.*?)```', section, re.DOTALL)[1]
    folder = pathlib.Path(self.create_tempdir().full_path)
    (folder / 'my_router.py').write_text(code)
    self.enter_context(mock.patch.object(sys, 'path', [*sys.path, str(folder)]))
    self.addCleanup(sys.modules.pop, 'my_router', None)
    method, arena = registry.load('my_router:MINE'), small_arena.make()
    tuned = harness.tune(method, arena, 2, 0)
    self.assertLen(tuned.areas, 2)
    names = {
        harness.fit(method, arena, setting, 0)[0].fingerprint
        for setting in method.settings
    }
    self.assertLen(names, 2)
    entry = harness.enter(
        method, arena, tuned.families, tuned.setting, tuned.areas, 0
    )
    self.assertNotEmpty(entry.knobs)
    taken = code.replace("'mine'", "'boosting'")
    (folder / 'taken_router.py').write_text(taken)
    self.addCleanup(sys.modules.pop, 'taken_router', None)
    for place, words in (
        ('taken_router:MINE', "is called 'boosting', as a router of this"),
        ('my_router:YOURS', "has no attribute 'YOURS'"),
        ('your_router:MINE', 'in the current directory, or installed'),
    ):
      with self.assertRaisesRegex(ValueError, words):
        registry.load(place)

  def test_a_name_that_is_taken_is_refused(self):
    self._with('boosting', None)
    with self.assertRaisesRegex(ValueError, "'boosting' of package.module"):
      registry.load('boosting')

  def test_what_is_no_method_is_refused(self):
    self._with('theirs', 'a text')
    with self.assertRaisesRegex(ValueError, "'theirs' is a str"):
      registry.load('theirs')

  def test_names_agree(self):
    for name in registry.METHODS:
      self.assertEqual(registry.load(name).name, name)


if __name__ == '__main__':
  absltest.main()
