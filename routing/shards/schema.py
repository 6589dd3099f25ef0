"""Converts ladders and rollouts to Arrow tables with one row per problem.

Shards of the kind 'ladders' have everything that training needs in `escalate`.
Shards of the kind 'rollouts' have trajectories of a behaviour policy in any
protocol. The kind 'replies' is defined in `shards.reply_shards`. Each row is
self-contained: nothing in a shard refers to another file.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import pyarrow as pa

from routing import types
from routing.shards import columns

# Version of the file format; increase it with every change of the columns or of
# their meaning. Since version 3, the last chosen route writes the answer to its
# end after the last decision, and replies have the token ids of their prompts.
VERSION = 3
_VERSION_KEY = b'routing.schema_version'

TRAJECTORY = pa.struct(
    [
        ('steps', pa.list_(columns.STEP)),
        ('discarded', pa.list_(columns.STEP)),
        ('decisions', pa.list_(columns.DECISION)),
        ('calls', pa.list_(columns.CALL)),
        ('is_correct', pa.bool_()),
    ]
)


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of record, with its conversion to a table and back.

  name: name of the kind in the manifest; shard files begin with it.
  fields: (name, type) of each column in addition to those of the problem.
  encode: records -> {column name: column}, for each of `fields`.
  decode: (table, the problem of each row) -> records.
  """

  name: str
  fields: Sequence[tuple[str, pa.DataType]]
  encode: Callable[[Sequence[Any]], Mapping[str, Any]]
  decode: Callable[[pa.Table, Sequence[types.Problem]], list[Any]]

  @property
  def schema(self) -> pa.Schema:
    """The schema of a table, with the schema version in its metadata."""
    # The version is in each file, not only in the manifest, because a shard may
    # be moved without its manifest.
    return pa.schema(
        [*columns.PROBLEM, *self.fields],
        metadata={_VERSION_KEY: str(VERSION)},
    )

  def to_table(self, records: Sequence[Any]) -> pa.Table:
    """Returns the records as a table, one row each.

    Raises:
      ValueError: if a step's log-probabilities do not match its tokens.
    """
    # The schema is given, because an empty list of records would otherwise have
    # columns without a type.
    problems = columns.encode_problems([x.problem for x in records])
    return pa.table({**problems, **self.encode(records)}, schema=self.schema)

  def from_table(self, table: pa.Table) -> list[Any]:
    """Returns the records in a table; inverts `to_table`.

    Arrays are read-only views of the table's buffers. The `top_log_probs` of a
    step without tokens have shape `[0, 0]`: k cannot be read from empty lists.

    Raises:
      ValueError: if the table has another schema version.
    """
    check_table(table)
    return self.decode(table, columns.decode_problems(table))


def check_table(table: pa.Table) -> None:
  """Raises ValueError unless a table has the version that this code reads."""
  # A table that another tool wrote may have no metadata.
  metadata = table.schema.metadata or {}
  version = metadata.get(_VERSION_KEY)
  check_version(version.decode() if version else None, 'A table')


def check_version(found: int | str | None, where: str) -> None:
  """Raises ValueError unless `found` is the version that this code reads.

  Args:
    found: the version in a file; None = the file does not say.
    where: name of the file or table, for the error message.
  """
  if str(found) != str(VERSION):
    raise ValueError(
        f'{where} has schema version {found}; this code reads version '
        f'{VERSION}. Collect the data again, or use the code that wrote it.'
    )


def _encode_ladders(ladders: Sequence[types.Ladder]) -> dict[str, Any]:
  """Returns the columns of ladders, without those of their problems."""
  return {
      'small_correct': [ladder.is_correct for ladder in ladders],
      'steps': columns.nest_all(
          [ladder.steps for ladder in ladders], columns.encode_steps
      ),
      'completions': columns.nest_all(
          [ladder.completions for ladder in ladders], _encode_completions
      ),
  }


