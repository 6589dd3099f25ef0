"""Tests of the workflow files: well-formed, and their commands exist."""

import os
import re
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import pytest
import yaml

from tests import checkout
from tests import conftest
from tests import documents_test
from tests import packaging_test

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

  def test_nothing_is_skipped_for_what_the_suite_installs(self):
    for name, job in _read('test')['jobs'].items():
      for step in job['steps']:
        required = step.get('env', {}).get('ROUTING_REQUIRE', '').split(',')
        is_suite = step.get('run') in ('make test', 'make test-cluster')
        self.assertEqual(is_suite, required != [''], f'{name}: {step}')
        self.assertContainsSubset(
            {*required} - {''}, packaging_test.declared('EXTRAS_REQUIRE')
        )
    steps = [x.get('run') for x in _read('test')['jobs']['suite']['steps']]
    self.assertIn('make install-extras', steps)
    rules = (checkout.ROOT / 'Makefile').read_text(encoding='utf-8')
    text = (_FOLDER / 'test.yml').read_text(encoding='utf-8')
    extras = re.search(r"-e '\.\[(.*)\]' 'tensorboard", rules)[1]
    self.assertIn(f"ROUTING_REQUIRE: '{extras}'", text)

  def test_a_missing_target_is_seen(self):
    self.assertEqual(
        documents_test.wrong_commands('make nowhere'), ['make nowhere']
    )


class SkipTest(parameterized.TestCase):

  @parameterized.parameters(
      ('docs', 'Needs the extra `docs`.', True),
      ('browser,docs', 'Where Chromium and the extra `browser` are.', True),
      ('browser,docs', 'Needs the extra `ray`.', False),
      ('docs', 'There is no GPU.', False),
      ('', 'Needs the extra `docs`.', False),
  )
  def test_a_skip_for_what_must_be_there_fails(self, required, reason, fails):
    report = pytest.TestReport(
        *('a_test.py::test', ('a_test.py', 1, 'test'), {}),
        outcome='skipped',
        longrepr=('a_test.py', 1, f'Skipped: {reason}'),
        when='call',
    )
    with mock.patch.dict(os.environ, {'ROUTING_REQUIRE': required}):
      found = conftest.refuse_skip(report)
    self.assertEqual(found.failed, fails)
    self.assertEqual('ROUTING_REQUIRE' in str(found.longrepr), fails)


if __name__ == '__main__':
  absltest.main()
