"""The interfaces of routers: from the answer so far to a decision."""

import hashlib
from typing import Protocol

import numpy as np

from routing import types


class Router(Protocol):
  """Chooses the route that writes the next step, at each step boundary.

  A router sees only the trace, which is the answer so far. It must not remember
  earlier calls, because the driver runs many traces concurrently, in any order.
  """

  def decide(self, trace: types.Trace) -> types.Decision:
    """Returns the route that writes the next step, and the hand-over score."""
    ...


class Policy(Protocol):
  """Gives the action probability of each route, from which callers sample."""

  def action_probabilities(self, trace: types.Trace) -> np.ndarray:
    """Returns `[A]` floats in [0, 1] that sum to 1, one per route."""
    ...


def draw(*key: object) -> float:
  """Returns a uniform number in [0, 1) that is a pure function of the key.

  The number is a hash of the key rather than the next output of a generator. A
  trace that is resumed after an interruption therefore sees the same random
  numbers.
  """
  # No part contains the separator '\0', so that (1, 23) and (12, 3) get
  # different hashes.
  text = '\0'.join(map(str, key)).encode()
  digest = hashlib.blake2b(text, digest_size=8).digest()
  # A float64 holds 53 bits exactly. With all 64 bits of the hash the quotient
  # could round up to 1.0.
  return (int.from_bytes(digest, 'big') >> 11) / 2**53
