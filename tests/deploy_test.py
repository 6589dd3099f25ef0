"""The files of deploy/, checked for form; no container or unit is started."""

import ast
import importlib
import importlib.util
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

from absl.testing import absltest
import yaml

from experiments import mistakes
from experiments import serve
from routing.serving import keys as keys_lib
from tests import checkout
from tests import documents_test
from tests import packaging_test

_DEPLOY = checkout.ROOT / 'deploy'
_UNIT = 'stepwise-routing.service'
_VLLM = 'vllm.entrypoints.openai.api_server'
# Prints where our modules come from, once the service is loaded.
_LOADED = """
import sys
from experiments import serve
for name, module in sys.modules.items():
  if name.split('.')[0] in ('routing', 'experiments', 'configs', 'third_party'):
    print(module.__file__ or '')
"""


def _text(name):
  return (_DEPLOY / name).read_text(encoding='utf-8')


def _instructions(name='Dockerfile'):
  """Returns (instruction, rest) of a Dockerfile, continued lines joined."""
  lines = [x for x in _text(name).splitlines() if not x.startswith('#')]
  joined = re.sub(r'\\\n\s*', '', '\n'.join(lines))
  return [tuple(x.split(' ', 1)) for x in joined.splitlines() if x]


def _rest(instruction):
  """Returns what follows an instruction that is there once."""
  (found,) = [rest for name, rest in _instructions() if name == instruction]
  return found


def _unit():
  """Returns field -> value of the unit; of a field given twice, the last."""
  pairs = re.findall(r'^(\w+)=(.*)$', _text(_UNIT), re.M)
  return dict(pairs)


def _flags_of_serve():
  """Returns the names of the flags that `experiments.serve` defines."""
  path = checkout.ROOT / 'experiments' / 'serve.py'
  defined = {
      node.args[0].value
      for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
      if isinstance(node, ast.Call)
      and ast.unparse(node.func).startswith('flags.DEFINE')
  }
  return defined | {'config'}


