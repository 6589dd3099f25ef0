"""Says what a failed request to an OpenAI-compatible server means."""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import datetime
import email.utils
import json

from routing.engines import engine as engine_lib

# HTTP status codes after which the same request may succeed later: time-out,
# conflict, "too early" and rate limit. All codes from 500 on count as well.
_RETRIABLE = (408, 409, 425, 429)
# HTTP status codes of a proxy that gave up waiting for the server behind it,
# which may still have answered, and bill it.
_TIMED_OUT = (504, 524)
# Errors of the client's HTTP library if a request was not sent. Which library
# it is depends on the client's version, so they are told by their names.
_NOT_SENT = ('ConnectError', 'ConnectTimeout', 'PoolTimeout')
# The HTTP libraries that the client uses, by its version.
_TRANSPORTS = ('httpx', 'httpx2', 'httpcore', 'httpcore2')
# HTTP status codes of a wrong key, an empty account, a key without rights and a
# wrong model name, after which no request works.
_PERMANENT = (401, 402, 403, 404)


@contextlib.contextmanager
def raised(name: str) -> Iterator[None]:
  """Raises the errors of a client's request as errors of an engine.

  Args:
    name: the engine's name, for the message.

  Raises:
    engine_lib.Unavailable, Refused, Stop: see `read_fault`.
  """
  import openai

  try:
    yield
  # The client raises JSONDecodeError, not an error of its own, if the body is
  # not JSON, e.g. a proxy's error page.
  except (openai.APIError, json.JSONDecodeError) as error:
    raise read_fault(error, name) from error
  except Exception as error:
    # While a reply is streamed, errors of its HTTP library come as they are.
    if type(error).__module__.partition('.')[0] not in _TRANSPORTS:
      raise
    raise read_fault(error, name) from error


def read_fault(error: Exception, name: str) -> Exception:
  """Returns the engine error for a failed request.

  Args:
    error: the error of the `openai` client.
    name: the engine's name, for the message.

  Returns:
    `engine.Unavailable`, `Refused` or `Stop`.
  """
  import openai

  # An error without an HTTP status: the connection failed or timed out, or the
  # body was not JSON. Unless no connection was made, the server may have worked
  # on the request.
  if not isinstance(error, openai.APIStatusError):
    return engine_lib.Unavailable(
        f'{name}: {type(error).__name__}: {error}',
        may_be_billed=type(error.__cause__).__name__ not in _NOT_SENT,
    )
  status = error.status_code
  message = f'{name}: HTTP {status}: {error.message}'
  # An exhausted quota has status 429, like a rate limit, but waiting does not
  # help.
  refused = engine_lib.Refused(message)
  refused.is_quoted = True
  if status == 403 and _is_flagged(error.body):
    return refused
  if status in _PERMANENT or error.code == 'insufficient_quota':
    return engine_lib.Stop(message)
  if status in _RETRIABLE or status >= 500:
    return engine_lib.Unavailable(
        message,
        retry_after(error.response.headers),
        may_be_billed=status in _TIMED_OUT,
    )
  return refused


def _is_flagged(body: object) -> bool:
  """Returns whether a moderator refused this one question.

  OpenRouter says so with status 403, and names the reasons.
  """
  metadata = body.get('metadata') if isinstance(body, dict) else None
  return isinstance(metadata, dict) and 'reasons' in metadata


def retry_after(headers: Mapping[str, str]) -> float:
  """Returns the seconds that a server asks clients to wait; 0 = not given.

  Args:
    headers: the header fields of the server's response.

  Source: RFC 9110, section 10.2.3, for `retry-after`, in seconds or as a date;
  `retry-after-ms` is OpenAI's extension.
  """
  value = headers.get('retry-after', '')
  try:
    if 'retry-after-ms' in headers:
      return max(float(headers['retry-after-ms']) / 1_000, 0.0)
    return max(float(value), 0.0)
  except ValueError:
    pass  # The value is a date or empty.
  try:
    then = email.utils.parsedate_to_datetime(value)
  except ValueError:
    return 0.0
  now = datetime.datetime.now(datetime.UTC)
  return max((then - now).total_seconds(), 0.0)
