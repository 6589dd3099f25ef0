"""Two kinds of shards as Arrow tables with one row per problem.

Kind 'ladders' holds all that training needs in `escalate`; kind 'rollouts'
holds trajectories of a behaviour policy in any protocol. Kind 'replies' is
defined in `shards.reply_shards`. Each row is self-contained: nothing in a shard
refers to another file.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import pyarrow as pa

from routing import types
from routing.shards import columns

# Increase it with every change of columns or of their meaning. In version 3
# answers are written to the end after the last decision, and replies hold the
# token ids of their prompts.
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

  name: name in the manifest, and prefix of file names.
  fields: the columns besides those of the problem.
  encode: records -> column name -> column, for each of `fields`.
  decode: (table, its problems) -> records.
  """

  name: str
  fields: Sequence[tuple[str, pa.DataType]]
  encode: Callable[[Sequence[Any]], Mapping[str, Any]]
  decode: Callable[[pa.Table, Sequence[types.Problem]], list[Any]]

  @property
  def schema(self) -> pa.Schema:
    """The columns of a table, with the schema version in the metadata."""
    # In the file as well, since a shard may be moved without its manifest.
    return pa.schema(
        [*columns.PROBLEM, *self.fields],
        metadata={_VERSION_KEY: str(VERSION)},
    )

  def to_table(self, records: Sequence[Any]) -> pa.Table:
    """Returns the records as a table, one row each.

    Raises:
      ValueError: if a step's log-probabilities do not match its tokens.
    """
    # With an explicit schema, an empty list of records has typed columns, too.
    problems = columns.encode_problems([x.problem for x in records])
    return pa.table({**problems, **self.encode(records)}, schema=self.schema)

  def from_table(self, table: pa.Table) -> list[Any]:
    """Returns the records of a table; the inverse of `to_table`.

    Arrays are read-only views. The `top_log_probs` of a step without tokens
    have shape `[0, 0]`, because lists do not record k.

    Raises:
      ValueError: if the table is of another schema version.
    """
    # Tables written by other tools may have no metadata at all.
    metadata = table.schema.metadata or {}
    version = metadata.get(_VERSION_KEY)
    check_version(version.decode() if version else None, 'A table')
    return self.decode(table, columns.decode_problems(table))


def check_version(found: int | str | None, where: str) -> None:
  """Raises ValueError unless `found` is the version that this code reads.

  Args:
    found: the version; None = not recorded.
    where: what has this version, for the message.
  """
  if str(found) != str(VERSION):
    raise ValueError(
        f'{where} has schema version {found}; this code reads version '
        f'{VERSION}. Collect the data again, or use the code that wrote it.'
    )


def _encode_ladders(ladders: Sequence[types.Ladder]) -> dict[str, Any]:
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
  return columns.encode(columns.COMPLETION, completions)


def _decode_completions(structs: pa.StructArray) -> list[types.Completion]:
  return [types.Completion(**row) for row in structs.to_pylist()]


def _encode_rollouts(rollouts: Sequence[types.Rollouts]) -> dict[str, Any]:
  return {
      'reference': _encode_completions([x.reference for x in rollouts]),
      'trajectories': columns.nest_all(
          [x.trajectories for x in rollouts], _encode_trajectories
      ),
  }


def _decode_rollouts(
    table: pa.Table, problems: Sequence[types.Problem]
) -> list[types.Rollouts]:
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
  """Returns the trajectories without their problem, which the row holds."""
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
  """Returns the fields of each trajectory, except its problem."""
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
  # Transposes columns of fields to one dictionary per trajectory.
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
# By the name in a manifest.
KINDS = {kind.name: kind for kind in (LADDERS, ROLLOUTS)}
