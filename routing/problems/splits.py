"""Which problems may be trained on: disjoint splits, told apart by hash."""

from collections.abc import Iterable
import hashlib
import itertools


def question_hash(question: str) -> str:
  """16 hex digits of the question's normalised text (case, spaces folded)."""
  normalised = ' '.join(question.lower().split())
  return hashlib.sha256(normalised.encode()).hexdigest()[:16]


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
