"""Serves any engine on loopback with OpenAI's protocol, for tests.

With `is_vllm` it behaves as vLLM's server does, silent cuts and ignored fields
included. Without it, it behaves like plain servers: these leave the stop string
out and do not report why they stopped.
"""

import asyncio
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import json
import socket
import threading
import time
from typing import Any
import uuid

import fastapi
from fastapi import responses
import uvicorn

from routing.engines import engine as engine_lib
from tests import sessions as sessions_lib


@dataclasses.dataclass
class Model:
  """The model that the server serves.

  engine: writes the text.
  decode: returns the text of one token.
  split: splits a prompt's text into question and trace.
  can_stop: the engine stops at the delimiter by itself; otherwise its text is
    cut there.
  is_vllm: see the module.
  max_length: maximum tokens of prompt and answer; 0 = no limit.
  requests: the bodies of all requests.
  num_cancelled: number of requests that ended because their client had gone.
  hold: a stream stops before the token of this number, until `is_free` is set.
  is_free: see `hold`.
  is_held: whether a stream has stopped there.
  """

  engine: engine_lib.Engine
  decode: Callable[[int], str] = chr
  split: Callable[[str], tuple[str, str]] = lambda prompt: ('', prompt)
  can_stop: bool = False
  is_vllm: bool = True
  max_length: int = 0
  requests: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  num_cancelled: int = 0
  hold: int | None = None
  is_free: threading.Event = dataclasses.field(default_factory=threading.Event)
  is_held: bool = False

  def __post_init__(self):
    # A session for each question and cache salt.
    self.sessions = sessions_lib.Sessions(self.engine)

  async def say(self, question: str, trace: str, body: dict) -> dict[str, Any]:
    """Writes as `body` requests; returns the fields of choice and usage."""
    stop = (body.get('stop') or [None])[0]
    limit = body.get('max_tokens') or 16
    salt = body.get('cache_salt') or uuid.uuid4().hex
    if len(salt) > 128 or set(salt) & set('@/\\\0'):
      raise fastapi.HTTPException(400, 'The salt is too long or not plain.')
    if self.max_length:
      num_read = self.engine.count_tokens(question, trace)
      if num_read >= self.max_length:
        raise fastapi.HTTPException(400, 'The prompt is too long.')
      limit = min(limit, self.max_length - num_read)  # Silently, as vLLM does.
    # Sessions stay open: a server does not know which request is the last.
    steps = await self.sessions[question, salt].write(
        engine_lib.Request(
            trace=trace,
            to_end=not self.can_stop or stop is None,
            max_tokens=limit,
            temperature=body.get('temperature', 1.0),
            seed=body.get('seed') or 0,
        )
    )
    ids = [i for step in steps for i in step.token_ids]
    own = [float(x) for step in steps for x in step.log_probs]
    tops = [row.tolist() for step in steps for row in step.top_log_probs]
    count, text, at_stop = self._cut(ids, stop)
    has_ended = steps[-1].is_final and not at_stop
    if at_stop and not (
        self.is_vllm and body.get('include_stop_str_in_output')
    ):
      text = text.removesuffix(stop)
    first = steps[0].usage
    return {
        'ids': ids[:count],
        'own': own[:count],
        'tops': tops[:count],
        'text': text,
        'finish': 'stop' if at_stop or has_ended else 'length',
        'stopped_at': stop if at_stop else None,
        'read': first.read + first.cached,
        'cached': first.cached,
    }

  def _cut(self, ids, stop) -> tuple[int, str, bool]:
    """Returns the tokens up to the stop, their text, and if it was met."""
    text = ''
    for count, i in enumerate(ids, 1):
      text += self.decode(i)
      if stop is not None and stop in text:
        return count, text[: text.index(stop) + len(stop)], True
    return len(ids), text, False

  def token(self, i: int, body: dict) -> str:
    """Returns a token's name among the log-probabilities."""
    by_id = self.is_vllm and body.get('return_tokens_as_token_ids')
    return f'token_id:{i}' if by_id else self.decode(i)


def _choice(model: Model, said: dict, body: dict) -> dict[str, Any]:
  """Returns the fields of a choice that both kinds of response have."""
  choice = {'index': 0, 'finish_reason': said['finish'], 'logprobs': None}
  if model.is_vllm:
    choice['stop_reason'] = said['stopped_at']
    if body.get('return_token_ids'):
      choice['token_ids'] = said['ids']
  return choice


def _response(kind: str, said: dict, choice: dict) -> dict[str, Any]:
  """Returns a whole response."""
  num_written = len(said['ids'])
  return {
      'id': uuid.uuid4().hex,
      'object': kind,
      'created': int(time.time()),
      'model': 'm',
      'choices': [choice],
      'ids': said['ids'],  # For streams.
      'usage': {
          'prompt_tokens': said['read'],
          'completion_tokens': num_written,
          'total_tokens': said['read'] + num_written,
          'prompt_tokens_details': {'cached_tokens': said['cached']},
      },
  }


def _check(body: dict) -> None:
  """Raises the errors that vLLM's server raises."""
  if body.get('model') != 'm':
    raise fastapi.HTTPException(404, 'No such model.')
  if body.get('temperature', 1.0) < 0:
    raise fastapi.HTTPException(400, 'temperature must be non-negative.')


