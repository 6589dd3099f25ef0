"""Writes and reads shards of replies; each row has the replies on one problem.

A reply is the step that one model writes next after a trace; see
`rollout.all_replies`.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

import pyarrow as pa

from routing import types
from routing.engines import memoized
from routing.engines import prefix_cache
from routing.rollout import all_replies
from routing.shards import columns
from routing.shards import reader
from routing.shards import schema
from routing.shards import writer

# These types are not in `shards.schema`, because that module would then import
# engine code, which readers of ladders do not need.
REPLY = pa.struct(
    [
        ('trace', pa.string()),
        ('step', columns.STEP),
        ('prompt_ids', pa.list_(pa.int32())),
    ]
)
CACHE = pa.struct([('block', pa.int32()), ('keeps_all', pa.bool_())])


def _encode_items(items: Sequence[all_replies.Reply]) -> pa.StructArray:
  """Returns replies as an Arrow array of type `REPLY`."""
  steps = columns.encode_steps([item.step for item in items])
  return columns.encode(REPLY, items, {'step': steps})


def _decode_items(structs: pa.StructArray) -> list[all_replies.Reply]:
  """Returns the replies in an Arrow array of type `REPLY`."""
  traces = structs.field('trace').to_pylist()
  steps = columns.decode_steps(structs.field('step'))
  ids = structs.field('prompt_ids').to_pylist()
  # Null means that the token ids are not known, which is not an empty list.
  return [
      all_replies.Reply(trace, step, None if x is None else tuple(x))
      for trace, step, x in zip(traces, steps, ids, strict=True)
  ]


def _encode(records: Sequence[all_replies.Replies]) -> dict[str, Any]:
  """Returns the columns of a table of replies, one row per problem."""
  rows = [record.replies for record in records]
  return {
      'replies': columns.nest_all(rows, _encode_items),
      # The cache rules are stored once per problem: they differ between routes,
      # not between replies.
      'caches': [
          [dataclasses.asdict(cache) for cache in record.caches]
          for record in records
      ],
  }


def _decode(
    table: pa.Table, problems: Sequence[types.Problem]
) -> list[all_replies.Replies]:
  """Returns the replies on each problem of a table; inverts `_encode`."""
  rows = columns.unnest(table['replies'], _decode_items)
  caches = table['caches'].to_pylist()
  return [
      all_replies.Replies(
          problem,
          tuple(row),
          tuple(prefix_cache.PrefixCache(**cache) for cache in kept),
      )
      for problem, row, kept in zip(problems, rows, caches, strict=True)
  ]


REPLIES = schema.Kind(
    'replies',
    [('replies', pa.list_(REPLY)), ('caches', pa.list_(CACHE))],
    _encode,
    _decode,
)


class ReplyWriter(writer.Writer):
  """A writer of shards of `rollout.all_replies.Replies`."""

  kind = REPLIES


def read(directory: pathlib.Path | str) -> Iterator[all_replies.Replies]:
  """Yields the replies on each problem of a directory, in order.

  The collection need not be finished.

  Raises:
    ValueError: if the directory has no manifest, or its records are of another
      kind; or if a shard or a log is missing or altered (the message names the
      file).
  """
  # An unfinished collection can be used, because an engine generates a missing
  # reply when a router needs it.
  return reader.read_each(directory, REPLIES, is_partial=True)


def remember(
    records: Iterable[all_replies.Replies],
    memories: Sequence[memoized.Memory],
) -> None:
  """Adds replies to the memories from which memoized engines answer requests.

  Args:
    records: the replies on each problem.
    memories: `[A]`, the memory of each route's engine.
  """
  for record in records:
    for reply in record.replies:
      memories[reply.step.route].add(
          record.problem.question, reply.trace, [reply.step]
      )
