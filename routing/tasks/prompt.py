"""Defines how a question is put to a model, as messages or as plain text."""

from collections.abc import Sequence
import dataclasses

Message = dict[str, str]


class Plain(str):
  """A text that is put to a model as it is, in place of a question.

  No system message and no solved example stand before it: it is no problem of
  the task, e.g. it asks for a judgement.
  """

  __slots__ = ()


@dataclasses.dataclass(frozen=True)
class Prompt:
  """How a question is put to a model.

  user: the user's message, in which '{question}' stands for the question.
  system: the system message; '' = none.
  shots: solved examples, (question, answer) each, shown as earlier turns.
  is_chat: True = the messages fill the model's chat template. False = they are
    joined by blank lines to one text, which the model continues: for models
    without a chat template.
  """

  user: str = '{question}'
  system: str = ''
  shots: Sequence[tuple[str, str]] = ()
  is_chat: bool = True

  def __post_init__(self):
    if '{question}' not in self.user:
      raise ValueError(
          f'The user message is {self.user!r}; it must contain {{question}}, '
          "which is replaced by the problem's text."
      )
    for shot in self.shots:
      if len(shot) != 2:
        raise ValueError(
            f'A solved example is {shot!r}; it must be (question, answer).'
        )

  def asked(self, question: str) -> str:
    """Returns the user's message for a question."""
    if isinstance(question, Plain):
      return str(question)
    # str.format would fail on the braces of LaTeX, which are common in
    # questions and templates.
    return self.user.replace('{question}', question)

  def messages(self, question: str, trace: str = '') -> list[Message]:
    """Returns the conversation up to the end of the trace.

    A trace that is not empty becomes the last message, in the role of the
    assistant; the model is to continue this message.
    """
    is_plain = isinstance(question, Plain)
    turns = [('system', self.system)] if self.system and not is_plain else []
    for shown, answer in () if is_plain else self.shots:
      turns += [('user', self.asked(shown)), ('assistant', answer)]
    turns.append(('user', self.asked(question)))
    if trace:
      turns.append(('assistant', trace))
    return [{'role': role, 'content': text} for role, text in turns]

  def text(self, question: str) -> str:
    """Returns the conversation as one text, which an answer continues.

    Without a system message and examples, it is the user's message alone.
    """
    if isinstance(question, Plain):
      return str(question)
    earlier = [self.system] if self.system else []
    for shown, answer in self.shots:
      earlier += [self.asked(shown), answer]
    return '\n\n'.join([*earlier, self.asked(question)])
