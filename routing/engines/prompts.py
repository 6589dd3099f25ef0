"""Builds prompts: a question and a trace as one model reads them.

A trace is exchanged as text, whoever wrote it. A model that continues the text
of another model tokenizes it with its own tokenizer.
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

# Mode 'instruct' of `endpoint.MODES`: the model is asked to continue. These
# texts are part of the prompt, so changing a word changes every result.
DONE = '<done>'  # The model writes this when the answer is complete.
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
  """The methods of a fast Hugging Face tokenizer that are used here."""

  backend_tokenizer: Any

  def encode(self, text: str, **kwargs) -> list[int]:
    """Returns the ids of a text."""
    ...

  def apply_chat_template(self, messages: Sequence[Message], **kwargs) -> Any:
    """Returns the messages as the text format that the model was trained on."""
    ...


@dataclasses.dataclass(frozen=True)
class Dialogue:
  """How a problem becomes a conversation.

  system: the system message; empty = none.
  user: the user's message; '{question}' in it is replaced by the question.
  """

  system: str = ''
  user: str = '{question}'

  def __post_init__(self):
    if '{question}' not in self.user:
      raise ValueError(
          f'The user message is {self.user!r}; it must contain {{question}}, '
          'which the question replaces.'
      )

  def messages(self, question: str, trace: str = '') -> list[Message]:
    """Returns the conversation; a trace, if any, is its last message."""
    turns = [
        ('system', self.system),
        # Not str.format: questions and templates are full of braces (LaTeX).
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
    """Returns a conversation that asks a model to continue an answer.

    This is for models that cannot continue a half-written message.

    Args:
      question: the problem's text.
      trace: the answer so far; may be empty.
      to_end: True asks for the rest of the answer. False asks for one step,
        which the model ends with `DONE` if it is the last.
    """
    parts = [self.user.replace('{question}', question)]
    if trace:
      parts += [_BEGUN, trace.rstrip()]
    if trace or not to_end:
      parts.append(_ALL if to_end else _ONE)
    # The user template is already applied above; do not apply it twice.
    return dataclasses.replace(self, user='{question}').messages(
        '\n\n'.join(parts)
    )


@dataclasses.dataclass(frozen=True)
class Prompter:
  """Makes token-id prompts for one model.

  tokenizer: the model's tokenizer.
  dialogue: how the chat template is filled; None = the model has no template
    and reads the trace directly after the question.
  template: extra fields of the chat template, e.g. enable_thinking=False.
  """

  tokenizer: Tokenizer
  dialogue: Dialogue | None = None
  template: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def ids(self, question: str, trace: str = '') -> list[int]:
    """Returns `[n]` ids, after which the model writes the next token.

    The trace is tokenized separately from the template, as it was when it was
    written. Special tokens that are spelled out in it are read as plain text.
    """
    text = self.text(question, trace)
    if self.dialogue is None:
      return self._encode(text)
    # Tokenized in one piece, a template's last character could merge with the
    # first one of the trace. Every step would then miss the prefix cache.
    return [*self._head(question), *(self._encode(text) if text else ())]

  def text(self, question: str, trace: str) -> str:
    """Returns the text that is tokenized in one piece to read the trace."""
    return question + trace if self.dialogue is None else trace

  def reads(self, ids: Sequence[int], before: str, text: str) -> bool:
    """Checks whether `text`, after the text `before`, tokenizes to `ids`."""
    # `before` gives the tokenizer its left context; only the tail is compared.
    return self._encode(before + text)[-len(ids) :] == ids

  def decode_tokens(
      self, prompt: Sequence[int], ids: Sequence[int]
  ) -> list[str]:
    """Returns the text that each of `ids` adds when written after `prompt`."""
    return list(map(self.incremental_decoder(prompt), ids))

  def incremental_decoder(self, prompt: Sequence[int]) -> Callable[[int], str]:
    """Returns a function from each new token id to the text that it adds.

    A special token adds no text. If a character takes several tokens, the last
    of them adds it and the others add ''.

    Args:
      prompt: the ids that the first token is written after.
    """
    import tokenizers

    stream = tokenizers.decoders.DecodeStream(
        ids=list(prompt), skip_special_tokens=True
    )
    # Decoding ids one by one is wrong: whether a token starts with a space, or
    # completes a character, depends on the tokens before it.
    backend = self.tokenizer.backend_tokenizer
    return lambda token: stream.step(backend, token) or ''

  def _encode(self, text: str) -> list[int]:
    """Returns the ids of plain text, without any special token."""
    # A trace may quote '<|im_end|>'; as a special token it would end the turn.
    return self.tokenizer.encode(
        text, add_special_tokens=False, split_special_tokens=True
    )

  def _head(self, question: str) -> list[int]:
    """Returns the ids of the prompt up to where the answer begins."""
    text = self.tokenizer.apply_chat_template(
        self.dialogue.messages(question),
        tokenize=False,
        add_generation_prompt=True,
        **self.template,
    )
    # The template spells its special tokens itself; a second BOS would be one
    # too many. Here they must not be split, unlike in `_encode`.
    return self.tokenizer.encode(text, add_special_tokens=False)


@functools.lru_cache(maxsize=8)
def load_tokenizer(name: str | pathlib.Path) -> Tokenizer:
  """Loads a tokenizer from a directory, or by its Hugging Face hub name."""
  # Imported here, since it takes seconds and most commands need no tokenizer.
  import transformers

  return transformers.AutoTokenizer.from_pretrained(str(name))
