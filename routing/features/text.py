"""Text features: signed hashing of word n-grams, cached per string.

This module does not depend on any task. A word is a single digit, or a run of
other characters without white space. Hashing needs no vocabulary, so every text
gets a vector of the same width, whatever words it contains.
"""

from collections.abc import Sequence
import functools
import hashlib
import itertools
import re

import numpy as np

# Each digit is a word of its own, so that 41 and 42 share the word 4.
_WORD = re.compile(r'\d|[^\s\d]+')
# Characters of what is kept in a large cache. Texts come from clients too: with
# longer ones, the caches would grow to gigabytes.
_LONGEST_NGRAM = 200
_LONGEST_TEXT = 2_000


def words(text: str) -> list[str]:
  """Splits a text into words and digits, in order; punctuation is kept."""
  return _WORD.findall(text)


def ngrams(sequence: list[str], largest: int) -> list[str]:
  """Returns every run of 1 to `largest` consecutive words, joined by spaces."""
  # Words contain no space, so different runs give different strings.
  return [
      ' '.join(sequence[start : start + size])
      for size in range(1, largest + 1)
      for start in range(len(sequence) - size + 1)
  ]


def _bucket(ngram: str) -> tuple[int, float]:
  """Returns a 63-bit hash and a sign for an n-gram.

  Both come from one digest, but from different bits.
  """
  # Python's own `hash` is salted for each process. A saved policy has a weight
  # for each bucket, so the hash must be the same in every process.
  digest = hashlib.blake2b(ngram.encode(), digest_size=8).digest()
  number = int.from_bytes(digest, 'big')
  return number >> 1, 1.0 if number & 1 else -1.0


_kept_bucket = functools.lru_cache(maxsize=1 << 16)(_bucket)


def _find(ngram: str) -> tuple[int, float]:
  """Returns `_bucket` of an n-gram, from the cache where it is short."""
  return (_kept_bucket if len(ngram) <= _LONGEST_NGRAM else _bucket)(ngram)


def hash_ngrams(text: str, width: int, largest: int) -> np.ndarray:
  """Returns signed counts of a text's n-grams in `width` hash buckets.

  A hash decides the sign with which an n-gram is counted. So collisions cancel
  in expectation: the inner product of two such vectors is an unbiased estimate
  of the inner product of the two texts' n-gram counts.

  Args:
    text: any text; an empty one gives zeros.
    width: number of buckets; 0 gives an empty vector.
    largest: number of words in the longest n-grams.

  Returns:
    `[width]` float32, read-only because callers share the cached array.

  Source: Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask
  Learning", eq. 1.
  """
  find = _of_short_text if len(text) <= _LONGEST_TEXT else _of_long_text
  return find(text, width, largest)


def _hash_ngrams(text: str, width: int, largest: int) -> np.ndarray:
  """Computes what `hash_ngrams` returns."""
  counts = np.zeros(width, np.float32)
  for ngram in ngrams(words(text), largest) if width else ():
    number, sign = _find(ngram)
    counts[number % width] += sign
  # A caller that wrote to the array would change the cached vector of the text.
  counts.setflags(write=False)
  return counts


_of_short_text = functools.lru_cache(maxsize=1 << 14)(_hash_ngrams)
# As many as there are answers in progress at a time, whose questions are asked
# for at each decision.
_of_long_text = functools.lru_cache(maxsize=64)(_hash_ngrams)


def hash_all(texts: Sequence[str], width: int, largest: int) -> np.ndarray:
  """Returns what `hash_ngrams` does, of many texts at once and not cached.

  Texts share most of their n-grams, and each is hashed once.

  Args:
    texts: n texts.
    width, largest: see `hash_ngrams`.

  Returns:
    `[n, width]` float32.
  """
  counts = np.zeros(len(texts) * width, np.float32)
  split = [words(text) for text in texts] if width else []
  flat = list(itertools.chain.from_iterable(split))
  numbers = {word: i for i, word in enumerate(dict.fromkeys(flat))}
  word = np.array([numbers[x] for x in flat], np.int64)
  row = np.repeat(np.arange(len(split)), [len(x) for x in split])
  # `gram[i]` numbers the n-gram that begins at word i, for the present n.
  gram = word
  for size in range(1, largest + 1):
    last = len(flat) - size + 1
    if last < 1:
      break
    # An n-gram lies within one text.
    starts = np.flatnonzero(row[:last] == row[size - 1 :])
    _, first, index = np.unique(
        gram[starts], return_index=True, return_inverse=True
    )
    hashed = [
        _find(' '.join(flat[i : i + size])) for i in starts[first].tolist()
    ]
    bucket = np.array([number % width for number, _ in hashed], np.int64)
    sign = np.array([x for _, x in hashed], np.float32)
    # Sums of ones are exact, in whatever order.
    np.add.at(counts, row[starts] * width + bucket[index], sign[index])
    # The numbers of n-grams stay below that of words, so no product overflows.
    longer = np.zeros(len(flat), np.int64)
    longer[starts] = index
    following = np.append(word[size:], np.zeros(size, np.int64))
    gram = longer * len(numbers) + following
  return counts.reshape(len(texts), width)
