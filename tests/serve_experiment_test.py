"""The commands of docs/serving.md, and what the command refuses."""

import asyncio
import contextlib
import dataclasses
import importlib.util
import io
import json
import pathlib
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import httpx
import openai
import uvicorn

from configs import arithmetic
from configs import arithmetic_switch
from experiments import builders
from experiments import serve
from experiments import served_router
from routing.routers import learned
from routing.serving import keys as keys_lib
from routing.serving import settings as settings_lib
from tests import checkout

_DOC = (checkout.ROOT / 'docs' / 'serving.md').read_text(encoding='utf-8')
_ANSWER = '#### Q = 60'  # 38 - 13 + (21 + 14).


def _blocks(language):
  return re.findall(rf'^```{language}\n(.*?)^```', _DOC, re.M | re.S)


def _here(command, port):
  """Returns a command of the page for this interpreter and a free port."""
  words = shlex.split(command.replace('8000', str(port)))
  return [sys.executable if x == 'python' else x for x in words]


@contextlib.contextmanager
def _running(command, log):
  """Runs a command until the context ends, as a process of its own."""
  with open(log, 'w', encoding='utf-8') as stream:
    process = subprocess.Popen(command, cwd=checkout.ROOT, stderr=stream)
  try:
    yield process
  finally:
    process.kill()
    process.wait()


class PageTest(absltest.TestCase):

  def test_from_nothing_to_an_answer(self):
    first, second, *_ = _blocks('bash')
    install, command = first.splitlines()
    # All that it asks for is here, as constraints.txt has it. Newer Pythons
    # make environments without setuptools, which pip would have to load.
    if importlib.util.find_spec('setuptools') is not None:
      subprocess.run(
          [sys.executable, '-m', *_here(install, 0)]
          + ['--dry-run', '--no-index', '--no-build-isolation', '-q'],
          cwd=checkout.ROOT,
          check=True,
      )
    with socket.create_server(('127.0.0.1', 0)) as listener:
      port = listener.getsockname()[1]
    log = pathlib.Path(self.create_tempdir().full_path) / 'log'
    with _running(_here(command, port), log) as process:
      url = f'http://127.0.0.1:{port}'
      self._wait(url, process, log)
      answer = json.loads(
          subprocess.run(
              _here(second.strip(), port), capture_output=True, check=True
          ).stdout
      )
      self.assertEndsWith(answer['choices'][0]['message']['content'], _ANSWER)
      self.assertEqual(answer['model'], 'router@loss<=0.05@0.9')
      self._client_of_the_page(url)
      listed = httpx.get(f'{url}/v1/models').json()
      self.assertIn(repr(listed['routing']['example']), _DOC)
      # It is asked to stop, and stops.
      process.send_signal(signal.SIGTERM)
      self.assertEqual(process.wait(60), 0)
    lines = list(map(json.loads, log.read_text().splitlines()))
    self.assertEqual([x['event'] for x in lines][:1], ['start'])
    self.assertEqual(lines[-1]['event'], 'stop')

  def _wait(self, url, process, log):
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
      with contextlib.suppress(httpx.TransportError):
        if httpx.get(f'{url}/ready').status_code == 200:
          return
      time.sleep(0.1)
    self.fail(log.read_text())

  def _client_of_the_page(self, url):
    """Runs the example in Python, with the address of this service."""
    code, *_ = _blocks('python')
    names = {}
    exec(code.replace('http://127.0.0.1:8000', url), names)  # pylint: disable=exec-used
    names['client'].close()
    self.assertIsInstance(names['client'], openai.OpenAI)
    self.assertEqual(names['answer'].model, 'router@loss<=0.05@0.9')
    self.assertEndsWith(names['answer'].choices[0].message.content, _ANSWER)

  def test_every_setting_that_is_named_exists(self):
    known = set(arithmetic.get_config().serving)
    for name in ('shadow_share', 'keep_answers', 'fall_back', 'cors_origins'):
      self.assertIn(name, known)
      self.assertIn(f'`{name}`', _DOC)
    defaults = settings_lib.Settings(**arithmetic.get_config().serving)
    self.assertEqual(defaults, settings_lib.Settings())

  def test_what_is_compiled_is_kept_in_the_state(self):
    with (
        mock.patch.object(serve.command_line, 'keep_compiled') as kept,
        mock.patch.object(serve.learned, 'load'),
        mock.patch.object(serve.monitoring, 'set_up_log'),
        mock.patch.object(serve.event_loop, 'run') as run,
    ):
      serve.main(None, 'shipped', '127.0.0.1', 0, None, '/state', None)
    kept.assert_called_once_with('/state')
    run.call_args.args[0].close()

  def test_the_command_that_makes_a_key(self):
    (command,) = re.findall(r'`(python [^`]*--new_key=alice)`', _DOC)
    flags = dict(re.findall(r'--(\w+)=(\S+)', command))
    path = pathlib.Path(self.create_tempdir().full_path) / flags['keys']
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
      serve.main(
          None, 'shipped', '127.0.0.1', 0, str(path), None, flags['new_key']
      )
    secret = output.getvalue().strip()
    ring = keys_lib.Keyring(keys_lib.read(path))
    self.assertEqual(ring.find(f'Bearer {secret}').name, 'alice')


