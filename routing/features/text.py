"""Text features: signed hashing of word n-grams, cached per string.

This module is generic on purpose: it knows nothing of any task. A word is a
single digit, or a run of other characters without space. Hashing needs no
vocabulary, so a text of another distribution gets a vector of the same width.
"""

import functools
import hashlib
import re

import numpy as np

# Each digit is a word, so that 41 and 42 share a bucket.
_WORD = re.compile(r'\d|[^\s\d]+')


def words(text: str) -> list[str]:
  """Returns the text's digits and words in order, punctuation included."""
  return _WORD.findall(text)


def ngrams(sequence: list[str], largest: int) -> list[str]:
  """Returns every run of 1 to `largest` words, joined by spaces."""
  # No two runs give the same string, because no word contains a space.
  return [
      ' '.join(sequence[start : start + size])
      for size in range(1, largest + 1)
      for start in range(len(sequence) - size + 1)
  ]


@functools.lru_cache(maxsize=1 << 16)
def _bucket(ngram: str) -> tuple[int, float]:
  """Returns a 63-bit hash and a sign, from separate bits of one digest."""
  # Not `hash`, which Python salts for each process: the weights of a policy
  # belong to buckets that must stay the same.
  digest = hashlib.blake2b(ngram.encode(), digest_size=8).digest()
  number = int.from_bytes(digest, 'big')
  return number >> 1, 1.0 if number & 1 else -1.0


@functools.lru_cache(maxsize=1 << 14)
def hash_ngrams(text: str, width: int, largest: int) -> np.ndarray:
  """Returns signed counts of the text's n-grams in `width` hash buckets.

  The sign of each n-gram is a hash too, so collisions cancel in expectation:
  the inner product of two vectors is an unbiased estimate of the inner product
  of the full counts.

  Args:
    text: any text; an empty one gives zeros.
    width: number of buckets; 0 gives an empty vector.
    largest: length of the longest n-grams, in words.

  Returns:
    `[width]` float32, read-only because callers share the cached array.

  Source: Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask
  Learning", eq. 1.
  """
  counts = np.zeros(width, np.float32)
  for ngram in ngrams(words(text), largest) if width else ():
    number, sign = _bucket(ngram)
    counts[number % width] += sign
  counts.setflags(write=False)  # A caller's change would alter the cache.
  return counts
