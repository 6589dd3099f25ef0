"""The log-probabilities of the tokens that a client gets."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from routing import types
from routing.engines import engine as engine_lib


@dataclasses.dataclass(frozen=True)
class Token:
  """A token of an answer.

  text: of the token; '' for a token that shows nothing, e.g. the last one.
  value: its log-probability.
  offset: where it begins in the text of the whole answer, in characters.
  """

  text: str
  value: float
  offset: int


def of_step(
    engine: engine_lib.Engine, step: types.Step, start: int
) -> list[Token]:
  """Returns the tokens of a step that begins at `start` in its answer.

  None of them if the writer left out the text or the log-probability of one: no
  number stands for "not known".
  """
  pieces = step.pieces
  if pieces is None:
    pieces = engine_lib.pieces(engine, step.token_ids)
  if pieces is None or len(step.log_probs) != len(pieces):
    return []
  found = []
  for piece, value in zip(pieces, step.log_probs, strict=True):
    found.append(Token(piece, float(value), start))
    start += len(piece)
  return found


def of_chat(tokens: Sequence[Token]) -> dict[str, Any]:
  """Returns tokens in the form of `/v1/chat/completions`."""
  content = [
      {
          'token': token.text,
          'logprob': token.value,
          'bytes': list(token.text.encode()),
          'top_logprobs': [],
      }
      for token in tokens
  ]
  return {'content': content, 'refusal': None}


def of_text(tokens: Sequence[Token]) -> dict[str, Any]:
  """Returns tokens in the form of `/v1/completions`."""
  return {
      'tokens': [token.text for token in tokens],
      'token_logprobs': [token.value for token in tokens],
      'top_logprobs': None,
      'text_offset': [token.offset for token in tokens],
  }
