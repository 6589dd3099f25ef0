"""Scores steps by how likely a model of the embedded pair finds their tokens.

The embedded models judge nothing in words. That the larger one would have
written the step itself is the nearest thing to its opinion of the step.
"""

from collections.abc import Sequence
import functools
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from routing.engines import step_scorer
from routing.lm import decoder
from routing.lm import export
from routing.lm import tokenizer as tokenizer_lib

_TOKENS = 64  # Lengths are rounded up to a multiple, so that few are compiled.


class EmbeddedLikelihood:
  """A `step_scorer.StepScorer` whose score is a geometric mean probability.

  The score of a step is exp of the mean log-probability of its tokens, given
  the question and the steps before it; it is in [0, 1], and 1 for a step
  without tokens. The end of an answer is no token of its text.

  Args:
    folder: the directory of the model's weights.
    batch_size: number of answers in one forward pass.

  Raises:
    ValueError: if the batch size is less than 1.
  """

  def __init__(self, folder: pathlib.Path, batch_size: int = 32):
    if batch_size < 1:
      raise ValueError(f'batch_size is {batch_size}; allowed: 1 or more.')
    config, self._params = export.load_pretrained(folder)
    self._batch_size = batch_size
    self._tokenizer = tokenizer_lib.Tokenizer()
    self._apply = jax.jit(
        functools.partial(_token_log_probs, decoder.Decoder(config))
    )

  def score(
      self, answers: Sequence[tuple[str, Sequence[str]]]
  ) -> list[step_scorer.StepScores]:
    """See `step_scorer.StepScorer.score`.

    Raises:
      ValueError: if an answer has no step, or a text that is not in the
        vocabulary.
    """
    inputs = [self._encode(question, steps) for question, steps in answers]
    # Answers of similar length share a batch, so that little is padding.
    order = sorted(range(len(inputs)), key=lambda i: len(inputs[i][0]))
    found = [None] * len(inputs)
    for start in range(0, len(order), self._batch_size):
      batch = order[start : start + self._batch_size]
      scored = self._score_batch([inputs[i] for i in batch])
      for i, scores in zip(batch, scored, strict=True):
        found[i] = scores
    return found

  def _encode(
      self, question: str, steps: Sequence[str]
  ) -> tuple[list[int], np.ndarray]:
    """Returns the token ids, and where question and steps end, `[T + 1]`."""
    if not steps:
      raise ValueError(f'The answer to {question!r} has 0 steps; needs 1.')
    parts = [self._tokenizer.encode(x) for x in (question, *steps)]
    return [i for part in parts for i in part], np.cumsum([*map(len, parts)])

  def _score_batch(
      self, inputs: Sequence[tuple[list[int], np.ndarray]]
  ) -> list[step_scorer.StepScores]:
    """Returns the scores of one batch."""
    start = time.monotonic()
    longest = max(len(ids) for ids, _ in inputs)
    # Padded at the end: attention is causal, so no token sees the padding.
    width = -(-longest // _TOKENS) * _TOKENS
    tokens = np.full(
        (self._batch_size, width), self._tokenizer.pad_id, np.int32
    )
    for row, (ids, _) in zip(tokens, inputs, strict=False):
      row[: len(ids)] = ids
    log_probs = np.asarray(self._apply(self._params, tokens), np.float64)
    seconds = (time.monotonic() - start) / sum(len(ids) for ids, _ in inputs)
    out = []
    for row, (_, ends) in zip(log_probs, inputs, strict=False):
      sums = np.concatenate([[0.0], np.cumsum(row)])[ends]
      read = np.diff(ends)
      # The mean of no token would be 0 / 0; its sum is 0, so the score is 1.
      scores = np.exp(np.diff(sums) / np.maximum(read, 1))
      read[0] += ends[0]
      out.append(step_scorer.StepScores(scores, read, read * seconds))
    return out


def _token_log_probs(model: decoder.Decoder, params, tokens) -> jax.Array:
  """Returns the log-probability of each token, `[B, T]`; 0 of the first."""
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  logits, *_ = model.apply({'params': params}, tokens, positions)
  log_probs = jax.nn.log_softmax(logits[:, :-1])
  found = jnp.take_along_axis(log_probs, tokens[:, 1:, None], axis=-1)
  return jnp.pad(found[..., 0], ((0, 0), (1, 0)))
