"""Streams of graded answers with a known distribution, to test service.

A problem *needs* the large model if that model alone is right. Such a problem
has a score, and is lost where the score is below kappa. The probability of a
loss thus rises with kappa, from 0 at kappa = 0.
"""

from collections.abc import Callable

import numpy as np


def make_stream(
    needs: np.ndarray, skew: np.ndarray, num_streams: int, seed: int
) -> np.ndarray:
  """Draws the scores of S streams of n problems.

  Args:
    needs: `[n]` probability that the k-th problem needs the large model.
    skew: `[n]` >= 1; scores are Beta(skew, 2). The larger it is, the higher the
      scores, and the fewer problems are lost.
    num_streams: S.
    seed: of all draws.

  Returns:
    `[n, S]` scores; inf for problems that are lost at no kappa.
  """
  rng = np.random.default_rng(seed)
  shape = len(needs), num_streams
  # [n, S]; streams are independent of each other.
  is_needy = rng.random(shape) < needs[:, None]
  scores = rng.beta(skew[:, None], 2.0, shape)
  return np.where(is_needy, scores, np.inf)


def iid(n: int, num_streams: int, seed: int = 0) -> np.ndarray:
  """Returns streams whose distribution never changes."""
  return make_stream(np.full(n, 0.4), np.full(n, 2.0), num_streams, seed)


def abrupt(n: int, num_streams: int, seed: int = 0) -> np.ndarray:
  """Returns streams that get harder at once, half-way.

  Twice as many problems need the large model, and their scores are lower.
  """
  is_late = np.arange(n) >= n // 2
  return make_stream(
      np.where(is_late, 0.5, 0.25),
      np.where(is_late, 1.5, 3.0),
      num_streams,
      seed,
  )


def slow(n: int, num_streams: int, seed: int = 0) -> np.ndarray:
  """Returns streams with the change of `abrupt`, spread over all answers."""
  way = np.linspace(0, 1, n)
  return make_stream(0.25 + 0.25 * way, 3 - 1.5 * way, num_streams, seed)


def alternating(n: int, num_streams: int, seed: int = 0) -> np.ndarray:
  """Returns streams with easy and hard blocks that grow in length.

  No constant step size suits all of them.
  """
  # Blocks end where log2(1 + k / 50) is a multiple of 1/2, so each is about 1.4
  # times as long as the one before.
  is_hard = np.floor(np.log2(1 + np.arange(n) / 50) * 2) % 2 == 1
  return make_stream(
      np.where(is_hard, 0.5, 0.25),
      np.where(is_hard, 1.5, 3.0),
      num_streams,
      seed,
  )


STREAMS: dict[str, Callable[..., np.ndarray]] = {
    'iid': iid,
    'abrupt': abrupt,
    'slow': slow,
    'alternating': alternating,
}
