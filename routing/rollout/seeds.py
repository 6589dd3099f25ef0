"""The random seed of each request to an engine."""

import hashlib

_BITS = 31  # Engines store seeds as non-negative signed 32-bit integers.


def of_request(
    seed: int, problem_id: str, step: int, route: int, sample: int = 0
) -> int:
  """Returns the random seed of one request to an engine, in [0, 2**31).

  The seed is a hash of all arguments, so that different requests draw different
  random numbers.

  `step` is the number of accepted steps before the request; `sample` tells
  apart requests that are otherwise equal.
  """
  # Python's own `hash` is salted for each process, but a resumed collection
  # must use the same seeds.
  key = repr((seed, problem_id, step, route, sample)).encode()
  digest = hashlib.blake2b(key, digest_size=8).digest()
  return int.from_bytes(digest, 'big') >> (64 - _BITS)
