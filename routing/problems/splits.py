"""The four splits of the problems, assigned by a hash of the question.

`train`: policies learn from it. `select`: early stopping, and the choice of
policies, hyper-parameters and the thresholds that are worth testing. `prove`:
promises are tested on it, once. `test`: evaluation. The splits are the same for
every seed, stage and protocol.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import hashlib
import itertools
import math

from routing import types

SPLITS = ('train', 'select', 'prove', 'test')
# 64 bits: among a million questions the probability that two share a hash is
# below 1e-7, and the records of seen questions stay small.
_HASH_DIGITS = 16


def question_hash(question: str) -> str:
  """Returns 16 hex digits that identify a question.

  Texts that differ in case or white space only have the same hash.
  """
  normalised = ' '.join(question.lower().split())
  return hashlib.sha256(normalised.encode()).hexdigest()[:_HASH_DIGITS]


def split_of(question: str, shares: Mapping[str, float]) -> str:
  """Returns the split of a question, a function of its hash and the shares.

  The hash is read as a number in [0, 1). Each split owns an interval as long as
  its share, in the order of `SPLITS`. So the split does not depend on other
  problems, and equal questions are in the same split.

  Do not divide a part again with this function. All questions of a part have
  their numbers in one interval, so further divisions would be uneven.

  Args:
    question: its text.
    shares: split -> its share of all questions; positive numbers that sum to
      1, e.g. `{'select': 0.5, 'prove': 0.5}`.

  Raises:
    ValueError: if a split is unknown or the shares are not as above.
  """
  check_names(shares)
  # `fsum` and a tolerance: 0.1 + 0.2 + 0.7 must pass as 1.
  total = math.fsum(shares.values())
  if not all(share > 0 for share in shares.values()) or abs(total - 1) > 1e-9:
    raise ValueError(
        f'The shares are {dict(shares)}; allowed: positive numbers that sum '
        'to 1.'
    )
  # Uniform in [0, 1), since SHA-256 is.
  place = int(question_hash(question), 16) / 16**_HASH_DIGITS
  # By `SPLITS`, so that the order of the keys in `shares` has no effect.
  names = sorted(shares, key=SPLITS.index)
  ends = itertools.accumulate(shares[name] for name in names)
  for name, end in zip(names, ends, strict=True):
    if place < end:
      return name
  return names[-1]  # The last end may be rounded to just below 1.


def divide(
    problems: Iterable[types.Problem], shares: Mapping[str, float]
) -> dict[str, list[types.Problem]]:
  """Divides problems into splits by `split_of`, for sources without splits.

  If a problem is removed, the others stay in their splits.

  Args:
    problems: in any order; each split keeps it.
    shares: as in `split_of`. The sizes of the splits match them approximately.

  Returns:
    Split -> its problems, possibly none, for each split in `shares`.

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
    **splits: for each split, its question hashes.
  """
  sets = {name: set(hashes) for name, hashes in splits.items()}
  for (a, first), (b, second) in itertools.combinations(sets.items(), 2):
    shared = first & second
    if shared:
      raise ValueError(
          f'Splits {a!r} and {b!r} share {len(shared)} questions, e.g. hash '
          f'{min(shared)}; they must be disjoint.'
      )
