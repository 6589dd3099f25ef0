"""Defines one split of records on disk, and checks that splits fit together."""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import functools
import itertools
import pathlib
from typing import Any

import ml_collections
import pyarrow as pa
import pyarrow.compute as pc

from experiments import builders
from routing import costs
from routing.routers import card as card_lib
from routing.shards import manifest as manifest_lib
from routing.shards import reader
from routing.shards import reply_shards
from routing.shards import schema

KINDS = {
    'ladders': schema.LADDERS,
    'replies': reply_shards.REPLIES,
    'rollouts': schema.ROLLOUTS,
}


@dataclasses.dataclass(frozen=True)
class Split:
  """The records of one split on disk.

  directory: of the shards.
  kind: of the records.
  num_problems: only this many problems are read, from the first; None = all.
  subject: of these, only the problems of this subject are read; '' = all. For
    ladders only.
  """

  directory: pathlib.Path
  kind: schema.Kind
  num_problems: int | None = None
  subject: str = ''

  @functools.cached_property
  def manifest(self) -> manifest_lib.Manifest:
    """The manifest; of an unfinished split, that of the blocks that are read.

    Raises:
      ValueError: if a problem that is to be read is not collected.
    """
    return reader.complete_manifest(
        self.directory, self.kind, self.num_problems
    )

  @property
  def specs(self) -> tuple[costs.RouteSpec, ...]:
    """The models that the records were collected with."""
    return builders.specs_of(self.manifest.settings)

  @property
  def weights_sha256(self) -> tuple[str, ...]:
    """See `card.Card.weights_sha256`; empty in manifests without hashes."""
    return tuple(self.manifest.settings.get('weights_sha256', ()))

  @property
  def num_records(self) -> int:
    """The number of records that are to be read."""
    if self.subject:
      return sum(map(len, self.tables()))
    return sum(map(self._num_rows, self.manifest.shards))

  @property
  def file_numbers(self) -> list[int]:
    """The indices of the files with problems to read, of whatever subject."""
    shards = enumerate(self.manifest.shards)
    return [index for index, entry in shards if self._num_rows(entry)]

  def file(self, index: int) -> list[Any]:
    """Returns the records of one file that are to be read."""
    return self.kind.from_table(self.table(index))

  def numbered_files(self) -> Iterator[tuple[int, list[Any]]]:
    """Yields the index and the records of each file, one file at a time.

    Raises:
      ValueError: if no problem is of the subject.
    """
    for index, table in self.numbered_tables():
      yield index, self.kind.from_table(table)

  def tables(self) -> Iterator[pa.Table]:
    """Yields the table of each file, with the problems that are to be read."""
    return (table for _, table in self.numbered_tables())

  def numbered_tables(self) -> Iterator[tuple[int, pa.Table]]:
    """Yields what `tables` does, and before each table the index of its file.

    Raises:
      ValueError: if no problem is of the subject.
    """
    is_empty = True
    for index in self.file_numbers:
      table = self.table(index)
      if len(table):
        is_empty = False
        yield index, table
    if self.subject and is_empty:
      raise ValueError(
          f'data.subject is {self.subject!r}, of which {self.directory} has no '
          f'problem; it has {", ".join(self._subjects())}.'
      )

  def _subjects(self) -> list[str]:
    """Returns the subjects of all problems on the disk."""
    found = set()
    for entry in self.manifest.shards:
      table = reader.read_table(self.directory, entry)
      found.update(table['subject'].unique().to_pylist())
    return sorted(map(repr, found))

  def table(self, index: int) -> pa.Table:
    """Returns the table of one file, with the problems that are to be read."""
    entry = self.manifest.shards[index]
    table = reader.read_table(self.directory, entry)
    schema.check_table(table)
    # The problems come in order.
    table = table.slice(0, self._num_rows(entry))
    if self.subject:
      table = table.filter(pc.equal(table['subject'], self.subject))
    return table

  def records(self) -> Iterator[Any]:
    """Yields the records, in the order of the problems."""
    files = (records for _, records in self.numbered_files())
    return itertools.chain.from_iterable(files)

  def _num_rows(self, entry: manifest_lib.ShardEntry) -> int:
    """Returns how many rows of a file are of problems to read."""
    end = entry.first + self.manifest.shard_size
    if self.num_problems is None or end <= self.num_problems:
      return entry.rows
    # A failed problem has no row, so rows are not numbered as problems are.
    failed = self.manifest.failed
    places = range(entry.first, self.num_problems)
    return sum(place not in failed for place in places)


def summary(manifest: manifest_lib.Manifest, directory: pathlib.Path) -> str:
  """Returns one line that says how much a directory holds."""
  rows = sum(shard.rows for shard in manifest.shards)
  shards, failed = len(manifest.shards), len(manifest.failures)
  line = f'{rows} {manifest.kind} in {shards} shards under {directory}'
  if not failed:
    return line
  first = manifest.failures[0]
  return (
      f'{line}; {failed} problems failed and are listed in '
      f'{manifest_lib.FILE_NAME}. The first is {first.id}: {first.reason}'
  )


def check_card(
    card: card_lib.Card, config: ml_collections.ConfigDict, split: Split
) -> None:
  """Raises ValueError unless router, records and configuration fit together.

  Models, weights, protocol and cost metric must be the same.
  """
  if split.specs != card.specs:
    raise ValueError(
        f'{split.directory} was collected with {_names(split.specs)}, but the '
        f'router was trained for {_names(card.specs)}; use the same models.'
    )
  check_weights(card, split.weights_sha256, f'{split.directory} is')
  protocol = builders.protocol(config)
  if card.protocol != protocol:
    raise ValueError(
        f'The router was trained for {card.protocol.name}, '
        f'{card.protocol.view}; use that protocol, not {protocol.name}, '
        f'{protocol.view}.'
    )
  if card.metric != config.cost_metric:
    raise ValueError(
        f'The router was trained for cost metric {card.metric!r}; set '
        f'cost_metric to it, not to {config.cost_metric!r}.'
    )


def check_weights(card: card_lib.Card, found: Sequence[str], what: str) -> None:
  """Raises ValueError unless the models are those a router was trained on.

  Two pairs may have the same names, sizes and prices. An older card, without
  hashes, is not compared.

  Args:
    card: of the router.
    found: the hashes to compare, as `card.weights_sha256`.
    what: where they are from, with a verb, e.g. 'shards/test is'.
  """
  if card.weights_sha256 and tuple(found) != card.weights_sha256:
    raise ValueError(
        f'{what} of models with weights {_shown(found)}, but the router was '
        f'trained on {_shown(card.weights_sha256)}; use the same models.'
    )


def check_same_pair(split: Split, other: Split) -> None:
  """Raises ValueError unless two splits were collected with the same models."""
  for name, a, b in (
      ('models', _names(split.specs), _names(other.specs)),
      ('weights', _shown(split.weights_sha256), _shown(other.weights_sha256)),
  ):
    if a != b:
      raise ValueError(
          f'{split.directory} was collected with {name} {a}, but '
          f'{other.directory} with {b}. Collect both with the same models.'
      )


def _shown(weights: Sequence[str]) -> str:
  return ', '.join(weights) or 'that were not recorded'


def _names(specs: Sequence[costs.RouteSpec]) -> str:
  return ', '.join(f'{x.name} ({x.parameters:,} parameters)' for x in specs)
