"""The clients of docs/serving.md, as the page uses them, over real HTTP."""

import asyncio
import importlib.util
import json
import os
import pathlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
import unittest
from unittest import mock

from absl.testing import absltest
import httpx
import openai

from tests import checkout
from tests import router_server

_DOC = (checkout.ROOT / 'docs' / 'serving.md').read_text(encoding='utf-8')
_SMALL, _LARGE = router_server.SMALL, router_server.LARGE
_STEPS = ['13\n\n', '14\n\n', '15\n\n', '16\n\n', '17\n\n', '#### 17']
# At the point of the page's examples the small model, with a slip.
_AT_POINT = ['13\n\n', '14\n\n', '15\n\n', '17\n\n', '18\n\n', '#### 18']
_MESSAGES = [{'role': 'user', 'content': router_server.QUESTION}]
# LiteLLM would ask a server for the prices of models.
_OFFLINE = {'LITELLM_LOCAL_MODEL_COST_MAP': 'True'}


def _needs(*packages):
  missing = [x for x in packages if importlib.util.find_spec(x) is None]
  return unittest.skipIf(
      missing, f'Needs the extra `clients`: {", ".join(missing)}.'
  )


def _blocks(language, word):
  """Returns the only block of the page in a language that has a word."""
  found = re.findall(rf'^```{language}\n(.*?)^```', _DOC, re.M | re.S)
  (block,) = [x for x in found if word in x]
  return block


