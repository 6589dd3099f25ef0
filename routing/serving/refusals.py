"""Errors that a client gets, in the form and with the codes of OpenAI's API."""

from typing import Any


class Refusal(Exception):
  """An error of a request, which becomes its response.

  Args:
    status: of HTTP.
    message: for people; it never holds a key or a question.
    param: the field of the body that is at fault; None = no single one.
    code: short name of the error for programs.
    kind: OpenAI's `type`.
    retry_after: seconds after which to try again; 0 = not said.
  """

  def __init__(
      self,
      status: int,
      message: str,
      *,
      param: str | None = None,
      code: str | None = None,
      kind: str = 'invalid_request_error',
      retry_after: float = 0.0,
  ):
    super().__init__(message)
    self.status, self.message = status, message
    self.param, self.code, self.kind = param, code, kind
    self.retry_after = retry_after

  def body(self) -> dict[str, Any]:
    """Returns the body of the response."""
    return {
        'error': {
            'message': self.message,
            'type': self.kind,
            'param': self.param,
            'code': self.code,
        }
    }


def unsupported(param: str, reason: str) -> Refusal:
  """Returns the refusal of a field that this service does not support."""
  return Refusal(
      400,
      f'{param} is not supported: {reason}',
      param=param,
      code='unsupported_parameter',
  )


def invalid(param: str, message: str) -> Refusal:
  """Returns the refusal of a field's value."""
  return Refusal(400, message, param=param, code='invalid_value')


def overloaded(retry_after: float) -> Refusal:
  """Returns the refusal of a request that finds the queue full."""
  return Refusal(
      429,
      'Too many answers are waiting. Try again later.',
      code='queue_full',
      kind='rate_limit_error',
      retry_after=retry_after,
  )


def back_end_down(name: str, retry_after: float) -> Refusal:
  """Returns the refusal of a request whose back end does not answer."""
  return Refusal(
      503,
      f'The back end of the model {name!r} is not available.',
      code='back_end_down',
      kind='server_error',
      retry_after=retry_after,
  )


def changed(name: str) -> Refusal:
  """Returns the refusal of a stream whose steps turn out to be others."""
  return Refusal(
      503,
      f'The back end of the model {name!r} failed, and then wrote another '
      'answer than the one of which steps were sent. Ask again.',
      code='answer_changed',
      kind='server_error',
  )


def internal() -> Refusal:
  """Returns what a client hears of an error of our own: no detail."""
  return Refusal(
      500,
      'The server had an error. Its log has the request id.',
      code='internal_error',
      kind='server_error',
  )
