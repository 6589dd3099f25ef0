"""The routes of the service, and nothing else."""

from collections.abc import AsyncIterator
from collections.abc import Awaitable
from collections.abc import Sequence
import json
import time
from typing import Any

import fastapi
from fastapi import exceptions
from fastapi import responses
from fastapi.middleware import cors
from starlette import exceptions as starlette_exceptions

from routing.serving import answering
from routing.serving import chat_page
from routing.serving import decision as decision_lib
from routing.serving import disconnection
from routing.serving import exchange as exchange_lib
from routing.serving import gateway
from routing.serving import keys as keys_lib
from routing.serving import monitoring
from routing.serving import openai_schema
from routing.serving import points as points_lib
from routing.serving import refusals
from routing.serving import response_schema

# With options of its own, `json.dumps` would make an encoder for each call.
_DUMPS = json.JSONEncoder(allow_nan=False).encode
_CLIENT_GONE = 499  # As nginx logs it; nobody is there to receive it.


def create(
    service: answering.Service, keyring: keys_lib.Keyring
) -> gateway.Gateway:
  """Returns the application, for a server of the ASGI standard.

  Args:
    service: answers; the caller closes it.
    keyring: who may call.
  """
  app = fastapi.FastAPI(
      title='Stepwise model routing',
      # The page of FastAPI loads scripts from elsewhere; the schema stays.
      docs_url=None,
      redoc_url=None,
      # The spans are our own (`tracing`). Otherwise each request would look in
      # the environment whether OpenTelemetry is set up.
      telemetry={'tracing': False, 'metrics': False, 'logs': False},
  )
  app.state.service, app.state.keyring = service, keyring
  app.state.created = int(time.time())
  # Looked at in this order.
  routers = _paying, _counted, _known, _open
  for router in routers:
    app.include_router(router)
  app.add_exception_handler(refusals.Refusal, _refused)
  app.add_exception_handler(exceptions.RequestValidationError, _invalid)
  app.add_exception_handler(starlette_exceptions.HTTPException, _http)
  app.add_exception_handler(Exception, _refused)
  if service.settings.cors_origins:
    app.add_middleware(
        cors.CORSMiddleware,
        allow_origins=list(service.settings.cors_origins),
        allow_methods=['GET', 'POST'],
        allow_headers=['authorization', 'content-type', 'x-request-id'],
    )
  paths = frozenset(route.path for x in routers for route in x.routes)
  return gateway.Gateway(
      app,
      service.metrics,
      service.settings.max_body_bytes,
      paths,
      service.tracing,
  )


# These are coroutines, though they wait for nothing: FastAPI runs plain
# functions in threads, which takes longer than all that these do. Each router
# has one of them, since each dependency takes time at every request.
async def _know(request: fastapi.Request) -> keys_lib.Key:
  """Finds who calls; refuses who may not."""
  key = request.app.state.keyring.find(request.headers.get('authorization'))
  note(request, key=key.name)
  request.scope['state']['key'] = key
  return key


async def _count(request: fastapi.Request) -> keys_lib.Key:
  """As `_know`; refuses who calls too often, too."""
  key = await _know(request)
  request.app.state.keyring.count(key)
  return key


async def _charge(request: fastapi.Request) -> None:
  """As `_count`; refuses who has used up a budget, too."""
  key = await _count(request)
  _service(request).ledger.check(key)


def _key(request: fastapi.Request) -> keys_lib.Key:
  """Returns who calls."""
  return request.scope['state']['key']


def _service(request: fastapi.Request) -> answering.Service:
  return request.app.state.service


def note(request: fastapi.Request, **fields: Any) -> None:
  """Adds to the log line of a request."""
  request.scope['state'].setdefault('log', {}).update(fields)


_described = response_schema.described
_open = fastapi.APIRouter()
_known = fastapi.APIRouter(dependencies=[fastapi.Depends(_know)])
_counted = fastapi.APIRouter(dependencies=[fastapi.Depends(_count)])
_paying = fastapi.APIRouter(dependencies=[fastapi.Depends(_charge)])


@_open.get('/', include_in_schema=False)
async def page() -> responses.Response:
  """Returns the chat page, which holds no secret."""
  text, headers = chat_page.read()
  return responses.HTMLResponse(text, headers=headers)


@_open.get('/health', **_described(response_schema.Health))
async def health() -> dict[str, str]:
  """Says that the process lives."""
  return {'status': 'ok'}


