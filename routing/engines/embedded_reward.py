"""Scores steps with the process reward model of the embedded pair."""

from collections.abc import Sequence
import dataclasses
import functools
import pathlib
import time

import jax
import numpy as np

from routing.engines import process_reward
from routing.engines import step_scorer
from routing.lm import reward_head

_DEFAULT = process_reward.Settings()

# Numbers of tokens and of steps are rounded up to a multiple of these, so that
# few shapes are compiled.
_TOKENS, _STEPS = 64, 8


class EmbeddedReward:
  """A `step_scorer.StepScorer` that needs no torch.

  `process_reward.ProcessRewardModel` reads the same files and gives the same
  scores, up to rounding.

  Args:
    folder: the directory of the weights, see `reward_head.save`.
    settings: how the model is run; only `batch_size` and `max_length` may
      differ from the default.

  Raises:
    ValueError: if the directory holds another model, or a setting has no
      effect here.
  """

  def __init__(
      self,
      folder: pathlib.Path,
      settings: process_reward.Settings = _DEFAULT,
  ):
    for field in dataclasses.fields(settings):
      value = getattr(settings, field.name)
      if (
          field.name not in ('batch_size', 'max_length')
          and value != field.default
      ):
        raise ValueError(
            f'scorer.settings.{field.name} is {value!r}; the reward model of '
            'the embedded pair has only batch_size and max_length.'
        )
    self._config, self._params = reward_head.load(folder)
    self._settings = settings
    self._apply = jax.jit(
        functools.partial(reward_head.probabilities, config=self._config)
    )

  def score(
      self, answers: Sequence[tuple[str, Sequence[str]]]
  ) -> list[step_scorer.StepScores]:
    """See `step_scorer.StepScorer.score`.

    Raises:
      ValueError: if an answer has no step, is too long, or is not in the
        vocabulary.
    """
    inputs = [reward_head.encode(*answer) for answer in answers]
    limit = self._settings.max_length
    for (ids, ends), (question, _) in zip(inputs, answers, strict=True):
      if limit and len(ids) > limit:
        raise ValueError(
            f'The input of the scorer has {len(ids)} tokens in {len(ends)} '
            f'steps; allowed: at most {limit}. Question: {question!r}.'
        )
    order = sorted(range(len(inputs)), key=lambda i: len(inputs[i][0]))
    found = [None] * len(inputs)
    size = self._settings.batch_size
    for start in range(0, len(order), size):
      batch = order[start : start + size]
      scores = self._score_batch([inputs[i] for i in batch])
      for i, score in zip(batch, scores, strict=True):
        found[i] = score
    return found

  def close(self) -> None:
    """Frees the weights; the scorer cannot be used afterwards."""
    del self._params

  def _score_batch(self, inputs) -> list[step_scorer.StepScores]:
    """Returns the scores of one batch of (token ids, places of separators)."""
    start = time.monotonic()
    width = _round_up(max(len(ids) for ids, _ in inputs), _TOKENS)
    depth = _round_up(max(len(ends) for _, ends in inputs), _STEPS)
    # Rows of padding fill the batch; attention is causal, so padding after a
    # separator does not change its score.
    tokens = np.zeros((self._settings.batch_size, width), np.int32)
    places = np.zeros((self._settings.batch_size, depth), np.int32)
    for i, (ids, ends) in enumerate(inputs):
      tokens[i, : len(ids)], places[i, : len(ends)] = ids, ends
    scores = np.asarray(
        self._apply(self._params, tokens=tokens, ends=places), np.float64
    )
    if not np.isfinite(scores).all():
      raise FloatingPointError(
          'The scorer returned a score that is not finite.'
      )
    seconds = (time.monotonic() - start) / sum(len(ids) for ids, _ in inputs)
    out = []
    for row, (_, ends) in zip(scores, inputs, strict=False):
      read = np.diff(ends, prepend=-1)
      out.append(step_scorer.StepScores(row[: len(ends)], read, read * seconds))
    return out


def _round_up(count: int, multiple: int) -> int:
  return -(-count // multiple) * multiple