class DeployTest(absltest.TestCase):

  def check_flags(self, words):
    """Checks the flags of one command of the service."""
    given = [word.removeprefix('--').split('=', 1) for word in words]
    for name, _ in given:
      self.assertIn(name.split('.')[0], _flags_of_serve(), name)
    self.assertIsNone(mistakes.config_problem(words))
    values = dict(given)
    # Raises where the service would not start.
    keys = (keys_lib.Key('alice'),) if 'keys' in values else ()
    serve.check_host(values.get('host', '127.0.0.1'), keys)
    return values

  def test_wrong_flags_are_seen(self):
    config = '--config=configs/own_models.py:servers'
    with self.assertRaises(AssertionError):
      self.check_flags([config, '--rooter=x'])
    with self.assertRaises(AssertionError):
      self.check_flags([config, '--config.routes[2].settings.base_url=x'])
    with self.assertRaisesRegex(ValueError, '--keys'):
      self.check_flags([config, '--host=0.0.0.0'])

  def test_the_image_copies_what_the_service_loads(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    allowed = _text('Dockerfile.dockerignore').splitlines()
    for name, rest in _instructions():
      if name == 'COPY':
        *sources, _ = rest.split()
        for source in sources:
          self.assertIn(f'!{source}', allowed)
          (folder / source).symlink_to(checkout.ROOT / source)
          self.assertTrue((folder / source).exists(), source)
    run = subprocess.run(
        [sys.executable, '-c', _LOADED],
        cwd=folder,
        env={'PYTHONPATH': str(folder), 'JAX_PLATFORMS': 'cpu'},
        capture_output=True,
        check=True,
        text=True,
    )
    found = run.stdout.split()
    self.assertIn(f'{folder}/routing/serving/app.py', found)
    for path in found:
      self.assertStartsWith(path, f'{folder}/')

  def test_the_image_starts_the_service(self):
    self.assertEqual(
        json.loads(_rest('ENTRYPOINT')), ['python', '-m', 'experiments.serve']
    )
    values = self.check_flags(json.loads(_rest('CMD')))
    copied = [
        rest.split()[0] for name, rest in _instructions() if name == 'COPY'
    ]
    self.assertIn(values['config'].split('/')[0], copied)
    self.assertEqual(values['port'], _rest('EXPOSE'))
    self.assertStartsWith(values['state'], _rest('VOLUME'))
    (extras,) = re.findall(r"'\.\[(.*?)\]'", _text('Dockerfile'))
    for extra in extras.split(','):
      self.assertIn(extra, packaging_test.declared('EXTRAS_REQUIRE'))
    kind, command = _rest('HEALTHCHECK').split(' CMD ')
    self.assertIn('--interval', kind)
    compile(json.loads(command)[2], 'HEALTHCHECK', 'exec')

  def test_compose(self):
    services = yaml.safe_load(_text('compose.yaml'))['services']
    self.assertEqual(set(services), {'small', 'large', 'router'})
    router = services['router']
    build = _DEPLOY / router['build']['context']
    self.assertTrue((build / router['build']['dockerfile']).is_file())
    self.assertEqual(set(router['depends_on']), {'small', 'large'})
    values = self.check_flags(router['command'])
    # Each route asks the server that has its model, under its name there.
    for index, name in enumerate(('small', 'large')):
      self.assertEqual(
          values[f'config.routes[{index}].settings.base_url'],
          f'http://{name}:8000/v1',
      )
      self.assertEqual(services[name]['entrypoint'][-1], _VLLM)
      given = dict(x[2:].partition('=')[::2] for x in services[name]['command'])
      self.assertEqual(given['served-model-name'], name)
      self.assertEqual(given['port'], '8000')
    for service in services.values():
      for port in service['ports']:
        self.assertStartsWith(port, '127.0.0.1:')
    mounted = {x.split(':')[1] for x in router['volumes']}
    self.assertIn(values['router'], mounted)
    self.assertIn(values['state'], mounted)
    self.assertStartsWith(values['keys'], values['state'])

  def test_compose_serves_the_models_of_the_configuration(self):
    services = yaml.safe_load(_text('compose.yaml'))['services']
    values = self.check_flags(services['router']['command'])
    path, variant = values['config'].split(':')
    module = path.removesuffix('.py').replace('/', '.')
    config = importlib.import_module(module).get_config(variant)
    for route in config.routes:
      words = services[route['name']]['command']
      self.assertIn(f'--model={route["weights"]}', words)
      length = route['settings']['max_length']
      self.assertIn(f'--max-model-len={length}', words)

  def test_flags_of_vllm(self):
    if importlib.util.find_spec('vllm') is None:
      self.skipTest('vLLM is not installed.')
    folder = pathlib.Path(importlib.util.find_spec('vllm').origin).parent
    self.assertIsNotNone(importlib.util.find_spec(_VLLM))
    known = ''.join(
        path.read_text(encoding='utf-8')
        for name in ('engine/arg_utils.py', 'entrypoints')
        for path in [folder / name, *(folder / name).glob('**/*.py')]
        if path.is_file()
    )
    for service in yaml.safe_load(_text('compose.yaml'))['services'].values():
      for word in service['command'] if 'image' in service else ():
        field = word[2:].partition('=')[0].replace('-', '_')
        self.assertRegex(known, rf'(?m)^ +{field}: ', word)

  def test_unit(self):
    unit = _unit()
    python, dash_m, module, *words = shlex.split(unit['ExecStart'])
    self.assertStartsWith(python, unit['WorkingDirectory'] + '/.venv/bin/')
    self.assertEqual((dash_m, module), ('-m', 'experiments.serve'))
    values = self.check_flags(words)
    self.assertEqual(values['state'], '${STATE_DIRECTORY}')
    self.assertGreater(int(unit['LimitNOFILE']), 10_000)

  def test_systemd_finds_no_fault_in_the_unit(self):
    if shutil.which('systemd-analyze') is None:
      self.skipTest('systemd-analyze is not installed.')
    folder = _unit()['WorkingDirectory']
    # Where the unit would be installed, there is nothing here.
    text = _text(_UNIT).replace(f'{folder}/.venv/bin/python', sys.executable)
    found = self.verify(text.replace(folder, str(checkout.ROOT)))
    self.assertEqual(found, '')
    wrong = text.replace('Restart=on-failure', 'Restart=at-failure')
    self.assertIn('at-failure', self.verify(wrong))

  def verify(self, text):
    """Returns what systemd says of a unit with this text."""
    path = pathlib.Path(self.create_tempdir().full_path) / _UNIT
    path.write_text(text, encoding='utf-8')
    run = subprocess.run(
        ['systemd-analyze', 'verify', path], capture_output=True, text=True
    )
    # It also reads the machine's other units, and may find fault with them.
    return '\n'.join(x for x in run.stderr.splitlines() if _UNIT in x)

  def test_commands_in_comments_can_be_run(self):
    for name in ('compose.yaml', _UNIT):
      self.assertEmpty(documents_test.wrong_commands(_text(name)), name)


if __name__ == '__main__':
  absltest.main()
