"""Which problems may be trained on: disjoint splits, told apart by hash."""

from collections.abc import Iterable
from collections.abc import Sequence
import hashlib
import itertools
from typing import Any


def question_hash(question: str) -> str:
  """16 hex digits of the question's normalised text (case, spaces folded)."""
  normalised = ' '.join(question.lower().split())
  return hashlib.sha256(normalised.encode()).hexdigest()[:16]


def halves(items: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
  """Validation problems in two: for choosing, and for promising.

  What was chosen on the first half (when to stop training, which member) is
  frozen with respect to the second, as a promise needs it. Every other item
  goes to each, so that sorted problems are shared evenly.
  """
  return items[0::2], items[1::2]


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
