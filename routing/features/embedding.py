"""Embeddings of whole texts, for routers that look at the question alone."""

from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import Protocol

import numpy as np

from routing import costs
from routing.features import text


class Embedding(Protocol):
  """Maps texts to vectors of one size.

  name: identifies the embedding in caches.
  size: E, the length of a vector.
  spec: the model behind it, by which its tokens are priced; None = no model.
  """

  name: str
  size: int
  spec: costs.RouteSpec | None

  def embed(self, texts: Sequence[str]) -> np.ndarray:
    """Returns `[N, E]` float32 vectors of length 1 (or 0 for empty texts)."""
    ...

  def count_tokens(self, texts: Sequence[str]) -> np.ndarray:
    """Returns `[N]` int, the tokens that the model reads for each text."""
    ...


def unit(vectors: np.ndarray) -> np.ndarray:
  """Returns `[N, E]` vectors scaled to length 1; zeros stay zeros."""
  norms = np.linalg.norm(vectors, axis=1, keepdims=True)
  return (vectors / np.where(norms > 0, norms, 1.0)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class HashedNgrams:
  """Hashed n-grams of words, of length 1; no model, so nothing is charged.

  size: number of hash buckets.
  largest: number of words in the longest n-grams.
  """

  size: int = 256
  largest: int = 2
  spec: costs.RouteSpec | None = dataclasses.field(default=None, init=False)

  @property
  def name(self) -> str:
    """Identifies the embedding in caches."""
    return f'hashed n-grams/{self.size}/{self.largest}'

  def embed(self, texts: Sequence[str]) -> np.ndarray:
    """See `Embedding.embed`."""
    rows = [text.hash_ngrams(x, self.size, self.largest) for x in texts]
    return unit(np.stack(rows) if rows else np.zeros((0, self.size)))

  def count_tokens(self, texts: Sequence[str]) -> np.ndarray:
    """Returns zeros: no model reads the texts."""
    return np.zeros(len(texts), np.int64)


class SentenceModel:
  """A sentence encoder in the Hugging Face format, e.g. all-MiniLM-L6-v2.

  The vector is the mean of the last hidden states over the tokens. Needs the
  extra `embedding`. Source: Reimers and Gurevych 2019, "Sentence-BERT".

  Args:
    directory: of config.json, the tokenizer and the weights (safetensors).
    max_length: longer texts are cut off after this many tokens.
    batch_size: texts in one forward pass.
  """

  def __init__(
      self, directory: str, *, max_length: int = 256, batch_size: int = 32
  ):
    import transformers

    # Any: for transformers both may be None, or one of hundreds of classes.
    self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(directory)
    self._model: Any = transformers.AutoModel.from_pretrained(directory).eval()
    self._max_length, self._batch_size = max_length, batch_size
    config = self._model.config
    self.size = int(config.hidden_size)
    parameters = sum(x.numel() for x in self._model.parameters())
    self.name = f'sentence model/{config.model_type}/{parameters}/{max_length}'
    self.spec = costs.spec_by_parameters(
        'sentence embedding',
        parameters,
        int(config.num_hidden_layers),
        self.size,
    )
    # A question is embedded for many routers, settings and knobs.
    self._known: dict[str, np.ndarray] = {}
    self._counts: dict[str, int] = {}

  def embed(self, texts: Sequence[str]) -> np.ndarray:
    """See `Embedding.embed`."""
    missing = sorted({x for x in texts if x not in self._known}, key=len)
    # The missing texts are in order of length: little of a batch is padding.
    for start in range(0, len(missing), self._batch_size):
      batch = missing[start : start + self._batch_size]
      self._known.update(zip(batch, self._forward(batch), strict=True))
    found = [self._known[x] for x in texts]
    return np.stack(found) if found else np.zeros((0, self.size), np.float32)

  def count_tokens(self, texts: Sequence[str]) -> np.ndarray:
    """See `Embedding.count_tokens`."""
    for one in set(texts) - set(self._counts):
      mask = self._encode([one])['attention_mask']
      self._counts[one] = int(mask.sum())
    return np.array([self._counts[x] for x in texts], np.int64)

  def _encode(self, texts: Sequence[str]) -> Any:
    return self._tokenizer(
        list(texts),
        padding=True,
        truncation=True,
        max_length=self._max_length,
        return_tensors='pt',
    )

  def _forward(self, texts: Sequence[str]) -> np.ndarray:
    """Returns the vectors of one batch, `[N, E]` float32 of length 1."""
    import torch

    given = self._encode(texts)
    with torch.no_grad():
      hidden = self._model(**given).last_hidden_state
    mask = given['attention_mask'][..., None].to(hidden.dtype)
    return unit(((hidden * mask).sum(1) / mask.sum(1)).numpy())
