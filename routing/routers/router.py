"""What every router is: one function from a trace to a decision."""

import hashlib
from typing import Protocol

import numpy as np

from routing import types


class Router(Protocol):
  """Anything that decides at step boundaries.

  A router sees the trace and nothing else, and must not remember earlier calls:
  the driver runs many traces at once, in any order.
  """

  def decide(self, trace: types.Trace) -> types.Decision:
    """The route that writes the next step, and the score behind it."""
    ...


class Policy(Protocol):
  """Anything that gives each route a chance, for others to draw from."""

  def action_probabilities(self, trace: types.Trace) -> np.ndarray:
    """`[A]` float in [0, 1] that sums to 1: the chance of each route."""
    ...


def draw(*key: object) -> float:
  """A number in [0, 1) that follows from the key alone, as if drawn evenly.

  Hashing instead of a generator: a trace that is taken up again after a kill
  meets the same coins.
  """
  text = '\0'.join(map(str, key)).encode()
  digest = hashlib.blake2b(text, digest_size=8).digest()
  return (int.from_bytes(digest, 'big') >> 11) / 2**53  # As a float can hold.
