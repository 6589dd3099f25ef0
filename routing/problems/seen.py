"""The record of the problems that made a router, kept next to its weights.

Each stage checks its problems against the record before it looks at them, and
adds them afterwards. So a router refuses problems that it has seen in another
role, whichever shards or runs they come from.
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

_USES = {
    'train': 'train on',
    'select': 'select on',
    'prove': 'prove on',
    'test': 'test on',
}


@dataclasses.dataclass(frozen=True)
class Seen:
  """The question hashes that a router has seen, by split; no two overlap.

  train: questions that a policy was trained on.
  select: questions that stopped training early, or on which something was
    chosen.
  prove: questions on which a promise was tested.
  test: questions of an evaluation; kept only if the evaluation saves it.
  is_known: the record is complete. False for a router without a record, which
    may have seen any problem.
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
    """SHA-256 of the record, whatever the layout of its file."""
    text = json.dumps(self.to_json(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

  def require_known(self, owner: str = 'The router') -> None:
    """Raises ValueError if the record is unknown.

    Args:
      owner: whose record it is, for the message, e.g. the run directory.
    """
    if not self.is_known:
      raise ValueError(
          f'{owner} does not say which problems it has seen, so it may have '
          'been trained on these; allowed: a router with its seen.json. Train '
          'it again.'
      )

  def with_inherited(self, other: Self) -> Self:
    """Returns the record with what another router had seen before.

    For a policy that learns from trajectories of the other one. A question that
    this record has keeps its split.
    """
    own = frozenset().union(*self._by_split().values())
    added = {k: v - own for k, v in other._by_split().items()}
    return dataclasses.replace(
        self,
        **{k: v | added[k] for k, v in self._by_split().items()},
        is_known=self.is_known and other.is_known,
    )

  def with_problems(
      self, split: str, problems: Iterable[types.Problem]
  ) -> Self:
    """Returns the record that also has `problems` as seen in `split`.

    Raises:
      ValueError: as `check` does.
    """
    problems = list(problems)
    self.check(split, problems)
    hashes = {splits.question_hash(x.question) for x in problems}
    return dataclasses.replace(self, **{split: getattr(self, split) | hashes})

  def check(self, split: str, problems: Iterable[types.Problem]) -> None:
    """Raises ValueError if a problem was seen in another split than `split`.

    A question serves one split only: what is selected on was not trained,
    proved or tested on, what is proved on was not trained, selected or tested
    on, and so forth. The same split again passes. For `prove` this is needed,
    because each point of a calibration tests its own promise, and a calibration
    that was interrupted is repeated. A second calibration on the same problems
    that was chosen after the first is for `calibration.looks` to refuse.

    Raises:
      ValueError: naming the first problem seen in another split, and how many
        there are; or if the record is unknown, or there is no such split.
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
    """Returns a JSON-like value, with sorted lists of hashes."""
    lists = {name: sorted(x) for name, x in self._by_split().items()}
    return {'is_known': self.is_known, **lists}

  @classmethod
  def from_json(cls, content: Mapping[str, Any]) -> Self:
    """Returns the record that `to_json` describes.

    Raises:
      ValueError: if fields are missing or unknown, or two splits overlap.
    """
    wanted = ['is_known', *splits.SPLITS]
    if sorted(content) != sorted(wanted):
      raise ValueError(
          f'The record of seen problems has {", ".join(sorted(content))}; '
          f'allowed: {", ".join(wanted)}, all of them.'
      )
    sets = {name: frozenset(content[name]) for name in splits.SPLITS}
    return cls(**sets, is_known=content['is_known'])

  def _by_split(self) -> dict[str, frozenset[str]]:
    return {name: getattr(self, name) for name in splits.SPLITS}


UNKNOWN = Seen()  # The record of a router that has none.
NOTHING = Seen(is_known=True)  # The record at the start of training.


def write(path: pathlib.Path, seen: Seen) -> None:
  """Writes a record in about 19 bytes a question, replacing an earlier one."""
  text = json.dumps(seen.to_json(), separators=(',', ':')) + '\n'
  # An interruption must not leave half a record next to a finished router.
  partial = path.with_name(f'.{path.name}.partial')
  partial.write_text(text)
  partial.replace(path)


def read(path: pathlib.Path) -> Seen:
  """Reads a record; `UNKNOWN` if there is no file."""
  if not path.exists():
    return UNKNOWN
  return Seen.from_json(json.loads(path.read_text()))
