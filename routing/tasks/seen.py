"""The record of the problems that a router has seen, saved with its weights.

Each stage checks its problems against the record before it uses them, and adds
them to the record afterwards. A problem that served one purpose for a router
(training, selection, proof or test) raises an error if it is used for another
purpose, whichever shards or runs it comes from.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import hashlib
import json
import pathlib
from typing import Any
from typing import Self

from routing import types
from routing.tasks import splits

# Split -> what a stage does with its problems, for error messages.
_USES = {
    'train': 'train on',
    'select': 'select on',
    'prove': 'prove on',
    'test': 'test on',
}


@dataclasses.dataclass(frozen=True)
class Seen:
  """The hashes of the questions that a router has seen, in disjoint splits.

  train: questions that a policy was trained on.
  select: questions that were used for early stopping or any other choice.
  prove: questions on which a promise was tested.
  test: questions of an evaluation, if the evaluation added them to the record.
  is_known: whether the record is complete. False for a router without a record,
    which may have seen any problem.
  """

  train: frozenset[str] = frozenset()
  select: frozenset[str] = frozenset()
  prove: frozenset[str] = frozenset()
  test: frozenset[str] = frozenset()
  is_known: bool = False

  def __post_init__(self):
    splits.check_disjoint(**self._by_split())

  @property
  def hash(self) -> str:
    """SHA-256 of the record's content, whatever the layout of its file."""
    text = json.dumps(self.to_json(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

  def require_known(self, owner: str = 'The router') -> None:
    """Raises ValueError if the record is not complete.

    Args:
      owner: name of the router or run directory that the record belongs to, for
        the error message.
    """
    if not self.is_known:
      raise ValueError(
          f'{owner} does not say which problems it has seen, so it may have '
          'been trained on these problems. Train the router again, which '
          'writes the missing record (seen.json).'
      )

  def with_inherited(self, other: Self) -> Self:
    """Returns the record with the questions of another router's record added.

    Use it for a policy that learns from trajectories of another router: it
    depends on every problem that the other router has seen. A question in both
    records keeps its split in this one.
    """
    own = frozenset().union(*self._by_split().values())
    # Questions in `own` are not added again, because they could then be in two
    # splits.
    added = {k: v - own for k, v in other._by_split().items()}
    return dataclasses.replace(
        self,
        **{k: v | added[k] for k, v in self._by_split().items()},
        # One incomplete record makes the union incomplete.
        is_known=self.is_known and other.is_known,
    )

  def with_problems(
      self, split: str, problems: Iterable[types.Problem]
  ) -> Self:
    """Returns the record with `problems` added as seen in `split`.

    Raises:
      ValueError: as `check` does.
    """
    hashes = self._checked(split, problems)
    return dataclasses.replace(self, **{split: getattr(self, split) | hashes})

  def check(self, split: str, problems: Iterable[types.Problem]) -> None:
    """Raises ValueError if a problem was seen in another split than `split`.

    Problems that were seen in the same split are allowed. In `prove` this is
    needed, because each operating point of a calibration tests its own promise
    on the same problems, and an interrupted calibration is repeated. A second
    calibration that was chosen after the first one raises an error elsewhere,
    in `calibration.looks`.

    Raises:
      ValueError: if the record is not complete, the split is unknown, or a
        problem was seen in another split (the message names the first one).
    """
    self._checked(split, problems)

  def _checked(
      self, split: str, problems: Iterable[types.Problem]
  ) -> frozenset[str]:
    """Returns the hashes of `problems`; arguments and errors as in `check`.

    Problems are read once and not kept.
    """
    splits.check_names([split])
    self.require_known()
    seen_as = {
        digest: name
        for name, hashes in self._by_split().items()
        if name != split
        for digest in hashes
    }
    hashes, first, num_refused, total = set(), None, 0, 0
    for problem in problems:
      total += 1
      # Problems are compared by the hash of their question, because the same
      # question may have different ids in different sources.
      digest = splits.question_hash(problem.question)
      hashes.add(digest)
      if digest in seen_as:
        first = first or (problem, digest)
        num_refused += 1
    if first:
      problem, digest = first
      raise ValueError(
          f'Problem {problem.id!r} (hash {digest}) is there to {_USES[split]}, '
          f'but the router has seen it in split {seen_as[digest]!r}; allowed: '
          f'problems never seen, or seen in split {split!r} only. '
          f'{num_refused} of {total} problems are refused.'
      )
    return frozenset(hashes)

  def to_json(self) -> dict[str, Any]:
    """Returns the record as a JSON-like value with sorted lists of hashes."""
    lists = {name: sorted(x) for name, x in self._by_split().items()}
    return {'is_known': self.is_known, **lists}

  @classmethod
  def from_json(cls, content: Mapping[str, Any]) -> Self:
    """Returns the record with the given content; inverts `to_json`.

    Raises:
      ValueError: if fields are missing or unknown, or two splits overlap.
    """
    fields = ['is_known', *splits.SPLITS]
    # All fields are required, because a missing split must not be read as an
    # empty one.
    if sorted(content) != sorted(fields):
      raise ValueError(
          f'The record of seen problems has {", ".join(sorted(content))}; '
          f'allowed: {", ".join(fields)}, all of them.'
      )
    sets = {name: frozenset(content[name]) for name in splits.SPLITS}
    return cls(**sets, is_known=content['is_known'])

  def _by_split(self) -> dict[str, frozenset[str]]:
    """Returns the question hashes of each split."""
    return {name: getattr(self, name) for name in splits.SPLITS}


UNKNOWN = Seen()  # The record of a router that was saved without one.
NOTHING = Seen(is_known=True)  # The record of a router before its training.


def write(path: pathlib.Path, seen: Seen) -> None:
  """Writes a record to a file, replacing an earlier record.

  The file has about 19 bytes per question.
  """
  text = json.dumps(seen.to_json(), separators=(',', ':')) + '\n'
  # The file is replaced atomically, so that an interruption cannot leave half a
  # record beside the weights of a finished router.
  partial = path.with_name(f'.{path.name}.partial')
  partial.write_text(text)
  partial.replace(path)


def read(path: pathlib.Path) -> Seen:
  """Returns the record in a file, or `UNKNOWN` if the file does not exist.

  Raises:
    ValueError: if the content of the file is not a record.
  """
  if not path.exists():
    return UNKNOWN
  return Seen.from_json(json.loads(path.read_text()))
