"""The four splits: which problems serve what, told apart by hash.

`train` is what a policy learns from. `select` stops training early, and
chooses members, hyper-parameters and which thresholds are worth testing.
`prove` is looked at once, by promises. `test` is for evaluation. A split is
the same for every seed, stage and protocol.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import hashlib
import itertools
import math

from routing import types

SPLITS = ('train', 'select', 'prove', 'test')
_HASH_DIGITS = 16


def question_hash(question: str) -> str:
  """16 hex digits of the question's normalised text (case, spaces folded)."""
  normalised = ' '.join(question.lower().split())
  return hashlib.sha256(normalised.encode()).hexdigest()[:_HASH_DIGITS]


def split_of(question: str, shares: Mapping[str, float]) -> str:
  """Returns the split of a question, which depends on its hash alone.

  The hash is a uniform number in [0, 1), and each split owns an interval as
  long as its share, in the order of `SPLITS`. So no other problem matters, nor
  their number or order, and questions of one normalised text stay together.

  Because the number is always the same, a part must not be divided again with
  the same function: of `select` at half and half, all has a small number.

  Args:
    question: its text.
    shares: of each split among all questions, positive and summing to 1, e.g.
      `{'select': 0.5, 'prove': 0.5}`.

  Raises:
    ValueError: if the shares are not as above.
  """
  check_names(shares)
  total = math.fsum(shares.values())
  if not all(share > 0 for share in shares.values()) or abs(total - 1) > 1e-9:
    raise ValueError(
        f'The shares are {dict(shares)}; allowed: positive numbers that sum '
        'to 1.'
    )
  place = int(question_hash(question), 16) / 16**_HASH_DIGITS
  names = sorted(shares, key=SPLITS.index)
  ends = itertools.accumulate(shares[name] for name in names)
  for name, end in zip(names, ends, strict=True):
    if place < end:
      return name
  return names[-1]  # The sum may be rounded to just below 1.


def divide(
    problems: Iterable[types.Problem], shares: Mapping[str, float]
) -> dict[str, list[types.Problem]]:
  """Divides problems that their source does not divide, by `split_of`.

  A problem that is missing or fails moves no other problem to another split.

  Args:
    problems: in any order, which each split keeps.
    shares: as in `split_of`; the sizes come out near these, not at them.

  Returns:
    Split name = its problems, possibly none, for each name in `shares`.

  Raises:
    ValueError: as `split_of` does.
  """
  parts = {name: [] for name in shares}
  for problem in problems:
    parts[split_of(problem.question, shares)].append(problem)
  return parts


def check_names(names: Iterable[str]) -> None:
  """Raises ValueError if one of the names is not that of a split."""
  for name in names:
    if name not in SPLITS:
      raise ValueError(f'Split {name!r}; allowed: {", ".join(SPLITS)}.')


def check_disjoint(**splits: Iterable[str]) -> None:
  """Raises ValueError if two splits share a question.

  Args:
    **splits: name = the question hashes of that split.
  """
  sets = {name: set(hashes) for name, hashes in splits.items()}
  for (a, first), (b, second) in itertools.combinations(sets.items(), 2):
    shared = first & second
    if shared:
      raise ValueError(
          f'Splits {a!r} and {b!r} share {len(shared)} questions, e.g. hash '
          f'{min(shared)}; they must be disjoint.'
      )
