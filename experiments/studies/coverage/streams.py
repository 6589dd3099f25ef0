"""Streams of graded answers with a known law, to see what service does.

A problem *needs* the large model (it alone is right), or not; a problem that
needs it is flagged with a score, and lost where the score is below kappa. The
chance of a loss thus rises with kappa, from 0 at kappa = 0.
"""

from collections.abc import Callable

import numpy as np


def make_stream(
    needs: np.ndarray, skew: np.ndarray, num_streams: int, seed: int
) -> np.ndarray:
  """`[n, S]` scores of needy problems; inf for those that lose at no kappa.

  Args:
    needs: `[n]` chance that the k-th problem needs the large model.
    skew: `[n]` >= 1; scores are Beta(skew, 2): high, hence well told apart,
      where it is large.
    num_streams: S.
    seed: of everything.
  """
  rng = np.random.default_rng(seed)
  shape = len(needs), num_streams
  is_needy = rng.random(shape) < needs[:, None]
  scores = rng.beta(skew[:, None], 2.0, shape)
  return np.where(is_needy, scores, np.inf)


def iid(n: int, num_streams: int, seed: int = 0) -> np.ndarray:
  """The same law throughout."""
  return make_stream(np.full(n, 0.4), np.full(n, 2.0), num_streams, seed)


def abrupt(n: int, num_streams: int, seed: int = 0) -> np.ndarray:
  """Half-way, twice as many are needy and their scores tell less."""
  is_late = np.arange(n) >= n // 2
  return make_stream(
      np.where(is_late, 0.5, 0.25),
      np.where(is_late, 1.5, 3.0),
      num_streams,
      seed,
  )


def slow(n: int, num_streams: int, seed: int = 0) -> np.ndarray:
  """The same change, a little with every answer."""
  way = np.linspace(0, 1, n)
  return make_stream(0.25 + 0.25 * way, 3 - 1.5 * way, num_streams, seed)


def alternating(n: int, num_streams: int, seed: int = 0) -> np.ndarray:
  """Easy and hard in blocks that grow, so that no step size suits them all."""
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
