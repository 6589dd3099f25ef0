"""Builds the prompt of one model from a question and the trace so far.

Models exchange traces as text. A model that continues the text of another model
tokenizes the text with its own tokenizer.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import os.path
import pathlib
import re
from typing import Any
from typing import Protocol

from routing import types
from routing.tasks import prompt as prompt_lib

# Texts for the mode 'instruct' of `endpoint.MODES`, in which a model is asked
# to continue an answer. They are part of the prompt, so changing a word changes
# every result of that mode.
DONE = '<done>'  # The model writes this mark when the answer is complete.
_BEGUN = 'This is how the solution begins:'
_ALL = (
    'Go on from there to the end of the solution, in the same manner. '
    'Separate steps by {}s. Repeat nothing of what is there already.'
)
_ONE = (
    'Write only the next step of the solution, and end it with a {}. '
    'Repeat nothing of what is there already. If nothing is left to be written '
    f'after it, end with {DONE} instead.'
)
_DELIMITERS = {types.DELIMITER: 'blank line', '\n': 'line break'}  # In words.

# A chat template may begin the model's thought itself.
_OPENED = re.compile(r'<think>\s*\Z')


class Tokenizer(Protocol):
  """The methods of a fast Hugging Face tokenizer that are used here."""

  backend_tokenizer: Any

  def encode(self, text: str, **kwargs) -> list[int]:
    """Returns the token ids of a text."""
    ...

  def apply_chat_template(
      self, messages: Sequence[prompt_lib.Message], **kwargs
  ) -> Any:
    """Returns the messages as the text format that the model was trained on."""
    ...


def instruct(
    prompt: prompt_lib.Prompt,
    question: str,
    trace: str,
    *,
    to_end: bool,
    delimiter: str = types.DELIMITER,
) -> list[prompt_lib.Message]:
  """Returns a conversation that asks a model to continue an answer.

  This is for models that cannot continue a half-written message.

  Args:
    prompt: how the question is put.
    question: the problem's text.
    trace: the answer so far; may be empty.
    to_end: True asks for the rest of the answer. False asks for one step, which
      the model ends with `DONE` if it is the last.
    delimiter: the text that ends a step.
  """
  parts = [prompt.asked(question)]
  if trace:
    parts += [_BEGUN, trace.rstrip()]
  if trace or not to_end:
    asked = _ALL if to_end else _ONE
    parts.append(asked.format(_DELIMITERS.get(delimiter, repr(delimiter))))
  *earlier, last = prompt.messages(question)
  return [*earlier, {**last, 'content': '\n\n'.join(parts)}]


@dataclasses.dataclass(frozen=True)
class Prompter:
  """Builds prompts as token ids of one model, and decodes what it writes.

  tokenizer: the model's tokenizer.
  prompt: how the question is put; by default as it is, as plain text.
  template: extra arguments of the chat template, e.g. enable_thinking=False.
  """

  tokenizer: Tokenizer
  prompt: prompt_lib.Prompt = prompt_lib.Prompt(is_chat=False)
  template: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def ids(self, question: str, trace: str = '') -> list[int]:
    """Returns the prompt's `n` token ids, which the model continues.

    The trace is tokenized separately from the chat template, because it was
    written so: a written token never merges with the template's last token. A
    special token that is spelled out in the trace is read as plain text.
    """
    text = self.text(question, trace)
    if not self.prompt.is_chat:
      return [*self._beginning(), *self._encode(text)]
    # If template and trace were tokenized in one piece, the template's last
    # character could merge with the trace's first one into one token. The next
    # prompt would then differ from the cached one, and miss the prefix cache.
    head = self._fill(self.prompt.messages(question), True)
    if trace and not trace.startswith(self.opening):
      # Another model began the answer, and not with a thought.
      head = head.removesuffix(self.opening)
    # The template's text already contains its special tokens, so none is added;
    # otherwise the prompt would begin with two BOS tokens. Unlike in `_encode`,
    # special tokens that are spelled out are meant as such, and are not split.
    return [
        *self.tokenizer.encode(head, add_special_tokens=False),
        *(self._encode(text) if text else ()),
    ]

  @functools.cached_property
  def opening(self) -> str:
    r"""The beginning of an answer that the chat template itself writes.

    It is '<think>\n' or the like for models that are made to think, and ''
    for others. It belongs to the text of the answer, as other models read it,
    but is no written token.
    """
    if not self.prompt.is_chat:
      return ''
    opened = _OPENED.search(self._fill(self.prompt.messages('?'), True))
    return opened[0] if opened else ''

  def keeps_thought(self, question: str, trace: str) -> bool:
    """Checks whether the chat template shows a model the thoughts in a trace.

    It matters where a server fills the template with the trace as the last
    message: some templates drop thoughts from messages, or add an empty one.
    """
    try:
      shown = self._fill(self.prompt.messages(question, trace), False)
    except ValueError:  # The last message is not in the filled template.
      return False
    head = self._fill(self.prompt.messages(question), True)
    return 'think>' not in head + shown + trace or shown in (
        head + trace.removeprefix(self.opening),
        head.removesuffix(self.opening) + trace,
    )

  def check_template(self, *, continues: bool = False) -> None:
    """Checks that the chat template shows the model the whole conversation.

    Args:
      continues: True = a server fills the template with the answer so far as
        well, as its last message; `ids` itself appends the answer unchanged.

    Raises:
      ValueError: if the template refuses the conversation, loses a message, or
        loses the blank line at the end of the answer so far.
    """
    if not self.prompt.is_chat:
      return
    question, trace = 'a question?', f'A step.{types.DELIMITER}'
    text = self._fill(self.prompt.messages(question), True)
    # Templates may trim messages; models are trained on messages so trimmed.
    for message in self.prompt.messages(question):
      if message['content'].strip() not in text:
        raise ValueError(
            f'The chat template loses the message {message!r}; use another '
            'template, or a prompt without such a message.'
        )
    if not continues:
      return
    text = self._fill(self.prompt.messages(question, trace), False)
    if not text.endswith(trace):
      raise ValueError(
          'The chat template loses the blank line at the end of the answer so '
          f'far: the prompt ends with {text[-20:]!r}, not {trace!r}. Use the '
          "endpoint's mode 'completions', which sends token ids, or set its "
          'trims_end to True.'
      )

  def num_shared(self) -> int:
    """Returns the number of tokens with which all prompts begin.

    They are those of the system message and the solved examples.
    """
    # The first token of a question may merge with the text before it, so
    # questions are tried that begin with different kinds of characters.
    prompts = [self.ids(question) for question in ('a', '1', '(', ' a', '\n')]
    return len(os.path.commonprefix(prompts))

  def text(self, question: str, trace: str) -> str:
    """Returns the part of the prompt that is tokenized as one plain text.

    It is the trace, preceded by the question if there is no chat template, and
    without the beginning that the template itself writes.
    """
    if self.prompt.is_chat:
      return trace.removeprefix(self.opening)
    return self.prompt.text(question) + trace

  def reads(self, ids: Sequence[int], before: str, text: str) -> bool:
    """Checks whether `text` tokenizes to `ids` if it follows `before`.

    Args:
      ids: the token ids that a model wrote for `text`.
      before: the text to the left, which may decide how `text` is split.
      text: the text to tokenize.
    """
    # Only the last len(ids) tokens belong to `text`.
    return self._encode(before + text)[-len(ids) :] == ids

  def decode_tokens(
      self, prompt: Sequence[int], ids: Sequence[int]
  ) -> list[str]:
    """Returns one string per token: the text that it adds after `prompt`.

    Args:
      prompt: the token ids before the first of `ids`.
      ids: the new token ids, in the order in which the model wrote them.
    """
    return list(map(self.incremental_decoder(prompt), ids))

  def incremental_decoder(self, prompt: Sequence[int]) -> Callable[[int], str]:
    """Returns a function that decodes the tokens after `prompt` one by one.

    The function takes the next token id and returns the text that this token
    adds. A special token adds no text. If a character consists of several
    tokens, the last of these tokens adds the character and the others add ''.

    Args:
      prompt: the token ids before the first new token.
    """
    import tokenizers

    stream = tokenizers.decoders.DecodeStream(
        ids=list(prompt), skip_special_tokens=True
    )
    # Decoding each id by itself would be wrong: whether a token starts with a
    # space, or completes a character, depends on the tokens before this token.
    backend = self.tokenizer.backend_tokenizer
    return lambda token: stream.step(backend, token) or ''

  def _encode(self, text: str) -> list[int]:
    """Returns the token ids of plain text, without any special token."""
    # A trace may quote '<|im_end|>'. Read as a special token, this string would
    # end the assistant's message.
    return self.tokenizer.encode(
        text, add_special_tokens=False, split_special_tokens=True
    )

  def _beginning(self) -> list[int]:
    """Returns the BOS token, if the tokenizer puts one before plain texts."""
    first = self.tokenizer.encode('')[:1]
    if first and first[0] == self.tokenizer.bos_token_id:
      return first
    return []

  def _fill(self, messages: Sequence[prompt_lib.Message], begins: bool) -> str:
    """Returns the chat template filled with messages.

    Args:
      messages: the conversation.
      begins: True = the answer begins after it; False = the last message is the
        beginning of the answer.

    Raises:
      ValueError: if the template refuses the conversation.
    """
    import jinja2

    try:
      return self.tokenizer.apply_chat_template(
          messages,
          tokenize=False,
          add_generation_prompt=begins,
          continue_final_message=not begins,
          **self.template,
      )
    except (jinja2.TemplateError, ValueError) as error:
      roles = ', '.join(message['role'] for message in messages)
      raise ValueError(
          f'The chat template refuses a conversation of {roles}: {error}. If '
          "it allows no system message, write the text to the user's; if there "
          'is no template, set prompt.is_chat to False.'
      ) from error


@functools.lru_cache(maxsize=8)
def load_tokenizer(name: str | pathlib.Path) -> Tokenizer:
  """Loads a tokenizer from a directory, or by its name on the Hugging Face hub.

  The latest eight tokenizers are kept in memory.
  """
  # The import takes seconds, and most commands need no tokenizer.
  import transformers

  return transformers.AutoTokenizer.from_pretrained(str(name))