async def _complete(model: Model, body: dict) -> dict[str, Any]:
  """Responds to a completion request."""
  prompt = body['prompt']
  if not isinstance(prompt, str):
    prompt = ''.join(map(model.decode, prompt))
  said = await model.say(*model.split(prompt), body)
  choice = _choice(model, said, body)
  choice['text'] = said['text']
  if body.get('logprobs') is not None:
    choice['logprobs'] = {
        'tokens': [model.token(i, body) for i in said['ids']],
        'token_logprobs': said['own'],
        'top_logprobs': [
            {f'token_id:{j}': x for j, x in enumerate(row[: body['logprobs']])}
            for row in said['tops']
        ],
        'text_offset': [],
    }
  return _response('text_completion', said, choice)


async def _chat(model: Model, body: dict) -> dict[str, Any]:
  """Responds to a chat request."""
  *_, last = messages = body['messages']
  continues = last['role'] == 'assistant'
  asked = messages[-2] if continues else last
  if continues and model.is_vllm and not body.get('continue_final_message'):
    raise fastapi.HTTPException(400, 'The last message is the assistant.')
  trace = last['content'] if continues else ''
  said = await model.say(asked['content'], trace, body)
  choice = _choice(model, said, body)
  choice['message'] = {'role': 'assistant', 'content': said['text']}
  if body.get('logprobs'):
    rows = zip(said['ids'], said['own'], said['tops'], strict=True)
    choice['logprobs'] = {
        'content': [
            {
                'token': model.token(i, body),
                'logprob': own,
                'top_logprobs': [
                    {'token': str(j), 'logprob': x}
                    for j, x in enumerate(row[: body['top_logprobs']])
                ],
            }
            for i, own, row in rows
        ]
    }
  return _response('chat.completion', said, choice)


async def _chunks(model: Model, whole: dict, body: dict):
  """Yields the lines of a stream with a chunk for each token of a response."""
  (choice,) = whole['choices']
  is_chat = 'message' in choice
  text = choice['message']['content'] if is_chat else choice['text']
  ids, log_probs = whole.pop('ids'), choice['logprobs'] or {}
  try:
    for i, token in enumerate(ids):
      while i == model.hold and not model.is_free.is_set():
        model.is_held = True
        await asyncio.sleep(0.005)
      is_last = i == len(ids) - 1
      piece = text if is_last else text[: len(model.decode(token))]
      text = text[len(piece) :]
      one = choice | {
          'finish_reason': choice['finish_reason'] if is_last else None,
          'logprobs': {k: v[i : i + 1] for k, v in log_probs.items()} or None,
      }
      if 'token_ids' in choice:
        one['token_ids'] = [token]
      if model.is_vllm:
        one['stop_reason'] = choice['stop_reason'] if is_last else None
      one |= {'delta': {'content': piece}} if is_chat else {'text': piece}
      yield _line(whole | {'choices': [one], 'usage': None})
  except asyncio.CancelledError:
    model.num_cancelled += 1
    raise
  if body['stream_options']['include_usage']:
    yield _line(whole | {'choices': []})
  yield 'data: [DONE]\n\n'


def _line(chunk: dict) -> str:
  return f'data: {json.dumps(chunk)}\n\n'


async def _is_gone(request: fastapi.Request) -> None:
  """Waits until the client has closed the connection."""
  while (await request.receive())['type'] != 'http.disconnect':
    pass


def make_app(model: Model) -> fastapi.FastAPI:
  """Returns the server's application."""
  app = fastapi.FastAPI()
  kinds = {'completions': _complete, 'chat/completions': _chat}

  @app.post('/v1/{kind:path}')
  async def write(kind: str, request: fastapi.Request):
    body = await request.json()
    _check(body)
    model.requests.append(body)
    # As in vLLM's server, a request ends when its client closes the connection.
    writing = asyncio.create_task(kinds[kind](model, body))
    gone = asyncio.create_task(_is_gone(request))
    await asyncio.wait({writing, gone}, return_when='FIRST_COMPLETED')
    if not writing.done():
      model.num_cancelled += 1
      writing.cancel()
    gone.cancel()
    whole = await writing
    if body.get('stream'):
      return responses.StreamingResponse(_chunks(model, whole, body))
    del whole['ids']
    return whole

  @app.exception_handler(fastapi.HTTPException)
  async def refuse(request: fastapi.Request, error: fastapi.HTTPException):
    del request
    return responses.JSONResponse(
        {'error': {'message': error.detail, 'code': error.status_code}},
        error.status_code,
        error.headers,
    )

  return app


@contextlib.contextmanager
def serve(app) -> Iterator[str]:
  """Serves `app` from a thread; yields the base URL of its API."""
  listener = socket.create_server(('127.0.0.1', 0))
  server = uvicorn.Server(
      uvicorn.Config(app, log_level='critical', lifespan='off')
  )
  thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
  thread.start()
  try:
    yield f'http://127.0.0.1:{listener.getsockname()[1]}/v1'
  finally:
    server.should_exit = True
    thread.join()
    listener.close()
