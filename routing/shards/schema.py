"""Ladders as Arrow tables: one row a problem, everything needed to train on it.

The columns hold plain nested lists, so that a shard opens anywhere Parquet
does. Reading goes through the flat buffers instead of Python lists: a step's
arrays are views, and 6,000 ladders load in seconds.
"""

from collections.abc import Callable
from collections.abc import Sequence
import itertools
import json

import numpy as np
import pyarrow as pa

from routing import types
from routing.problems import splits

VERSION = 1
_VERSION_KEY = b'routing.schema_version'

STEP = pa.struct(
    [
        ('text', pa.string()),
        ('token_ids', pa.list_(pa.int32())),
        ('log_probs', pa.list_(pa.float32())),
        ('top_log_probs', pa.list_(pa.list_(pa.float32()))),
        ('is_final', pa.bool_()),
        ('route', pa.int32()),
        ('read', pa.int32()),
        ('cached', pa.int32()),
        ('written', pa.int32()),
        ('seconds', pa.float64()),
        ('hidden', pa.list_(pa.float32())),  # Null where the engine gives none.
    ]
)
COMPLETION = pa.struct(
    [
        ('step', pa.int32()),
        ('route', pa.int32()),
        ('sample', pa.int32()),
        ('text', pa.string()),
        ('read', pa.int32()),
        ('written', pa.int32()),
        ('seconds', pa.float64()),
        ('is_correct', pa.bool_()),
        ('is_reused', pa.bool_()),
    ]
)
LADDER = pa.schema(
    [
        ('id', pa.string()),
        ('question', pa.string()),
        ('answer', pa.string()),
        ('subject', pa.string()),
        ('meta', pa.string()),  # JSON.
        ('question_hash', pa.string()),
        ('small_correct', pa.bool_()),
        ('steps', pa.list_(STEP)),
        ('completions', pa.list_(COMPLETION)),
    ],
    metadata={_VERSION_KEY: str(VERSION)},
)


def check_version(found: int | str | None, where: str) -> None:
  """Raises ValueError unless `found` is the version that this code reads."""
  if str(found) != str(VERSION):
    raise ValueError(
        f'{where} has schema version {found}; this code reads version '
        f'{VERSION}. Collect the data anew, or use the code that wrote it.'
    )


def to_table(ladders: Sequence[types.Ladder]) -> pa.Table:
  """The ladders as a table of schema `LADDER`.

  Raises:
    ValueError: if a step's log-probabilities do not match its tokens.
  """
  steps = [step for ladder in ladders for step in ladder.steps]
  completions = [c for ladder in ladders for c in ladder.completions]
  columns = {
      'id': [ladder.problem.id for ladder in ladders],
      'question': [ladder.problem.question for ladder in ladders],
      'answer': [ladder.problem.answer for ladder in ladders],
      'subject': [ladder.problem.subject for ladder in ladders],
      'meta': [
          json.dumps(dict(ladder.problem.meta), sort_keys=True)
          for ladder in ladders
      ],
      'question_hash': [
          splits.question_hash(ladder.problem.question) for ladder in ladders
      ],
      'small_correct': [ladder.is_correct for ladder in ladders],
      'steps': _nest([len(x.steps) for x in ladders], _step_array(steps)),
      'completions': _nest(
          [len(x.completions) for x in ladders],
          _struct_array(
              COMPLETION, lambda name: [getattr(c, name) for c in completions]
          ),
      ),
  }
  return pa.table(columns, schema=LADDER)


def from_table(table: pa.Table) -> list[types.Ladder]:
  """The ladders of a table, as they were given to `to_table`.

  Arrays are read-only views. A step without tokens comes back with
  `top_log_probs` of shape `[0, 0]`.

  Raises:
    ValueError: if the table is of another schema version.
  """
  metadata = table.schema.metadata or {}
  version = metadata.get(_VERSION_KEY)
  check_version(version.decode() if version else None, 'A table')
  rows = table.drop_columns(['steps', 'completions']).to_pylist()
  steps = _unnest(table['steps'], _decode_steps)
  completions = _unnest(table['completions'], _decode_completions)
  return [
      types.Ladder(
          problem=types.Problem(
              id=row['id'],
              question=row['question'],
              answer=row['answer'],
              subject=row['subject'],
              meta=json.loads(row['meta']),
          ),
          steps=tuple(row_steps),
          is_correct=row['small_correct'],
          completions=tuple(row_completions),
      )
      for row, row_steps, row_completions in zip(
          rows, steps, completions, strict=True
      )
  ]


def _offsets(lengths: Sequence[int]) -> np.ndarray:
  """`[n + 1]` int32, where each of n consecutive lists begins and ends."""
  return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(
      np.int32
  )


def _nest(
    lengths: Sequence[int],
    values: pa.Array,
    is_null: Sequence[bool] | None = None,
) -> pa.ListArray:
  """Cuts `values` into lists of the given lengths."""
  mask = None if is_null is None else pa.array(is_null, pa.bool_())
  return pa.ListArray.from_arrays(_offsets(lengths), values, mask=mask)


