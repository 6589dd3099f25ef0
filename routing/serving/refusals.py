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
    self.status, self.message = status, _encodable(message)
    self.param = None if param is None else _encodable(param)
    self.code, self.kind = code, kind
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


def check_question(text: str, most: int, param: str) -> None:
  """Raises the refusal of a question that is too long, or no text.

  Args:
    text: the question.
    most: largest number of characters.
    param: the field of the body that holds it.
  """
  if not text or len(text) > most:
    raise invalid(
        param,
        f'The question has {len(text)} characters; allowed: 1 to {most}.',
    )
  # JSON can write half of a character, which no encoding has.
  if _encodable(text) != text:
    raise invalid(param, 'The question has a character that is no Unicode.')


def _encodable(text: str) -> str:
  """Returns a text with '?' for each half of a character."""
  return text.encode(errors='replace').decode()


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


def internal() -> Refusal:
  """Returns what a client hears of an error of our own: no detail."""
  return Refusal(
      500,
      'The server had an error. Its log has the request id.',
      code='internal_error',
      kind='server_error',
  )
