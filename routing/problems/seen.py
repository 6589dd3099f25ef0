"""The record of the problems that a router has seen, saved with its weights.

Each stage checks its problems against the record before it uses them, and adds
them afterwards. So a problem that served one purpose for a router (training,
selection, proof, test) raises an error if it is used for another, whichever
shards or runs it comes from.
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
from routing.problems import splits

# What a stage does with the problems of each split, for error messages.
_USES = {
    'train': 'train on',
    'select': 'select on',
    'prove': 'prove on',
    'test': 'test on',
}


@dataclasses.dataclass(frozen=True)
class Seen:
  """The hashes of the questions that a router has seen, by disjoint splits.

  train: questions that a policy was trained on.
  select: questions that were used for early stopping or any other choice.
  prove: questions on which a promise was tested.
  test: questions of an evaluation, if that evaluation saved them.
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
    """SHA-256 of the content, independent of the layout of the file."""
    text = json.dumps(self.to_json(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

  def require_known(self, owner: str = 'The router') -> None:
    """Raises ValueError if the record is not complete.

    Args:
      owner: whose record it is, for the message, e.g. the run directory.
    """
    if not self.is_known:
      raise ValueError(
          f'{owner} does not say which problems it has seen, so it may have '
          'been trained on these. A router with its seen.json is needed; train '
          'it again.'
      )

  def with_inherited(self, other: Self) -> Self:
    """Returns the record with the questions of another router's record added.

    A policy that learns from trajectories of another router inherits what that
    router has seen. A question that is in both keeps the split it has here.
    """
    own = frozenset().union(*self._by_split().values())
    # Without `own`, a question in two splits would break the disjointness.
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
    problems = list(problems)
    self.check(split, problems)
    hashes = {splits.question_hash(x.question) for x in problems}
    return dataclasses.replace(self, **{split: getattr(self, split) | hashes})

  def check(self, split: str, problems: Iterable[types.Problem]) -> None:
    """Raises ValueError if a problem was seen in another split than `split`.

    Problems that were seen in the same split pass. `prove` needs this: each
    operating point of a calibration tests its own promise on them, and an
    interrupted calibration is repeated. A second calibration on the same
    problems, chosen after the first, raises an error in `calibration.looks`.

    Raises:
      ValueError: if the record is not complete, or the split is unknown; or,
        naming the first problem, if some were seen in another split.
    """
    splits.check_names([split])
    self.require_known()
    seen_as = {
        digest: name
        for name, hashes in self._by_split().items()
        if name != split
        for digest in hashes
    }
    problems = list(problems)
    digests = [splits.question_hash(x.question) for x in problems]
    # By hash of the question: ids differ between sources of the same question.
    refused = [i for i, digest in enumerate(digests) if digest in seen_as]
    if refused:
      first, digest = problems[refused[0]], digests[refused[0]]
      raise ValueError(
          f'Problem {first.id!r} (hash {digest}) is there to {_USES[split]}, '
          f'but the router has seen it as {seen_as[digest]!r}; allowed: '
          f'problems never seen, or seen as {split!r} only. '
          f'{len(refused)} of {len(problems)} problems are refused.'
      )

  def to_json(self) -> dict[str, Any]:
    """Returns the record as a JSON-like value, with sorted lists of hashes."""
    lists = {name: sorted(x) for name, x in self._by_split().items()}
    return {'is_known': self.is_known, **lists}

  @classmethod
  def from_json(cls, content: Mapping[str, Any]) -> Self:
    """Returns the record of a value that `to_json` returned.

    Raises:
      ValueError: if fields are missing or unknown, or two splits overlap.
    """
    fields = ['is_known', *splits.SPLITS]
    # Exactly these: a missing split must not read as an empty one.
    if sorted(content) != sorted(fields):
      raise ValueError(
          f'The record of seen problems has {", ".join(sorted(content))}; '
          f'allowed: {", ".join(fields)}, all of them.'
      )
    sets = {name: frozenset(content[name]) for name in splits.SPLITS}
    return cls(**sets, is_known=content['is_known'])

  def _by_split(self) -> dict[str, frozenset[str]]:
    return {name: getattr(self, name) for name in splits.SPLITS}


UNKNOWN = Seen()  # For a router that was saved without a record.
NOTHING = Seen(is_known=True)  # For a router before its training.


def write(path: pathlib.Path, seen: Seen) -> None:
  """Writes a record to a file, replacing an earlier one.

  The file takes about 19 bytes per question.
  """
  text = json.dumps(seen.to_json(), separators=(',', ':')) + '\n'
  # Atomic: an interruption must not leave half a record with a finished router.
  partial = path.with_name(f'.{path.name}.partial')
  partial.write_text(text)
  partial.replace(path)


def read(path: pathlib.Path) -> Seen:
  """Returns the record in a file, or `UNKNOWN` if there is no file.

  Raises:
    ValueError: if the file is not a record.
  """
  if not path.exists():
    return UNKNOWN
  return Seen.from_json(json.loads(path.read_text()))
