"""What surrounds every request: its id, its log line, the size of its body."""

from collections.abc import Awaitable
from collections.abc import Callable
import json
import re
import time
from typing import Any
import uuid

import fastapi

from routing.serving import monitoring
from routing.serving import refusals
from routing.serving import tracing as tracing_lib

_ID = re.compile(r'[\w.-]{1,64}')
Scope = dict[str, Any]


class Gateway:
  """Wraps an application of the ASGI standard.

  Every request gets an id, its own or a client's. When it has ended, it has one
  line in the log, and its span ends. A body that is too large is refused before
  it is read whole.

  Args:
    app: the application.
    metrics: counts requests.
    max_body_bytes: the largest body.
    paths: the paths that metrics name; all others are 'other'.
    tracing: makes spans.
  """

  def __init__(
      self,
      app: Callable[..., Awaitable[None]],
      metrics: monitoring.Metrics,
      max_body_bytes: int,
      paths: frozenset[str],
      tracing: tracing_lib.Tracing = tracing_lib.OFF,
  ):
    self._app, self._metrics = app, metrics
    self._max_body_bytes, self._paths = max_body_bytes, paths
    self._tracing = tracing
    self._too_large = f'The body is larger than {max_body_bytes} bytes.'

  async def __call__(self, scope: Scope, receive, send) -> None:
    if scope['type'] != 'http':
      await self._app(scope, receive, send)
      return
    headers = dict(scope['headers'])
    path = scope['path'] if scope['path'] in self._paths else 'other'
    with self._tracing.request(scope['method'], path, headers) as span:
      await self._handle(scope, receive, send, headers, path, span)

  async def _handle(
      self,
      scope: Scope,
      receive,
      send,
      headers: dict[bytes, bytes],
      path: str,
      span: tracing_lib.Request,
  ) -> None:
    """Handles a request."""
    given = headers.get(b'x-request-id', b'').decode('latin-1')
    id_ = given if _ID.fullmatch(given) else uuid.uuid4().hex
    start, status, num_read = time.perf_counter(), 0, 0
    scope.setdefault('state', {}).update(request_id=id_, arrived=start)
    token = monitoring.REQUEST_ID.set(id_)

    async def limited_receive():
      nonlocal num_read
      message = await receive()
      num_read += len(message.get('body', b''))
      if num_read > self._max_body_bytes:
        # FastAPI passes this kind of error on from where it reads the body.
        raise fastapi.HTTPException(413, self._too_large)
      return message

    async def named_send(message):
      nonlocal status
      if message['type'] == 'http.response.start':
        status = message['status']
        message['headers'] = [
            *message['headers'],
            (b'x-request-id', id_.encode()),
        ]
      await send(message)

    try:
      if _length(headers) > self._max_body_bytes:
        await _refuse(413, self._too_large, named_send)
      else:
        await self._app(scope, limited_receive, named_send)
    except Exception:
      # FastAPI raises again what it has answered with 500; it is logged.
      if status != 500:
        raise
    finally:
      fields = scope['state'].get('log', {})
      span.end(status, fields)
      self._metrics.requests.labels(path, str(status)).inc()
      monitoring.log(
          'request',
          request_id=id_,
          path=path,
          method=scope['method'],
          status=status,
          seconds=round(time.perf_counter() - start, 4),
          **span.trace_id(),
          **fields,
      )
      monitoring.REQUEST_ID.reset(token)


def _length(headers: dict[bytes, bytes]) -> int:
  """Returns the length that a request says of its body; 0 if it says none."""
  text = headers.get(b'content-length', b'')
  return int(text) if text.isdigit() else 0


async def _refuse(status: int, message: str, send) -> None:
  """Refuses a request before the application sees it."""
  body = json.dumps(refusals.Refusal(status, message).body()).encode()
  await send(
      {
          'type': 'http.response.start',
          'status': status,
          'headers': [
              (b'content-type', b'application/json'),
              (b'content-length', str(len(body)).encode()),
              (b'connection', b'close'),
          ],
      }
  )
  await send({'type': 'http.response.body', 'body': body})