def _flat(arrays: Sequence[np.ndarray], dtype: type) -> pa.Array:
  """All entries of the arrays, in a row."""
  return pa.array(
      np.concatenate([np.zeros(0, dtype), *map(np.ravel, arrays)]).astype(dtype)
  )


def _struct_array(
    struct: pa.StructType, column: Callable[[str], Sequence]
) -> pa.StructArray:
  """A struct array, `column(name)` giving the values of each field."""
  columns = []
  for field in struct:
    values = column(field.name)
    is_array = isinstance(values, pa.Array)
    columns.append(values if is_array else pa.array(values, field.type))
  return pa.StructArray.from_arrays(columns, fields=list(struct))


def _step_array(steps: Sequence[types.Step]) -> pa.StructArray:
  """The steps as one struct array; lists are built from flat buffers."""
  for step in steps:
    _check_lengths(step)
  num_tokens = [len(step.token_ids) for step in steps]
  tops = [np.asarray(step.top_log_probs, np.float32) for step in steps]
  hidden = [step.hidden for step in steps]
  arrays = {
      'token_ids': _nest(
          num_tokens, _flat([step.token_ids for step in steps], np.int32)
      ),
      'log_probs': _nest(
          num_tokens, _flat([step.log_probs for step in steps], np.float32)
      ),
      'top_log_probs': _nest(
          num_tokens,
          _nest(
              [top.shape[1] for top in tops for _ in range(len(top))],
              _flat(tops, np.float32),
          ),
      ),
      'hidden': _nest(
          [0 if h is None else len(h) for h in hidden],
          _flat([h for h in hidden if h is not None], np.float32),
          is_null=[h is None for h in hidden],
      ),
  }
  usage = ('route', 'read', 'cached', 'written', 'seconds')

  def column(name: str):
    if name in arrays:
      return arrays[name]
    return [getattr(s.usage if name in usage else s, name) for s in steps]

  return _struct_array(STEP, column)


def _check_lengths(step: types.Step) -> None:
  """Raises ValueError unless there is a log-probability for each token."""
  num_tokens = len(step.token_ids)
  shapes = np.shape(step.log_probs), np.shape(step.top_log_probs)
  if shapes[0] != (num_tokens,) or (
      len(shapes[1]) != 2 or shapes[1][0] != num_tokens
  ):
    raise ValueError(
        f'Step {step.text!r} has {num_tokens} tokens, but log_probs of shape '
        f'{shapes[0]} and top_log_probs of shape {shapes[1]}; needed are '
        f'({num_tokens},) and ({num_tokens}, k).'
    )


def _lists(array: pa.ListArray) -> tuple[np.ndarray, pa.Array]:
  """Offsets `[n + 1]` and the values that they point into."""
  return array.offsets.to_numpy(), array.values


def _unnest(
    column: pa.ChunkedArray, decode: Callable[[pa.StructArray], list]
) -> list[list]:
  """Decodes the structs of a list column, and cuts them into rows again."""
  if not len(column):
    return []
  offsets, values = _lists(column.combine_chunks())
  items = decode(values)
  return [items[a:b] for a, b in itertools.pairwise(offsets)]


def _decode_steps(structs: pa.StructArray) -> list[types.Step]:
  """The steps of a struct array."""
  plain = {
      name: structs.field(name).to_pylist()
      for name in ('text', 'is_final', 'route', 'read', 'cached', 'written')
  }
  seconds = structs.field('seconds').to_pylist()
  token_bounds, token_ids = _lists(structs.field('token_ids'))
  token_ids = token_ids.to_numpy().tolist()
  prob_bounds, log_probs = _lists(structs.field('log_probs'))
  log_probs = log_probs.to_numpy()
  top_bounds, tops = _lists(structs.field('top_log_probs'))
  entry_bounds, entries = _lists(tops)
  entries = entries.to_numpy()
  hidden = structs.field('hidden')
  has_hidden = hidden.is_valid().to_numpy(zero_copy_only=False)
  hidden_bounds, hidden = _lists(hidden)
  hidden = hidden.to_numpy()

  def top(i: int) -> np.ndarray:
    first, last = top_bounds[i], top_bounds[i + 1]
    flat = entries[entry_bounds[first] : entry_bounds[last]]
    count = last - first
    return flat.reshape(count, len(flat) // count if count else 0)

  return [
      types.Step(
          text=plain['text'][i],
          token_ids=tuple(token_ids[token_bounds[i] : token_bounds[i + 1]]),
          log_probs=log_probs[prob_bounds[i] : prob_bounds[i + 1]],
          top_log_probs=top(i),
          is_final=plain['is_final'][i],
          usage=types.Usage(
              route=plain['route'][i],
              read=plain['read'][i],
              cached=plain['cached'][i],
              written=plain['written'][i],
              seconds=seconds[i],
          ),
          hidden=hidden[hidden_bounds[i] : hidden_bounds[i + 1]]
          if has_hidden[i]
          else None,
      )
      for i in range(len(structs))
  ]


def _decode_completions(structs: pa.StructArray) -> list[types.Completion]:
  """The completions of a struct array."""
  return [types.Completion(**row) for row in structs.to_pylist()]