@_open.get(
    '/ready',
    **_described(
        response_schema.Ready,
        responses={503: {'model': response_schema.Ready}},
    ),
)
async def ready(request: fastapi.Request) -> responses.Response:
  """Says whether answers can be written now, and by which models."""
  service = _service(request)
  # A back end that may be tried again counts: only a request can find out that
  # it is back, and who gets 503 here sends none.
  up = {x.name: not service.health.is_down(x.route) for x in service.engines}
  is_ready = any(up.values())
  return responses.JSONResponse(
      {'status': 'ready' if is_ready else 'not ready', 'models': up},
      200 if is_ready else 503,
  )


@_known.get('/metrics', **_described(None))
async def metrics(request: fastapi.Request) -> responses.Response:
  """Returns the metrics for Prometheus."""
  text, kind = _service(request).metrics.text()
  return responses.Response(text, media_type=kind)


@_known.get('/v1/models', **_described(response_schema.Models))
async def models(request: fastapi.Request) -> dict[str, Any]:
  """Lists the operating points, and each model alone."""
  service = _service(request)
  return {
      'object': 'list',
      'data': [_model(request, *x) for x in service.points.models()],
      'routing': {'example': service.example or None},
  }


@_known.get('/v1/models/{name:path}', **_described(response_schema.Model))
async def model(request: fastapi.Request, name: str) -> dict[str, Any]:
  """Describes one entry of the list."""
  for found, point in _service(request).points.models():
    if found == name:
      return _model(request, found, point)
  _service(request).points.choose(name)  # Refuses it, and lists which exist.
  raise refusals.Refusal(
      404, f'The list has no model {name!r}.', code='model_not_found'
  )


def _model(request: fastapi.Request, name: str, point: Any) -> dict[str, Any]:
  return {
      'id': name,
      'object': 'model',
      'created': request.app.state.created,
      'owned_by': 'stepwise-routing',
      'routing': points_lib.describe(point, _service(request).unpromised),
  }


@_paying.post(
    '/v1/chat/completions',
    **_described(response_schema.ChatCompletion, streams=True),
)
async def chat(
    request: fastapi.Request, body: openai_schema.Chat
) -> responses.Response:
  """Answers a question put as a chat."""
  return await _complete(request, body)


@_paying.post(
    '/v1/completions',
    **_described(response_schema.TextCompletion, streams=True),
)
async def completions(
    request: fastapi.Request, body: openai_schema.Completion
) -> responses.Response:
  """Answers one question or several, put as prompts."""
  return await _complete(request, body)


@_paying.post('/v1/decision', **_described(response_schema.Decided))
async def decision(
    request: fastapi.Request, body: openai_schema.Decision
) -> dict[str, Any]:
  """Decides at a trace without writing."""
  return await decision_lib.decide(_service(request), body)


@_counted.post('/v1/feedback', **_described(response_schema.Graded))
async def feedback(
    request: fastapi.Request, body: openai_schema.Feedback
) -> dict[str, Any]:
  """Takes the grade of an answer."""
  service = _service(request)
  found = await service.feedback.take(
      body.id, _key(request).name, correct=body.correct, answer=body.answer
  )
  service.metrics.feedback.labels(str(found['correct']).lower()).inc()
  return found


@_known.get('/v1/usage', **_described(response_schema.UsageOfKey))
async def usage(request: fastapi.Request) -> dict[str, Any]:
  """Returns what the caller's key has used."""
  name = _key(request).name
  used = _service(request).ledger.used(name)
  return {'object': 'usage', 'key': name, 'models': used}


async def _complete(
    request: fastapi.Request,
    body: openai_schema.Chat | openai_schema.Completion,
) -> responses.Response:
  """Answers a request for completions, as a whole or as a stream."""
  arrived = request.scope['state']['arrived']
  exchange = exchange_lib.Exchange(
      _service(request), body, _key(request), arrived
  )
  note(request, model=exchange.choice.name, id=exchange.id, user=body.user)
  if not body.stream:
    found, headers = await _or_gone(request, exchange.whole())
    note(request, cost=found['routing']['cost'], tokens=found['usage'])
    return responses.JSONResponse(found, headers=headers)
  events = exchange.events()
  try:
    # Before the status is sent: until the first step it may become an error.
    first = await _or_gone(request, anext(events))
  except BaseException:
    await events.aclose()
    raise
  return _Stream(request, first, events)


