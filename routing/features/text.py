"""Words as numbers: signed hashing of n-grams, cached per string.

Generic on purpose: a word is a single digit or a run of other characters, and
nothing here knows any task. Hashing needs no vocabulary, so a text from another
distribution gets a vector of the same width.
"""

import functools
import hashlib
import re

import numpy as np

# Digits one by one, so that an operand shares buckets with its neighbours.
_WORD = re.compile(r'\d|[^\s\d]+')


def words(text: str) -> list[str]:
  """The text's single digits and its words, punctuation included."""
  return _WORD.findall(text)


def ngrams(sequence: list[str], largest: int) -> list[str]:
  """Every run of 1 to `largest` words; words hold no space, so none clash."""
  return [
      ' '.join(sequence[start : start + size])
      for size in range(1, largest + 1)
      for start in range(len(sequence) - size + 1)
  ]


@functools.lru_cache(maxsize=1 << 16)
def _bucket(ngram: str) -> tuple[int, float]:
  """A stable 63-bit hash and a sign; Python's own hash changes by process."""
  digest = hashlib.blake2b(ngram.encode(), digest_size=8).digest()
  number = int.from_bytes(digest, 'big')
  return number >> 1, 1.0 if number & 1 else -1.0


@functools.lru_cache(maxsize=1 << 14)
def hash_ngrams(text: str, width: int, largest: int) -> np.ndarray:
  """Signed counts of the text's n-grams in `width` buckets.

  Signs are hashed too, so that collisions cancel in expectation and the inner
  product of two vectors is an unbiased estimate of that of the full counts.

  Args:
    text: any text; empty gives zeros.
    width: number of buckets; 0 = there are none.
    largest: longest n-gram, in words.

  Returns:
    `[width]` float32, read-only because it is shared by the cache.

  Source: Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask
  Learning", eq. 1.
  """
  counts = np.zeros(width, np.float32)
  for ngram in ngrams(words(text), largest) if width else ():
    number, sign = _bucket(ngram)
    counts[number % width] += sign
  counts.setflags(write=False)
  return counts