def _decode_ladders(
    table: pa.Table, problems: Sequence[types.Problem]
) -> list[types.Ladder]:
  """Returns the ladder in each row of a table; inverts `_encode_ladders`."""
  return [
      types.Ladder(problem, tuple(steps), is_correct, tuple(completions))
      for problem, steps, is_correct, completions in zip(
          problems,
          columns.unnest(table['steps'], columns.decode_steps),
          table['small_correct'].to_pylist(),
          columns.unnest(table['completions'], _decode_completions),
          strict=True,
      )
  ]


def _encode_completions(
    completions: Sequence[types.Completion],
) -> pa.StructArray:
  """Returns completions as an Arrow array of type `columns.COMPLETION`."""
  return columns.encode(columns.COMPLETION, completions)


def _decode_completions(structs: pa.StructArray) -> list[types.Completion]:
  """Returns the completions in an Arrow array of type `columns.COMPLETION`."""
  return [types.Completion(**row) for row in structs.to_pylist()]


def _encode_rollouts(rollouts: Sequence[types.Rollouts]) -> dict[str, Any]:
  """Returns the columns of rollouts, without those of their problems."""
  return {
      'reference': _encode_completions([x.reference for x in rollouts]),
      'trajectories': columns.nest_all(
          [x.trajectories for x in rollouts], _encode_trajectories
      ),
  }


def _decode_rollouts(
    table: pa.Table, problems: Sequence[types.Problem]
) -> list[types.Rollouts]:
  """Returns the rollouts in each row of a table; inverts `_encode_rollouts`."""
  rows = columns.unnest(table['trajectories'], _decode_trajectories)
  return [
      types.Rollouts(
          problem=problem,
          reference=types.Completion(**reference),
          trajectories=tuple(
              types.Trajectory(problem=problem, **fields) for fields in row
          ),
      )
      for problem, reference, row in zip(
          problems, table['reference'].to_pylist(), rows, strict=True
      )
  ]


def _encode_trajectories(
    trajectories: Sequence[types.Trajectory],
) -> pa.StructArray:
  """Returns trajectories as an Arrow array of type `TRAJECTORY`.

  Their problem is left out, because it is in other columns of the same row.
  """
  encoders = {
      'steps': columns.encode_steps,
      'discarded': columns.encode_steps,
      'decisions': lambda items: columns.encode(columns.DECISION, items),
      'calls': lambda items: columns.encode(columns.CALL, items),
  }
  lists = {
      name: columns.nest_all([getattr(x, name) for x in trajectories], encode)
      for name, encode in encoders.items()
  }
  return columns.encode(TRAJECTORY, trajectories, lists)


def _decode_trajectories(structs: pa.StructArray) -> list[dict[str, Any]]:
  """Returns {field name: value} of each trajectory, without its problem."""
  decoders = {
      'steps': columns.decode_steps,
      'discarded': columns.decode_steps,
      'decisions': lambda x: [types.Decision(**row) for row in x.to_pylist()],
      'calls': columns.decode_calls,
  }
  lists = {
      name: map(tuple, columns.unnest(structs.field(name), decode))
      for name, decode in decoders.items()
  }
  # `fields` has one sequence per field; the result has one dictionary per
  # trajectory.
  fields = lists | {'is_correct': structs.field('is_correct').to_pylist()}
  return [
      dict(zip(fields, values, strict=True))
      for values in zip(*fields.values(), strict=True)
  ]


# Column names are part of the file format: renaming one needs a new `VERSION`.
LADDERS = Kind(
    'ladders',
    [
        ('small_correct', pa.bool_()),
        ('steps', pa.list_(columns.STEP)),
        ('completions', pa.list_(columns.COMPLETION)),
    ],
    _encode_ladders,
    _decode_ladders,
)
ROLLOUTS = Kind(
    'rollouts',
    [('reference', columns.COMPLETION), ('trajectories', pa.list_(TRAJECTORY))],
    _encode_rollouts,
    _decode_rollouts,
)
# Name of a kind in a manifest -> the kind.
KINDS = {kind.name: kind for kind in (LADDERS, ROLLOUTS)}