class ProcessTest(absltest.TestCase):

  def test_a_second_signal_does_not_wait(self):
    server = serve._Server(uvicorn.Config(app=None))
    server.handle_exit(signal.SIGTERM, None)
    self.assertEqual((server.should_exit, server.force_exit), (True, False))
    server.handle_exit(signal.SIGTERM, None)
    self.assertTrue(server.force_exit)
    service = mock.Mock()

    async def run():
      answer = asyncio.create_task(asyncio.sleep(3_600))
      server.server_state.tasks.add(answer)
      await asyncio.wait_for(serve.give_up(server, service), 60)
      return answer.cancelled()

    self.assertTrue(asyncio.run(run()))
    service.give_up_shadows.assert_called_once()

  def test_as_many_files_as_are_allowed(self):
    kind = resource.RLIMIT_NOFILE
    before = soft, hard = resource.getrlimit(kind)
    self.addCleanup(resource.setrlimit, kind, before)
    resource.setrlimit(kind, (min(soft, hard - 1), hard))
    serve.allow_many_files()
    self.assertEqual(resource.getrlimit(kind), (hard, hard))


class RefusedTest(parameterized.TestCase):

  @parameterized.parameters('0.0.0.0', '192.168.0.1', '::', 'example.org')
  def test_other_machines_need_a_key(self, host):
    with self.assertRaisesRegex(ValueError, f'--host={host}.*--keys'):
      serve.check_host(host, ())
    serve.check_host(host, (keys_lib.Key('alice'),))

  @parameterized.parameters('127.0.0.1', '127.0.0.2', '::1', 'localhost')
  def test_this_machine_does_not(self, host):
    serve.check_host(host, ())

  def test_a_port_that_is_taken(self):
    with socket.create_server(('127.0.0.1', 0)) as taken:
      port = taken.getsockname()[1]
      with self.assertRaisesRegex(ValueError, f'--port={port}.*in use'):
        serve.bind('127.0.0.1', port)

  def test_a_router_of_another_protocol(self):
    with self.assertRaisesRegex(ValueError, 'escalate, peek.*switch, commit'):
      served_router.check(
          arithmetic_switch.get_config(), learned.load('shipped')
      )

  def test_a_router_of_another_metric(self):
    config = arithmetic.get_config()
    config.cost_metric = 'flops'
    with self.assertRaisesRegex(ValueError, "'price'.*'flops'"):
      served_router.check(config, learned.load('shipped'))

  def test_more_decisions_than_the_router_was_trained_for(self):
    config = arithmetic.get_config()
    config.protocol.max_decisions = 9
    with self.assertRaisesRegex(ValueError, 'max_decisions is 9.*most 8'):
      served_router.check(config, learned.load('shipped'))

  def test_another_pair_is_refused_unless_allowed(self):
    config = arithmetic.get_config()
    # The small model in both places: other weights under the same names.
    config.routes[1]['model'] = 'shipped/small'
    router = learned.load('shipped')
    self.assertEmpty(served_router.check(arithmetic.get_config(), router))
    with self.assertRaisesRegex(ValueError, 'use the same models'):
      served_router.check(config, router)
    with self.assertLogs(level='WARNING') as logged:
      found = served_router.check(config, router, allow_other_pair=True)
    self.assertIn('none of its promises holds', logged.output[0])
    self.assertCountEqual(found, [point.name for point in router.points])
    # A router that decides between two cannot serve three.
    config.routes = (*config.routes, dict(config.routes[1], name='third'))
    with self.assertRaisesRegex(ValueError, 'has the routes'):
      served_router.check(config, router, allow_other_pair=True)

  def test_a_promise_holds_as_models_were_asked_in_calibration(self):
    config, router = arithmetic.get_config(), learned.load('shipped')
    asking = builders.asking_key(config)
    first, second, *_ = router.points
    points = [dataclasses.replace(first, asking=asking), second]
    made = mock.Mock(wraps=router, card=router.card, points=points)
    self.assertEmpty(served_router.check(config, made))
    config.collect.temperature = 0.5
    found = served_router.check(config, made)
    # The second is of an older file, which does not say how they were asked.
    self.assertEqual(list(found), [first.name])
    self.assertIn('sampling settings differ', found[first.name])
    config = arithmetic.get_config()
    config.routes[0]['prompt'] = dict(user='Q: {question}')
    found = served_router.check(config, made)
    self.assertIn('prompts of the routes differ', found[first.name])

  def test_more_answers_than_slots(self):
    config = arithmetic.get_config()
    config.serving.concurrency = 300
    with self.assertRaisesRegex(ValueError, "300.*'small', 256"):
      serve.settings(config)

  @parameterized.parameters(
      ('fall_back', 'medium'),
      ('concurrency', 0),
      ('shadow_share', 1.5),
      ('alarm_delta', 0.0),
      ('queue', -1),
      ('online_alpha', float('nan')),
  )  # pyformat: disable
  def test_settings_out_of_range(self, name, value):
    with self.assertRaisesRegex(ValueError, f'serving.*{name}'):
      settings_lib.Settings(**{name: value})

  def test_a_point_that_does_not_exist(self):
    with self.assertRaisesRegex(ValueError, "'loss<=0.5'.*loss<=0.05@0.9"):
      learned.load('shipped').at('loss<=0.5')


if __name__ == '__main__':
  absltest.main()
