"""A server of OpenAI's protocol that fails in every way, at random: for tests.

It answers for the counting pair of `scripted_pair`. Some questions
are refused for good; any request may be met by a status that heals, by silence,
by a dropped line, or by half an answer.
"""

import asyncio
import collections
import dataclasses
import json
import random
import zlib

_RETRIABLE = (408, 409, 429, 500, 502, 503)
# Chance of each way to fail. Silence is rare, as it takes a client's patience.
_WAYS = {'status': 0.04, 'silent': 0.005, 'dropped': 0.03, 'half': 0.02}


def split(prompt: str) -> tuple[str, str]:
  """Question and trace; the question of the counting pair is a line."""
  question, newline, trace = prompt.partition('\n')
  return question + newline, trace


def is_refused(question: str, every: int) -> bool:
  """Whether the server refuses a question for good; one in `every`."""
  return zlib.crc32(question.encode()) % every == 0


@dataclasses.dataclass
class Faults:
  """Wraps a server's application in faults.

  app: the server.
  refuse_every: see `is_refused`.
  silence: seconds without an answer; clients should give up before.
  seed: of what fails.
  counts: how often each way to fail was met.
  """

  app: object
  refuse_every: int = 40
  silence: float = 30.0
  seed: int = 0
  counts: collections.Counter = dataclasses.field(
      default_factory=collections.Counter
  )

  def __post_init__(self):
    self._random = random.Random(self.seed)

  async def __call__(self, scope, receive, send):
    """One request."""
    body, more = b'', scope['type'] == 'http'
    while more:
      message = await receive()
      body += message.get('body', b'')
      more = message.get('more_body', False)
    question, _ = split(''.join(map(chr, json.loads(body)['prompt'])))
    if is_refused(question, self.refuse_every):
      return await self._status(400, send)
    (way,) = self._random.choices(
        [*_WAYS, 'well'], [*_WAYS.values(), 1 - sum(_WAYS.values())]
    )
    self.counts[way] += 1
    if way == 'status':
      return await self._status(self._random.choice(_RETRIABLE), send)
    if way == 'silent':
      return await asyncio.sleep(self.silence)
    if way == 'dropped':
      return send.__self__.transport.abort()  # Of uvicorn.
    if way == 'half':
      return await self._half(send)

    bodies = [{'type': 'http.request', 'body': body, 'more_body': False}]

    async def again():
      # After the body, the application waits for the client's disconnect.
      return bodies.pop() if bodies else await receive()

    await self.app(scope, again, send)

  async def _status(self, status: int, send) -> None:
    """An error; those that ask to wait ask for 10 ms."""
    self.counts[status] += 1
    headers = [(b'content-type', b'application/json')]
    if status in (429, 503):
      headers.append((b'retry-after-ms', b'10'))
    body = json.dumps({'error': {'message': f'told to say {status}'}})
    start = {'type': 'http.response.start', 'status': status}
    await send({**start, 'headers': headers})
    await send({'type': 'http.response.body', 'body': body.encode()})

  async def _half(self, send) -> None:
    """An answer that breaks off."""
    headers = [(b'content-length', b'999'), (b'content-type', b'text/plain')]
    start = {'type': 'http.response.start', 'status': 200}
    await send({**start, 'headers': headers})
    part = {'type': 'http.response.body', 'body': b'{"id": ', 'more_body': True}
    await send(part)
    send.__self__.transport.abort()
