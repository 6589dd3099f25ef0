"""Scores steps with a process reward model of the format of Qwen2.5-Math-PRM.

The model is a Qwen2 decoder with a head of two classes. Each step of the answer
is followed by a separator token, and the score of the step is the probability
of class 1 at its separator. Source: Zhang et al. 2025, arXiv 2501.07301, and
the model card of Qwen/Qwen2.5-Math-PRM-7B.
"""

from collections.abc import Sequence
import dataclasses
import gc
import json
import pathlib
import time
from typing import Any

import numpy as np
import safetensors

from routing.engines import model_files
from routing.engines import step_scorer

ARCHITECTURE = 'Qwen2ForProcessRewardModel'
SEPARATOR = '<extra_0>'
_HEAD = ('score.0.weight', 'score.0.bias', 'score.2.weight', 'score.2.bias')


@dataclasses.dataclass(frozen=True)
class Settings:
  """How a process reward model is run.

  system: system message; the default is that of the model card.
  batch_size: number of answers in one forward pass.
  max_length: longest input in tokens; 0 = the model's own limit.
  device: as in torch, e.g. 'cuda'; '' = a GPU if torch finds one.
  dtype: as in torch, e.g. 'bfloat16'; '' = as the weights are saved.
  """

  system: str = (
      'Please reason step by step, and put your final answer within \\boxed{}.'
  )
  batch_size: int = 8
  max_length: int = 0
  device: str = ''
  dtype: str = ''

  def __post_init__(self):
    if self.batch_size < 1 or self.max_length < 0:
      raise ValueError(
          f'The scorer has batch_size {self.batch_size} and max_length '
          f'{self.max_length}; allowed: 1 or more, and 0 or more.'
      )


class ProcessRewardModel:
  """A `step_scorer.StepScorer` that runs the model with `transformers`.

  No code from the model's directory is executed.

  Args:
    folder: weights and tokenizer, in the format of `transformers`.
    settings: how the model is run.

  Raises:
    ValueError: if the directory holds a model of another kind, weights are
      missing, or the tokenizer has no separator token.
  """

  def __init__(self, folder: pathlib.Path, settings: Settings = Settings()):
    import torch
    import transformers

    self._settings = settings
    _check_architecture(folder)
    self._tokenizer = _load_tokenizer(folder)
    self._separator = self._tokenizer.get_vocab().get(SEPARATOR)
    if self._separator is None:
      raise ValueError(
          f'The tokenizer in {folder} has no token {SEPARATOR!r}, at which a '
          'process reward model scores a step.'
      )
    device = settings.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    # The class is named instead of `AutoModel`, which would ask to run the code
    # that such models have on the hub.
    self._body, loaded = transformers.Qwen2Model.from_pretrained(
        folder, dtype=settings.dtype or 'auto', output_loading_info=True
    )
    if missing := sorted(loaded['missing_keys']):
      raise ValueError(
          f'{folder} lacks {len(missing)} weights of the decoder, e.g. '
          f'{missing[0]!r}.'
      )
    self._body.to(device).eval()
    self._head = [x.to(self._body.device) for x in _read_head(folder)]
    limit = self._body.config.max_position_embeddings
    self._max_length = min(settings.max_length or limit, limit)

  def score(
      self, answers: Sequence[tuple[str, Sequence[str]]]
  ) -> list[step_scorer.StepScores]:
    """See `step_scorer.StepScorer.score`.

    Raises:
      ValueError: if an answer has no step, is too long, or has the separator
        token in its text.
    """
    inputs = [self._encode(question, steps) for question, steps in answers]
    # Answers of similar length share a batch, so that little is padding.
    order = sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
    found = [None] * len(inputs)
    size = self._settings.batch_size
    for start in range(0, len(order), size):
      batch = order[start : start + size]
      for i, scores in zip(
          batch, self._score_batch([inputs[i] for i in batch]), strict=True
      ):
        found[i] = scores
    return found

  def close(self) -> None:
    """Frees the model's memory; the scorer cannot be used afterwards."""
    import torch

    del self._body, self._head
    # Otherwise the memory stays with this process, and an engine that starts
    # later on the same GPU lacks it.
    if torch.cuda.is_available():
      gc.collect()
      torch.cuda.empty_cache()

  def _encode(self, question: str, steps: Sequence[str]) -> np.ndarray:
    """Returns the token ids of an answer, up to its last separator."""
    if not steps:
      raise ValueError(f'The answer to {question!r} has 0 steps; needs 1.')
    # The delimiter between the steps is replaced by the separator.
    content = ''.join(step.strip() + SEPARATOR for step in steps)
    text = self._tokenizer.apply_chat_template(
        [
            {'role': 'system', 'content': self._settings.system},
            {'role': 'user', 'content': question},
            {'role': 'assistant', 'content': content},
        ],
        tokenize=False,
    )
    ids = self._tokenizer(text, add_special_tokens=False)['input_ids']
    ids = np.asarray(ids, np.int64)
    places = np.flatnonzero(ids == self._separator)
    if len(places) != len(steps):
      raise ValueError(
          f'The input has {len(places)} separators {SEPARATOR!r} for '
          f'{len(steps)} steps; question and steps must not contain it. '
          f'Question: {question!r}.'
      )
    # No score depends on the end of the chat template.
    ids = ids[: places[-1] + 1]
    if len(ids) > self._max_length:
      raise ValueError(
          f'The input of the scorer has {len(ids)} tokens in {len(steps)} '
          f'steps; allowed: at most {self._max_length}. Question: {question!r}.'
      )
    return ids

  def _score_batch(
      self, inputs: Sequence[np.ndarray]
  ) -> list[step_scorer.StepScores]:
    """Returns the scores of one batch of token ids."""
    start = time.monotonic()
    lengths = np.array([len(ids) for ids in inputs])
    # Padded at the end: attention is causal, so no separator sees the padding.
    padded = np.zeros((len(inputs), lengths.max()), np.int64)
    for row, ids in zip(padded, inputs, strict=True):
      row[: len(ids)] = ids
    mask = np.arange(lengths.max()) < lengths[:, None]
    rows, places = np.nonzero((padded == self._separator) & mask)
    scores = self._probabilities(padded, mask, rows, places)
    seconds = (time.monotonic() - start) / lengths.sum()
    out = []
    for row in range(len(inputs)):
      read = np.diff(places[rows == row], prepend=-1)
      out.append(
          step_scorer.StepScores(scores[rows == row], read, read * seconds)
      )
    return out

  def _probabilities(self, padded, mask, rows, places) -> np.ndarray:
    """Returns the probability of class 1 at each (row, place), float64."""
    import torch

    device = self._body.device
    with torch.inference_mode():
      hidden = self._body(
          input_ids=torch.from_numpy(padded).to(device),
          attention_mask=torch.from_numpy(mask).to(device),
          use_cache=False,
      ).last_hidden_state
      hidden = hidden[torch.from_numpy(rows), torch.from_numpy(places)]
      weight, bias, last_weight, last_bias = (
          x.to(hidden.dtype) for x in self._head
      )
      linear = torch.nn.functional.linear
      logits = linear(
          linear(hidden, weight, bias).relu(), last_weight, last_bias
      )
      probabilities = logits.double().softmax(dim=-1)[:, 1].cpu().numpy()
    if not np.isfinite(probabilities).all():
      raise FloatingPointError(
          'The scorer returned a score that is not finite.'
      )
    return probabilities


