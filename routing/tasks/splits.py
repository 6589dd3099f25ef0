"""Assigns problems to four splits by a hash of the question.

  train: policies learn from these problems.
  select: early stopping, and the choice of policies, hyper-parameters and
    candidate thresholds.
  prove: promises are tested on these problems, once.
  test: evaluation.

The splits are the same for every seed, stage and protocol.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import hashlib
import itertools
import math

from routing import types

SPLITS = ('train', 'select', 'prove', 'test')
# 16 hex digits have 64 bits. Among a million questions, the probability that
# two share a hash is below 1e-7, and the records of seen questions stay small.
_HASH_DIGITS = 16


def question_hash(question: str) -> str:
  """Returns a hash that identifies a question, 16 hex digits.

  Texts that differ only in case or white space have the same hash.
  """
  normalised = ' '.join(question.lower().split())
  return hashlib.sha256(normalised.encode()).hexdigest()[:_HASH_DIGITS]


def split_of(question: str, shares: Mapping[str, float]) -> str:
  """Returns the name of a question's split.

  The hash of the question is read as a number in [0, 1). This interval is
  divided into one part per split, as long as the split's share, in the order of
  `SPLITS`. So the result does not depend on other problems, and equal questions
  are in the same split.

  Do not use this function to divide a split again. The numbers of its questions
  all lie in the split's own part of [0, 1), so the shares would be wrong.

  Args:
    question: the text of the question.
    shares: split -> its share of all questions. Shares are positive and sum to
      1, e.g. `{'select': 0.5, 'prove': 0.5}`.

  Raises:
    ValueError: if a split is unknown, or the shares are not positive or do not
      sum to 1.
  """
  check_names(shares)
  # `fsum` and a tolerance allow for rounding, e.g. in 0.1 + 0.2 + 0.7.
  total = math.fsum(shares.values())
  if not all(share > 0 for share in shares.values()) or abs(total - 1) > 1e-9:
    raise ValueError(
        f'The shares are {dict(shares)}; allowed: positive numbers that sum '
        'to 1.'
    )
  # Digits of SHA-256 are uniform, so `place` is uniform in [0, 1).
  place = int(question_hash(question), 16) / 16**_HASH_DIGITS
  # Sorted as in `SPLITS`, so that the order of keys in `shares` has no effect.
  names = sorted(shares, key=SPLITS.index)
  ends = itertools.accumulate(shares[name] for name in names)
  for name, end in zip(names, ends, strict=True):
    if place < end:
      return name
  # Rounding may put the last end just below 1, and `place` above it.
  return names[-1]


def divide(
    problems: Iterable[types.Problem], shares: Mapping[str, float]
) -> dict[str, list[types.Problem]]:
  """Divides problems into splits by `split_of`.

  Use it for problem sources that have no splits of their own. If a problem is
  removed from the source, the others stay in their splits.

  Args:
    problems: the problems, in any order.
    shares: split -> its share, as in `split_of`. The sizes of the splits match
      the shares approximately.

  Returns:
    Split -> its problems in the order of `problems`, for each split in
    `shares`; the list may be empty.

  Raises:
    ValueError: as `split_of` does.
  """
  parts = {name: [] for name in shares}
  for problem in problems:
    parts[split_of(problem.question, shares)].append(problem)
  return parts


def check_names(names: Iterable[str]) -> None:
  """Raises ValueError unless every name is one of `SPLITS`."""
  for name in names:
    if name not in SPLITS:
      raise ValueError(f'Unknown split {name!r}; allowed: {", ".join(SPLITS)}.')


def check_disjoint(**splits: Iterable[str]) -> None:
  """Raises ValueError if two splits share a question.

  Args:
    **splits: the question hashes of each split, by its name.
  """
  sets = {name: set(hashes) for name, hashes in splits.items()}
  for (a, first), (b, second) in itertools.combinations(sets.items(), 2):
    shared = first & second
    if shared:
      raise ValueError(
          f'Splits {a!r} and {b!r} share {len(shared)} questions, e.g. hash '
          f'{min(shared)}; they must be disjoint.'
      )
