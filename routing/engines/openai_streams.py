"""Joins the chunks of a streamed reply to what a whole reply would be."""

import dataclasses
import types
from typing import Any


@dataclasses.dataclass
class _LogProbs:
  """Log-probabilities, as the client's response has them."""

  fields: dict[str, Any]

  def to_dict(self) -> dict[str, Any]:
    """Returns the fields."""
    return self.fields


class Joined:
  """The chunks of one reply so far.

  Attributes:
    num_chunks: the number of chunks with text; most servers send one per token.
  """

  def __init__(self):
    self._text, self._model = '', ''
    self._is_chat = False
    self._finish: str | None = None
    self._stopped_at: Any = None
    self._ids: list[int] = []
    self._lists: dict[str, list[Any]] = {}
    self._usage: Any = None
    self.num_chunks = 0

  @property
  def is_whole(self) -> bool:
    """Whether the server has said why the text ended."""
    return self._finish is not None

  def add(self, chunk: Any) -> str:
    """Adds a chunk of the `openai` client; returns the text that it adds."""
    self._usage = getattr(chunk, 'usage', None) or self._usage
    self._model = getattr(chunk, 'model', None) or self._model
    if not chunk.choices:  # The chunk of the usage.
      return ''
    choice = chunk.choices[0]
    delta = getattr(choice, 'delta', None)
    self._is_chat = delta is not None
    text = (choice.text if delta is None else delta.content) or ''
    self._text += text
    self.num_chunks += bool(text)
    self._finish = choice.finish_reason or self._finish
    self._stopped_at = getattr(choice, 'stop_reason', None) or self._stopped_at
    self._ids += getattr(choice, 'token_ids', None) or []
    log_probs = getattr(choice, 'logprobs', None)
    for name, values in (log_probs.to_dict() if log_probs else {}).items():
      if isinstance(values, list):
        self._lists.setdefault(name, []).extend(values)
    return text

  def response(self) -> Any:
    """Returns the response; before the end, with what is known by then.

    It has the fields that `openai_responses.read_reply` reads. Before the
    server has said what the reply has used, nothing counts as read, and a chunk
    as a token where tokens are not listed.
    """
    usage = self._usage
    if usage is None and not self.is_whole:
      usage = types.SimpleNamespace(
          prompt_tokens=0,
          completion_tokens=self.num_tokens,
          prompt_tokens_details=None,
      )
    choice = types.SimpleNamespace(
        finish_reason=self._finish or 'length',
        logprobs=_LogProbs(self._lists) if self._lists else None,
        stop_reason=self._stopped_at,
        token_ids=self._ids or None,
    )
    if self._is_chat:
      choice.message = types.SimpleNamespace(content=self._text)
    else:
      choice.text = self._text
    return types.SimpleNamespace(
        choices=[choice], usage=usage, model=self._model
    )

  @property
  def num_tokens(self) -> int:
    """The number of tokens so far, as far as the server tells."""
    for name in ('content', 'tokens'):
      if self._lists.get(name):
        return len(self._lists[name])
    return len(self._ids) or self.num_chunks
