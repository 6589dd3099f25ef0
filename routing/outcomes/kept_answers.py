"""The outcomes of one router's live answers, in memory and in a file.

An answer is appended to the file when it is finished; many that are finished
within a moment are appended together. So an interruption loses none, and a
process that is killed no more than those of a moment. A problem that an engine
refuses is kept as well, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
import pathlib
import re
import time
from typing import Any

from absl import logging

from routing import types
from routing.shards import manifest as manifest_lib
from routing.shards import record_log

_MOMENT = 0.2  # Seconds. Fast models finish hundreds of answers in a second.


@dataclasses.dataclass(frozen=True)
class Answer:
  """What is kept of one live answer.

  is_correct: the grade.
  cost: cost metric -> cost of all calls, in the unit of the metric.
  wasted: cost metric -> the part of `cost` for tokens that a model wrote
    speculatively and that did not enter the answer.
  is_cut: whether the token limit cut the answer off; None = not recorded.
  calls: the fields of every `types.Call`, in order; empty in older files.
  num_discarded: tokens of the drafts and samples that were paid and not kept.
  """

  is_correct: bool
  cost: Mapping[str, float]
  wasted: Mapping[str, float]
  is_cut: bool | None = None
  calls: Sequence[Mapping[str, Any]] = ()
  num_discarded: int = 0


@dataclasses.dataclass(frozen=True)
class Refused:
  """Stands in place of an `Answer` that an engine refused; says why."""

  reason: str


Outcome = Answer | Refused


class Kept:
  """The outcomes of one router so far, in memory and in its file.

  Args:
    asked: the router, with its `name` and `setting`; see `live_answers.Asked`.
    key: what the answers depend on, JSON-like.
    problems: N problems.
    folder: where the file is; None = nothing is kept.

  Raises:
    ValueError: if the file of this name has answers under another key.
  """

  def __init__(
      self,
      asked: Any,
      key: Mapping[str, Any],
      problems: Sequence[types.Problem],
      folder: pathlib.Path | None,
  ):
    self.asked, self.problems = asked, problems
    self._names = [manifest_lib.hash_problems([x]) for x in problems]
    # NaN is not allowed: it would not equal itself when read back.
    self._key = json.loads(json.dumps(key, allow_nan=False))
    # The stem lets people find a file; the hash of the whole key makes the name
    # unique.
    stem = re.sub(r'\W+', '-', asked.name)[:60]
    name = f'{stem}-{manifest_lib.hash_json(self._key)[:16]}.log'
    self._path = None if folder is None else folder / name
    self._found: dict[str, Outcome] = {}
    self._has_key = False
    self._pending: list[bytes] = []
    self._last_written = -_MOMENT
    if self._path is not None:
      self._load(record_log.read(self._path))

  def __len__(self) -> int:
    return len(self.problems)

  def repair(self) -> None:
    """Reads the file again, and removes an unfinished record at its end."""
    if self._path is None:
      return
    self._load(record_log.repair(self._path))

  def missing(self) -> list[int]:
    """Returns the indices of the problems without an outcome."""
    return [i for i, x in enumerate(self._names) if x not in self._found]

  def add(self, index: int, outcome: Outcome) -> None:
    """Keeps the outcome of a problem."""
    name = self._names[index]
    self._found[name] = outcome
    if isinstance(outcome, Refused):
      logging.warning(
          'Left out: problem %s was refused, under %s at %s: %s',
          self.problems[index].id,
          self.asked.name,
          self.asked.setting,
          outcome.reason,
      )
    if self._path is not None:
      if not self._has_key:
        self._pending.append(_encode({'key': self._key}))
        self._has_key = True
      kind = 'refused' if isinstance(outcome, Refused) else 'answer'
      self._pending.append(_encode({'problem': name, kind: vars(outcome)}))
      if time.monotonic() - self._last_written >= _MOMENT:
        self.flush()

  def flush(self) -> None:
    """Writes what is not in the file yet; to be called after the last one."""
    if self._pending:
      record_log.append(self._path, *self._pending)
      self._pending.clear()
      self._last_written = time.monotonic()

  def outcomes(self) -> list[Outcome]:
    """Returns the outcome of each problem; none may be missing."""
    return [self._found[name] for name in self._names]

  def _load(self, records: Sequence[bytes]) -> None:
    """Takes over the records of a file, the first of which has its key."""
    rows = [json.loads(record) for record in records]
    self._has_key = bool(rows)
    if rows and rows[0].get('key') != self._key:
      raise ValueError(
          f'{self._path} has answers under other settings, although its name '
          'is that of these. Delete it.'
      )
    for row in rows[1:]:
      self._found[row['problem']] = (
          Refused(**row['refused'])
          if 'refused' in row
          else Answer(**row['answer'])
      )


def _encode(row: Mapping[str, Any]) -> bytes:
  """Returns a record of a file."""
  return json.dumps(row, allow_nan=False).encode()