async def _or_gone(request: fastapi.Request, work: Awaitable) -> Any:
  """Returns the result of `work`; refuses it once the client has gone away."""
  try:
    return await disconnection.unless_gone(request.receive, work)
  except disconnection.ClientGone:
    _service(request).metrics.unfinished.labels('client gone').inc()
    raise starlette_exceptions.HTTPException(_CLIENT_GONE) from None


class _Stream(responses.StreamingResponse):
  """A stream of server-sent events, which ends its answers with itself."""

  def __init__(
      self,
      request: fastapi.Request,
      first: list[dict[str, Any]],
      events: AsyncIterator[list[dict[str, Any]]],
  ):
    super().__init__(
        self._lines(),
        media_type='text/event-stream',
        headers={
            'cache-control': 'no-store',
            'x-accel-buffering': 'no',  # Or a proxy would hold steps back.
            'x-routing-model': first[0]['model'],
            'x-routing-metric': _service(request).router.card.metric,
        },
    )
    self._request, self._first, self._events = request, first, events
    self._has_ended = False

  async def __call__(self, scope, receive, send) -> None:
    """Sends the stream."""
    try:
      # Starlette has a group of two tasks instead, which takes longer than a
      # decision.
      await disconnection.unless_gone(receive, self.stream_response(send))
    except disconnection.ClientGone:
      pass
    finally:
      await self._events.aclose()
      if not self._has_ended:
        _service(self._request).metrics.unfinished.labels('client gone').inc()
        note(self._request, is_cut=True)

  async def _lines(self) -> AsyncIterator[str]:
    """Yields the lines of the events."""
    try:
      chunks = self._first
      yield _text(chunks)
      async for chunks in self._events:
        yield _text(chunks)
      last = chunks[-1]
      note(self._request, cost=last['routing']['cost'], tokens=last['usage'])
    except Exception as error:
      # The status is sent already, so that the error is an event.
      refusal = _as_refusal(self._request, error)
      if refusal is error:  # Else it is counted there.
        reason = refusal.code or 'error'
        _service(self._request).metrics.unfinished.labels(reason).inc()
      yield _text([refusal.body()])
    yield 'data: [DONE]\n\n'
    self._has_ended = True


def _text(events: Sequence[dict[str, Any]]) -> str:
  """Returns server-sent events, which are sent at once."""
  return ''.join(f'data: {_DUMPS(event)}\n\n' for event in events)


def _as_refusal(request: fastapi.Request, error: Exception) -> refusals.Refusal:
  """Returns what the client hears of an error; logs what it does not."""
  if isinstance(error, refusals.Refusal):
    note(request, error=error.code or error.message)
    return error
  if 'id' in request.scope['state'].get('log', {}):  # An answer has begun.
    _service(request).metrics.unfinished.labels('error').inc()
  monitoring.log(
      'error',
      level='ERROR',
      is_error=True,
      request_id=request.scope['state']['request_id'],
  )
  return refusals.internal()


async def _refused(
    request: fastapi.Request, error: Exception
) -> responses.Response:
  """Returns the response of an error."""
  refusal = _as_refusal(request, error)
  headers = {}
  if refusal.retry_after:
    headers['retry-after'] = str(round(refusal.retry_after))
  if refusal.status == 401:
    headers['www-authenticate'] = 'Bearer'
  return responses.JSONResponse(refusal.body(), refusal.status, headers)


async def _invalid(
    request: fastapi.Request, error: exceptions.RequestValidationError
) -> responses.Response:
  """Returns the response to a body that is not as the schema says."""
  first = error.errors()[0]
  # The place begins with 'body'; of a union it also names the branch.
  place = '.'.join(map(str, first['loc'][1:])) or None
  message = f'{place or "The body"}: {first["msg"]}'
  if first['type'] == 'json_invalid':  # Its place is a number of characters.
    why = first['ctx']['error']
    message = f'The body is no valid JSON: {why}, at character {place}.'
    place = None
  return await _refused(
      request,
      refusals.Refusal(400, message, param=place, code='invalid_value'),
  )


async def _http(
    request: fastapi.Request, error: starlette_exceptions.HTTPException
) -> responses.Response:
  """Returns the response to a path or a method that does not exist."""
  return await _refused(
      request, refusals.Refusal(error.status_code, str(error.detail))
  )