def _load_tokenizer(folder: pathlib.Path):
  """Returns the tokenizer that a directory holds.

  A class without an architecture says that `tokenizer.json` is complete;
  `AutoTokenizer` would take the class of Qwen2 instead, with other rules.
  """
  import transformers

  path = folder / 'tokenizer_config.json'
  saved = json.loads(path.read_text()) if path.exists() else {}
  complete = ('PreTrainedTokenizerFast', 'TokenizersBackend')
  if saved.get('tokenizer_class') in complete:
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder)
  return transformers.AutoTokenizer.from_pretrained(folder)


def _check_architecture(folder: pathlib.Path) -> None:
  """Raises ValueError unless the directory holds a process reward model."""
  config = json.loads((folder / 'config.json').read_text())
  found = config.get('architectures') or []
  if ARCHITECTURE not in found:
    raise ValueError(
        f'{folder} holds a model of architecture {found}; a step scorer needs '
        f'{ARCHITECTURE}, as Qwen/Qwen2.5-Math-PRM-7B has.'
    )


def _read_head(folder: pathlib.Path) -> list[Any]:
  """Returns the head's weights and biases as torch tensors, as in `_HEAD`."""
  found = {}
  for path in model_files.weight_files(folder):
    with safetensors.safe_open(path, 'pt') as tensors:
      for name in set(_HEAD) & set(tensors.keys()):
        found[name] = tensors.get_tensor(name)
  missing = [name for name in _HEAD if name not in found]
  if missing:
    raise ValueError(
        f'{folder} has no weights {", ".join(missing)}; the head of a process '
        f'reward model is {", ".join(_HEAD)}.'
    )
  if (num_classes := len(found[_HEAD[2]])) != 2:
    raise ValueError(
        f'The head in {folder} has {num_classes} classes; it must have 2.'
    )
  return [found[name] for name in _HEAD]
