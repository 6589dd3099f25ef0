"""Scores steps with a process reward model, which `transformers` runs.

The models are those of `reward_formats`. They judge each step from the question
and the steps before it.
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
from routing.engines import reward_formats
from routing.engines import step_scorer


@dataclasses.dataclass(frozen=True)
class Settings:
  """How a process reward model is run.

  system: system message; the default is that of Qwen2.5-Math-PRM's model card.
    Other formats have none.
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
      missing, or the tokenizer lacks a token of the model's format.
  """

  def __init__(self, folder: pathlib.Path, settings: Settings = Settings()):
    import torch
    import transformers

    self._settings = settings
    self._format = _format_of(folder)
    self._tokenizer = _load_tokenizer(folder)
    self._format.check_tokenizer(self._tokenizer)
    head = _read_head(folder, self._format.head)
    self._format.check_head(head)
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
    self._head = [x.to(self._body.device) for x in head]
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
    order = sorted(range(len(inputs)), key=lambda i: len(inputs[i][0]))
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

  def _encode(
      self, question: str, steps: Sequence[str]
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns the token ids of an answer, and where each step is scored."""
    if not steps:
      raise ValueError(f'The answer to {question!r} has 0 steps; needs 1.')
    ids, places = self._format.encode(
        self._tokenizer, self._settings.system, question, steps
    )
    if len(ids) > self._max_length:
      raise ValueError(
          f'The input of the scorer has {len(ids)} tokens in {len(steps)} '
          f'steps; allowed: at most {self._max_length}. Question: {question!r}.'
      )
    return ids, places

  def _score_batch(
      self, inputs: Sequence[tuple[np.ndarray, np.ndarray]]
  ) -> list[step_scorer.StepScores]:
    """Returns the scores of one batch of what `_encode` returns."""
    start = time.monotonic()
    lengths = np.array([len(ids) for ids, _ in inputs])
    # Padded at the end: attention is causal, so no step sees the padding.
    padded = np.zeros((len(inputs), lengths.max()), np.int64)
    for row, (ids, _) in zip(padded, inputs, strict=True):
      row[: len(ids)] = ids
    mask = np.arange(lengths.max()) < lengths[:, None]
    rows = np.repeat(np.arange(len(inputs)), [len(x) for _, x in inputs])
    places = np.concatenate([x for _, x in inputs])
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
    """Returns the score read at each (row, place), float64."""
    import torch

    device = self._body.device
    with torch.inference_mode():
      hidden = self._body(
          input_ids=torch.from_numpy(padded).to(device),
          attention_mask=torch.from_numpy(mask).to(device),
          use_cache=False,
      ).last_hidden_state
      hidden = hidden[torch.from_numpy(rows), torch.from_numpy(places)]
      found = self._format.probabilities(hidden, self._head)
      probabilities = found.cpu().numpy()
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


def _format_of(folder: pathlib.Path) -> reward_formats.Format:
  """Returns the format of the model in a directory; ValueError if none."""
  config = json.loads((folder / 'config.json').read_text())
  found = config.get('architectures') or []
  return reward_formats.of_architectures(found, str(folder))


def _read_head(folder: pathlib.Path, names: Sequence[str]) -> list[Any]:
  """Returns the head's weights as torch tensors, in the order of their names.

  Raises:
    ValueError: if one is missing.
  """
  found = {}
  for path in model_files.weight_files(folder):
    with safetensors.safe_open(path, 'pt') as tensors:
      for name in set(names) & set(tensors.keys()):
        found[name] = tensors.get_tensor(name)
  missing = [name for name in names if name not in found]
  if missing:
    raise ValueError(
        f'{folder} has no weights {", ".join(missing)}; the head of this kind '
        f'of process reward model is {", ".join(names)}.'
    )
  return [found[name] for name in names]
