"""Draws of single tokens, outside the model, from one random number each."""

import numpy as np


def tempered(log_probs: np.ndarray, temperature: float) -> np.ndarray:
  """Returns probabilities at a temperature.

  Args:
    log_probs: `[..., V]` float64 at temperature 1.
    temperature: 0 = all probability on the most likely token, the first one of
      several.

  Returns:
    `[..., V]` float64, proportional to exp(log_probs / temperature).

  Raises:
    ValueError: if the temperature is negative.
  """
  if temperature < 0:
    raise ValueError(f'temperature is {temperature}; allowed: >= 0.')
  if temperature == 0:
    return np.eye(log_probs.shape[-1])[log_probs.argmax(-1)]
  scaled = log_probs / temperature
  weights = np.exp(scaled - scaled.max(-1, keepdims=True))
  return weights / weights.sum(-1, keepdims=True)


def draw(
    log_probs: np.ndarray, temperature: float, rng: np.random.Generator
) -> int:
  """Draws a token.

  Args:
    log_probs: `[V]` float64 at temperature 1.
    temperature: 0 = the most likely token.
    rng: the source of randomness; one number is drawn, also at temperature 0.
  """
  return pick(tempered(log_probs, temperature), rng)


def pick(probabilities: np.ndarray, rng: np.random.Generator) -> int:
  """Draws an index of `[V]` probabilities by inversion, from one number."""
  ends = np.cumsum(probabilities)
  # Rounding may leave the last end below 1; no index of probability 0 is drawn.
  return int(np.searchsorted(ends, rng.random() * ends[-1], side='right'))
