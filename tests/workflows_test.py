"""Tests of the workflow files: well-formed, and their commands exist."""

import re

from absl.testing import absltest
from absl.testing import parameterized
import yaml

from tests import checkout
from tests import documents_test

_FOLDER = checkout.ROOT / '.github' / 'workflows'
_NAMES = ('docs', 'lint', 'release', 'test')


def _read(name):
  text = (_FOLDER / f'{name}.yml').read_text(encoding='utf-8')
  return yaml.safe_load(text)


def _steps(workflow):
  for job in workflow['jobs'].values():
    yield from job['steps']


class WorkflowsTest(parameterized.TestCase):

  def test_these_are_all(self):
    found = sorted(path.stem for path in _FOLDER.iterdir())
    self.assertEqual(found, list(_NAMES))

  @parameterized.parameters(*_NAMES)
  def test_form(self, name):
    workflow = _read(name)
    self.assertEqual(workflow['name'], name)
    # YAML 1.1 reads the key `on` as True.
    self.assertNotEmpty(workflow[True])
    # Nothing may write to the repository.
    self.assertEqual(workflow['permissions'], {'contents': 'read'})
    for job in workflow['jobs'].values():
      self.assertIn('runs-on', job)
      for needed in [job['needs']] if 'needs' in job else []:
        self.assertIn(needed, workflow['jobs'])
    for step in _steps(workflow):
      self.assertLen({'run', 'uses'} & set(step), 1, step)
      if 'uses' in step:
        self.assertRegex(step['uses'], r'^[\w-]+/[\w-]+@[\w./]+$')

  @parameterized.parameters(*_NAMES)
  def test_commands_exist(self, name):
    commands = [x['run'] for x in _steps(_read(name)) if 'run' in x]
    self.assertNotEmpty(commands)
    for command in commands:
      self.assertEmpty(documents_test.wrong_commands(command))
      self.assertRegex(command, '^(make|grep) ')
      for option in re.findall(r'(--[\w-]+)=3[.]', command):
        source = (checkout.ROOT / '.ci/package.py').read_text(encoding='utf-8')
        self.assertIn(f"'{option}'", source)

  def test_every_interpreter_that_is_promised_is_tried(self):
    setup = (checkout.ROOT / 'setup.py').read_text(encoding='utf-8')
    promised = set(re.findall(r'Python :: (3[.]\d+)', setup))
    self.assertNotEmpty(promised)
    for name in ('release', 'test'):
      text = (_FOLDER / f'{name}.yml').read_text(encoding='utf-8')
      self.assertEqual(
          set(re.findall(r'--python=(3[.]\d+)', text)), promised, name
      )

  def test_a_missing_target_is_seen(self):
    self.assertEqual(
        documents_test.wrong_commands('make nowhere'), ['make nowhere']
    )


if __name__ == '__main__':
  absltest.main()
