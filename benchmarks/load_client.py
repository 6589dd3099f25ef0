"""A client that keeps many streams open at once, and checks what comes back.

It speaks OpenAI's protocol to any server, ours or another's. Each reply says
whether its stream came whole, what it said, and when.
"""

import asyncio
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
import random
import time
from typing import Any

import aiohttp

CHAT, COMPLETIONS = '/v1/chat/completions', '/v1/completions'
_SECONDS = 600.0  # Of one request; one that takes longer is lost.


@dataclasses.dataclass
class Reply:
  """What came back for one request.

  status: of HTTP; 0 = the connection broke before there was one.
  text: of the answer.
  model: that answered, as the last chunk says.
  is_whole: whether the answer has come to its end.
  error: the body of an error, or the name of what broke the connection.
  routing: the field of this name in the last chunk, or {}.
  headers: of the response.
  num_chunks: number of chunks that carry text.
  first, seconds: until the first text, and until the end.
  """

  status: int = 0
  text: str = ''
  model: str = ''
  is_whole: bool = False
  error: Any = None
  routing: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
  num_chunks: int = 0
  first: float = 0.0
  seconds: float = 0.0


def chat(model: str, question: str, **fields: Any) -> dict[str, Any]:
  """Returns the body of a chat request that is answered as a stream."""
  message = {'role': 'user', 'content': question}
  return {'model': model, 'messages': [message], 'stream': True} | fields


async def ask(
    session: aiohttp.ClientSession,
    url: str,
    body: Mapping[str, Any],
    leave_after: int | None = None,
) -> Reply:
  """Sends a request, and reads its reply.

  Args:
    session: of the client.
    url: of the endpoint.
    body: of the request; with `stream` or without.
    leave_after: number of chunks after which the client closes the connection,
      or 0, before anything has come; None = it stays.
  """
  reply, start = Reply(), time.perf_counter()
  try:
    if leave_after == 0:
      async with asyncio.timeout(0.05):
        async with session.post(url, json=body) as response:
          await response.read()
    async with session.post(url, json=body) as response:
      reply.status, reply.headers = response.status, response.headers
      if response.content_type != 'text/event-stream':
        _read_whole(reply, await response.json())
      else:
        await _read_stream(reply, response, start, leave_after)
  except (aiohttp.ClientError, TimeoutError, OSError) as error:
    reply.error = type(error).__name__
  reply.seconds = time.perf_counter() - start
  return reply


def _read_whole(reply: Reply, content: Mapping[str, Any]) -> None:
  """Takes over a response that is no stream."""
  if 'error' in content:
    reply.error = content['error']
    return
  (choice,) = content['choices']
  reply.text = choice['message']['content'] if 'message' in choice else ''
  reply.text = reply.text or choice.get('text', '')
  reply.model = content['model']
  reply.routing, reply.is_whole = content.get('routing', {}), True


async def _read_stream(
    reply: Reply,
    response: aiohttp.ClientResponse,
    start: float,
    leave_after: int | None,
) -> None:
  """Reads the events of a stream, up to its end or `leave_after` chunks."""
  is_finished = False
  async for line in response.content:
    if not line.startswith(b'data: '):
      continue
    if line.startswith(b'data: [DONE]'):
      reply.is_whole = is_finished and reply.error is None
      continue
    event = json.loads(line[6:])
    if 'error' in event:
      reply.error = event['error']
      continue
    reply.model = event['model']
    for choice in event['choices']:
      text = choice.get('delta', choice).get('content') or choice.get('text')
      if text:
        reply.text += text
        reply.num_chunks += 1
        reply.first = reply.first or time.perf_counter() - start
      is_finished |= choice.get('finish_reason') is not None
    if 'cost' in (event.get('routing') or {}):
      reply.routing = event['routing']
    if leave_after is not None and reply.num_chunks >= leave_after:
      response.close()
      return


@dataclasses.dataclass
class Count:
  """How many of `total` requests have ended."""

  total: int
  ended: int = 0

  @property
  def share(self) -> float:
    """The share of the requests that have ended."""
    return self.ended / self.total


async def ask_all(
    url: str,
    bodies: Sequence[Mapping[str, Any]],
    *,
    streams: int,
    count: Count | None = None,
) -> list[Reply]:
  """Sends all requests, `streams` of them at a time; returns their replies.

  Args:
    url: of the endpoint.
    bodies: of the requests.
    streams: how many are open at a time.
    count: is kept up to date.
  """
  replies = [Reply()] * len(bodies)
  left = iter(enumerate(bodies))

  async with client() as session:

    async def work():
      for i, body in left:
        replies[i] = await ask(session, url, body)
        if count is not None:
          count.ended += 1

    await asyncio.gather(*(work() for _ in range(streams)))
  return replies


async def ask_as_they_come(
    url: str,
    bodies: Sequence[Mapping[str, Any]],
    rate: float,
    draw: random.Random,
) -> tuple[list[Reply], float]:
  """Sends requests at random times, as from many users.

  None waits for another: where `ask_all` keeps a number of streams open, this
  keeps a mean number of requests a second.

  Args:
    url: of the endpoint.
    bodies: of the requests.
    rate: requests a second, of a Poisson process; above 0.
    draw: of the times between requests.

  Returns:
    The replies, and how many requests a second were sent.
  """
  async with client() as session:
    asked, start, due = [], time.perf_counter(), 0.0
    for body in bodies:
      # Until an absolute time, so that delays of this loop do not add up.
      await asyncio.sleep(start + due - time.perf_counter())
      asked.append(asyncio.create_task(ask(session, url, body)))
      due += draw.expovariate(rate)
    seconds = time.perf_counter() - start
    return await asyncio.gather(*asked), len(asked) / seconds


def client() -> aiohttp.ClientSession:
  """Returns a client without a limit of connections; the caller closes it."""
  return aiohttp.ClientSession(
      connector=aiohttp.TCPConnector(limit=0),
      timeout=aiohttp.ClientTimeout(total=_SECONDS),
  )
