"""The formats of process reward models: input, head, and what a score is.

All are Qwen2 decoders with a small head that is read at one token of each step.
"""

from collections.abc import Sequence
from typing import Any
from typing import Protocol

import numpy as np


class Format(Protocol):
  """A family of process reward models.

  architecture: its name in the model's config.json.
  head: names of the head's weights in the model's files.
  """

  architecture: str
  head: tuple[str, ...]

  def check_tokenizer(self, tokenizer: Any) -> None:
    """Raises ValueError if the tokenizer lacks a token that is needed."""
    ...

  def check_head(self, head: Sequence[Any]) -> None:
    """Raises ValueError if the head gives more or less than a score."""
    ...

  def encode(
      self, tokenizer: Any, system: str, question: str, steps: Sequence[str]
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns the model's input, and where the score of each step is read.

    Args:
      tokenizer: of the model.
      system: system message, for formats that have one.
      question: text of the question.
      steps: T texts, each without the token at which its score is read.

    Returns:
      `[n]` token ids, up to the end of the last step; `[T]` rising indices.

    Raises:
      ValueError: if the texts cannot be put in this format.
    """
    ...

  def probabilities(self, hidden: Any, head: Sequence[Any]) -> Any:
    """Returns `[M]` scores in [0, 1] from `[M, width]` last hidden states."""
    ...


class QwenMath:
  """The format of Qwen2.5-Math-PRM.

  A separator token follows each step, and a step's score is the probability of
  class 1 at its separator. Source: Zhang et al. 2025, arXiv 2501.07301, and the
  model card of Qwen/Qwen2.5-Math-PRM-7B.
  """

  architecture = 'Qwen2ForProcessRewardModel'
  head = ('score.0.weight', 'score.0.bias', 'score.2.weight', 'score.2.bias')
  separator = '<extra_0>'

  def check_tokenizer(self, tokenizer: Any) -> None:
    """See `Format.check_tokenizer`."""
    if self.separator not in tokenizer.get_vocab():
      raise ValueError(
          f'The tokenizer of the scorer has no token {self.separator!r}, at '
          'which this process reward model scores a step.'
      )

  def check_head(self, head: Sequence[Any]) -> None:
    """See `Format.check_head`."""
    if (num_classes := len(head[2])) != 2:
      raise ValueError(
          f'The head of the scorer has {num_classes} classes; it must have 2.'
      )

  def encode(
      self, tokenizer: Any, system: str, question: str, steps: Sequence[str]
  ) -> tuple[np.ndarray, np.ndarray]:
    """See `Format.encode`."""
    # The delimiter between the steps is replaced by the separator.
    content = ''.join(step.strip() + self.separator for step in steps)
    text = tokenizer.apply_chat_template(
        [
            {'role': 'system', 'content': system},
            {'role': 'user', 'content': question},
            {'role': 'assistant', 'content': content},
        ],
        tokenize=False,
    )
    ids = tokenizer(text, add_special_tokens=False)['input_ids']
    ids = np.asarray(ids, np.int64)
    places = np.flatnonzero(ids == tokenizer.get_vocab()[self.separator])
    if len(places) != len(steps):
      raise ValueError(
          f'The input has {len(places)} separators {self.separator!r} for '
          f'{len(steps)} steps; question and steps must not contain it. '
          f'Question: {question!r}.'
      )
    # No score depends on the end of the chat template.
    return ids[: places[-1] + 1], places

  def probabilities(self, hidden: Any, head: Sequence[Any]) -> Any:
    """See `Format.probabilities`."""
    import torch

    weight, bias, last_weight, last_bias = (x.to(hidden.dtype) for x in head)
    linear = torch.nn.functional.linear
    logits = linear(linear(hidden, weight, bias).relu(), last_weight, last_bias)
    return logits.double().softmax(dim=-1)[:, 1]


class SkyworkO1:
  """The format of Skywork-o1-Open-PRM.

  A line break follows each step, and a step's score is the sigmoid of a value
  head there. There is no chat template. Source: the model card of
  Skywork/Skywork-o1-Open-PRM-Qwen-2.5-7B, and its public inference code.
  """

  architecture = 'Qwen2ForPrmModel'
  head = ('v_head.summary.weight', 'v_head.summary.bias')

  def check_tokenizer(self, tokenizer: Any) -> None:
    """See `Format.check_tokenizer`."""
    if tokenizer.bos_token_id is None:
      raise ValueError(
          'The tokenizer of the scorer has no bos_token, with which the input '
          'of this process reward model begins.'
      )

  def check_head(self, head: Sequence[Any]) -> None:
    """See `Format.check_head`."""
    if (num_values := len(head[0])) != 1:
      raise ValueError(
          f'The head of the scorer has {num_values} values; it must have 1.'
      )

  def encode(
      self, tokenizer: Any, system: str, question: str, steps: Sequence[str]
  ) -> tuple[np.ndarray, np.ndarray]:
    """See `Format.encode`; there is no system message."""
    del system
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
    # Each step is tokenized alone, as in training.
    parts = [
        [tokenizer.bos_token_id, *encode(f'{question}\n')],
        *([*encode(step.strip()), *encode('\n')[-1:]] for step in steps),
    ]
    ends = np.cumsum([len(part) for part in parts])
    return np.concatenate(parts).astype(np.int64), ends[1:] - 1

  def probabilities(self, hidden: Any, head: Sequence[Any]) -> Any:
    """See `Format.probabilities`."""
    import torch

    weight, bias = head
    values = torch.nn.functional.linear(hidden.to(weight.dtype), weight, bias)
    return values[:, 0].double().sigmoid()


FORMATS: tuple[Format, ...] = (QwenMath(), SkyworkO1())


def of_architectures(found: Sequence[str], name: str) -> Format:
  """Returns the format of a model whose config.json names its architectures.

  Args:
    found: the names.
    name: of the model, for the error.

  Raises:
    ValueError: if the model is no process reward model.
  """
  for known in FORMATS:
    if known.architecture in found:
      return known
  raise ValueError(
      f'{name} holds a model of architecture {list(found)}; a step scorer '
      f'needs {" or ".join(x.architecture for x in FORMATS)}, as '
      'Qwen/Qwen2.5-Math-PRM-7B and Skywork/Skywork-o1-Open-PRM-Qwen-2.5-7B '
      'have.'
  )
