"""Prompts: question and trace as one model reads them.

The text of a trace is the truth, whoever wrote it. A model that goes on with
what another wrote reads that text in tokens of its own.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import pathlib
from typing import Any
from typing import Protocol

Message = dict[str, str]

DONE = '<done>'  # The fallback's sign that the answer is complete.
_BEGUN = 'This is how the solution begins:'
_ALL = (
    'Go on from there to the end of the solution, in the same manner. '
    'Separate steps by blank lines. Repeat nothing of what is there already.'
)
_ONE = (
    'Write only the next step of the solution, and end it with a blank line. '
    'Repeat nothing of what is there already. If nothing is left to be written '
    f'after it, end with {DONE} instead.'
)


class Tokenizer(Protocol):
  """What is used of a fast Hugging Face tokenizer."""

  backend_tokenizer: Any

  def encode(self, text: str, **kwargs) -> list[int]:
    """Text to ids."""
    ...

  def apply_chat_template(self, messages: Sequence[Message], **kwargs) -> Any:
    """Messages to the text that the model was trained on."""
    ...


@dataclasses.dataclass(frozen=True)
class Dialogue:
  """A problem as a conversation.

  system: the system message; empty = none.
  user: the user's message; '{question}' in it becomes the question.
  """

  system: str = ''
  user: str = '{question}'

  def __post_init__(self):
    if '{question}' not in self.user:
      raise ValueError(
          f'The user message is {self.user!r}; it must hold {{question}}.'
      )

  def messages(self, question: str, trace: str = '') -> list[Message]:
    """The conversation, with the answer so far, if any, in its last message."""
    turns = [
        ('system', self.system),
        ('user', self.user.replace('{question}', question)),
        ('assistant', trace),
    ]
    return [
        {'role': role, 'content': text}
        for role, text in turns
        if text or role == 'user'
    ]

  def instruct(
      self, question: str, trace: str, *, to_end: bool
  ) -> list[Message]:
    """For a model that cannot go on from a half-written answer: it is asked to.

    Args:
      question: the problem's text.
      trace: the answer so far; may be empty.
      to_end: True asks for the rest, False for one step, which ends with `DONE`
        if it is the last.
    """
    parts = [self.user.replace('{question}', question)]
    if trace:
      parts += [_BEGUN, trace.rstrip()]
    if trace or not to_end:
      parts.append(_ALL if to_end else _ONE)
    return dataclasses.replace(self, user='{question}').messages(
        '\n\n'.join(parts)
    )


@dataclasses.dataclass(frozen=True)
class Prompter:
  """Token-id prompts for one model.

  tokenizer: of the model.
  dialogue: how its chat template is filled; None = it has none, and reads the
    question and, right after it, the trace.
  template: further fields of the chat template, e.g. enable_thinking=False.
  """

  tokenizer: Tokenizer
  dialogue: Dialogue | None = None
  template: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def ids(self, question: str, trace: str = '') -> list[int]:
    """`[n]` ids after which the model writes the next token of the answer.

    The trace is cut into tokens on its own, as it was when it was written, and
    special tokens that it spells are read as plain text.
    """
    text = self.text(question, trace)
    if self.dialogue is None:
      return self._encode(text)
    return [*self._head(question), *(self._encode(text) if text else ())]

  def text(self, question: str, trace: str) -> str:
    """What is cut into tokens in one piece when the trace is read."""
    return question + trace if self.dialogue is None else trace

  def reads(self, ids: Sequence[int], before: str, text: str) -> bool:
    """Whether `text`, right after the text `before`, is read as just `ids`."""
    return self._encode(before + text)[-len(ids) :] == ids

  def decode_tokens(
      self, prompt: Sequence[int], ids: Sequence[int]
  ) -> list[str]:
    """What each of `ids` adds to the text when it is written after `prompt`."""
    return list(map(self.incremental_decoder(prompt), ids))

  def incremental_decoder(self, prompt: Sequence[int]) -> Callable[[int], str]:
    """Tells of one token after the other what it adds to the text.

    A special token adds nothing, and neither does the first half of a
    character; the second half adds it all.

    Args:
      prompt: what the first token is written after.
    """
    import tokenizers

    stream = tokenizers.decoders.DecodeStream(
        ids=list(prompt), skip_special_tokens=True
    )
    backend = self.tokenizer.backend_tokenizer
    return lambda token: stream.step(backend, token) or ''

  def _encode(self, text: str) -> list[int]:
    return self.tokenizer.encode(
        text, add_special_tokens=False, split_special_tokens=True
    )

  def _head(self, question: str) -> list[int]:
    """The ids before the answer."""
    text = self.tokenizer.apply_chat_template(
        self.dialogue.messages(question),
        tokenize=False,
        add_generation_prompt=True,
        **self.template,
    )
    return self.tokenizer.encode(text, add_special_tokens=False)


@functools.lru_cache(maxsize=8)
def load_tokenizer(name: str | pathlib.Path) -> Tokenizer:
  """The tokenizer of a directory, or of a name on the Hugging Face hub."""
  import transformers

  return transformers.AutoTokenizer.from_pretrained(str(name))