class ClientsTest(router_server.SharedCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.url = str(cls.http.base_url).rstrip('/')

  def run_block(self, word, **names):
    """Runs a block of the page at this service; returns its names."""
    code = _blocks('python', word).replace('http://127.0.0.1:8000', self.url)
    # The question of the page is for the embedded pair.
    code = re.sub(r"(?m)^question = '.*'$", '', code)
    names |= {'question': router_server.QUESTION}
    exec(code, names)  # pylint: disable=exec-used
    return names

  def test_openai(self):
    names = self.run_block('import openai')
    names['client'].close()
    answer = names['answer']
    self.assertEqual(answer.model, 'router@loss<=0.05@0.9')
    self.assertEqual(answer.choices[0].message.content, ''.join(_AT_POINT))

  def test_openai_stream(self):
    names = self.run_block(
        'stream=True', client=self.openai, messages=_MESSAGES
    )
    self.assertLen(names['steps'], 6)
    self.assertEqual(names['chunks'][-1].usage.total_tokens, 32)

  def test_openai_async(self):
    fields = dict(model='router@cost<=0.5', messages=_MESSAGES)

    async def run():
      async with openai.AsyncOpenAI(
          base_url=f'{self.url}/v1', api_key='none', max_retries=0
      ) as client:
        create = client.chat.completions.create
        whole, stream = await asyncio.gather(
            create(**fields), create(stream=True, **fields)
        )
        return whole, [chunk async for chunk in stream]

    whole, chunks = asyncio.run(run())
    texts = [x.choices[0].delta.content for x in chunks]
    self.assertEqual([x for x in texts if x], _STEPS)
    self.assertEqual(whole.choices[0].message.content, ''.join(_STEPS))
    self.assertEqual(chunks[-1].usage, whole.usage)
    self.assertEqual(chunks[-1].routing['steps'], whole.routing['steps'])

  def test_openai_headers(self):
    create = self.openai.chat.completions.with_raw_response.create
    raw = create(model='router@cost<=0.5', messages=_MESSAGES)
    routing = raw.parse().routing
    headers = raw.headers
    self.assertEqual(headers['x-routing-route'], f'{_SMALL}:1,{_LARGE}:5')
    for name, part in (('cost', 'cost'), ('cost-large-alone', 'large_alone')):
      value = float(headers[f'x-routing-{name}'])
      price = routing[part][headers['x-routing-metric']]
      self.assertAlmostEqual(value / price, 1, places=5)
    self.assertEqual(
        f'{routing["overhead_ms"]:.3f}', headers['x-routing-overhead-ms']
    )
    streamed = self.openai.chat.completions.with_streaming_response.create(
        model='router@cost<=0.5', messages=_MESSAGES, stream=True
    )
    with streamed as raw:
      self.assertEqual(raw.headers['x-routing-model'], 'router@cost<=0.5')
      self.assertEqual(raw.headers['x-routing-metric'], 'price')

  @_needs('langchain_openai')
  def test_langchain(self):
    names = self.run_block('import langchain_openai')
    reply = names['reply']
    self.assertEqual(reply.content, ''.join(_AT_POINT))
    self.assertEqual(
        reply.response_metadata['model_name'], 'router@loss<=0.05@0.9'
    )
    self.assertEqual(reply.usage_metadata['input_tokens'], 5)
    self.assertEqual(reply.usage_metadata['output_tokens'], 27)
    self.assertEqual([x for x in names['parts'] if x], _AT_POINT)
    *_, last = names['model'].stream(router_server.QUESTION, stop=['#### '])
    whole = names['model'].invoke(router_server.QUESTION, stop=['#### '])
    self.assertEqual(whole.content, ''.join(_AT_POINT[:-1]))
    self.assertIsNotNone(last)

  @_needs('litellm')
  def test_litellm(self):
    with mock.patch.dict(os.environ, _OFFLINE):
      names = self.run_block('import litellm', messages=_MESSAGES)
    reply, litellm = names['reply'], names['litellm']
    self.assertEqual(reply.choices[0].message.content, ''.join(_AT_POINT))
    self.assertEqual(reply.model, 'router@loss<=0.05@0.9')
    self.assertEqual(reply.usage.total_tokens, 32)
    stream = litellm.completion(
        model='openai/router@cost<=0.5',
        api_base=f'{self.url}/v1',
        api_key='none',
        messages=_MESSAGES,
        stream=True,
    )
    texts = [x.choices[0].delta.content for x in stream]
    self.assertEqual([x for x in texts if x], _STEPS)
    with self.assertRaisesRegex(litellm.BadRequestError, 'top_p'):
      litellm.completion(
          model='openai/router',
          api_base=f'{self.url}/v1',
          api_key='none',
          messages=_MESSAGES,
          top_p=0.5,
      )

  @_needs('litellm', 'apscheduler', 'backoff')
  def test_litellm_as_a_proxy_in_front(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    listed = _blocks('yaml', 'litellm_params')
    (folder / 'litellm.yaml').write_text(
        listed.replace('http://127.0.0.1:8000', self.url)
    )
    with socket.create_server(('127.0.0.1', 0)) as listener:
      port = listener.getsockname()[1]
    key, *command = shlex.split(
        _blocks('bash', 'LITELLM').replace('4000', str(port))
    )
    name, secret = key.split('=')
    command[0] = str(pathlib.Path(sys.executable).with_name(command[0]))
    log = folder / 'log'
    with open(log, 'w', encoding='utf-8') as stream:
      process = subprocess.Popen(
          command,
          cwd=folder,
          env=os.environ | _OFFLINE | {name: secret},
          stdout=stream,
          stderr=subprocess.STDOUT,
      )
    self.addCleanup(process.wait)
    self.addCleanup(process.kill)
    url = f'http://127.0.0.1:{port}'

    def is_up():
      self.assertIsNone(process.poll(), log.read_text())
      try:
        return httpx.get(f'{url}/health/readiness').status_code == 200
      except httpx.TransportError:
        return False

    router_server.until(is_up, 200)
    with openai.OpenAI(base_url=url, api_key=secret, max_retries=0) as client:
      create = client.chat.completions.create
      whole = create(model='router', messages=_MESSAGES)
      chunks = list(create(model='router', messages=_MESSAGES, stream=True))
    self.assertEqual(whole.choices[0].message.content, ''.join(_AT_POINT))
    self.assertEqual(whole.routing['model'], 'router@loss<=0.05@0.9')
    self.assertEqual(whole.usage.total_tokens, 32)
    texts = [x.choices[0].delta.content for x in chunks if x.choices]
    self.assertEqual([x for x in texts if x], _AT_POINT)

  @unittest.skipIf(shutil.which('curl') is None, 'curl is not installed.')
  def test_curl(self):
    command = _blocks('bash', 'curl -N').replace(
        'http://127.0.0.1:8000', self.url
    )
    words = shlex.split(command)
    body = json.loads(words[-1])
    words[-1] = json.dumps(body | {'prompt': router_server.QUESTION})
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    *lines, end = [x for x in run.stdout.split('\n\n') if x]
    self.assertEqual(end, 'data: [DONE]')
    events = [json.loads(line.removeprefix('data: ')) for line in lines]
    self.assertLen([x for x in events if 'step' in x.get('routing', {})], 6)
    self.assertEqual(events[-1]['usage']['total_tokens'], 32)


if __name__ == '__main__':
  absltest.main()
