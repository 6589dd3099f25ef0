"""Converts problems, steps and calls to Arrow columns and back.

The columns are plain nested lists, so that any Parquet reader can open a shard.
The conversion works on Arrow's flat value buffers and not on Python lists, so
that 6,000 ladders load in seconds. The arrays of a decoded step are views of
these buffers.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import itertools
import json
import operator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from routing import types
from routing.tasks import splits

PROBLEM = [
    ('id', pa.string()),
    ('question', pa.string()),
    ('answer', pa.string()),
    ('subject', pa.string()),
    ('meta', pa.string()),  # JSON, since its keys differ between sources.
    # The hash follows from the question. It is stored for other tools, which
    # can match the questions of two files without our normalisation.
    ('question_hash', pa.string()),
]
_USAGE = [
    ('route', pa.int32()),
    ('read', pa.int32()),
    ('cached', pa.int32()),
    ('written', pa.int32()),
    ('seconds', pa.float64()),
    ('held', pa.int32()),
]
# Column name -> attribute name, for columns with another name than the
# attribute. 'held' is the name under which the column was first written.
_ATTRIBUTES = {'held': 'in_context'}
# Shards that were written before kinds were recorded have no `kind`. The schema
# version is the same, because such shards can still be read.
CALL = pa.struct([*_USAGE, ('kind', pa.string())])
# Older shards have no `is_complete` either.
# Log-probabilities and hidden states are float32, as engines return them.
# Seconds and scores are float64, like Python's numbers, so that sums of seconds
# and comparisons with thresholds are the same after reading.
STEP = pa.struct(
    [
        ('text', pa.string()),
        ('token_ids', pa.list_(pa.int32())),
        ('log_probs', pa.list_(pa.float32())),
        ('top_log_probs', pa.list_(pa.list_(pa.float32()))),
        ('is_final', pa.bool_()),
        *_USAGE,
        ('hidden', pa.list_(pa.float32())),  # Null = no hidden state.
        ('is_complete', pa.bool_()),
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
        ('cached', pa.int32()),  # This and the next: not in older shards.
        ('is_cut', pa.bool_()),
    ]
)
DECISION = pa.struct(
    [
        ('route', pa.int32()),
        ('score', pa.float64()),
        ('probability', pa.float64()),
    ]
)


def encode_problems(
    problems: Sequence[types.Problem],
) -> dict[str, list[str]]:
  """Returns the values of each column in `PROBLEM`, one per problem."""
  return {
      'id': [problem.id for problem in problems],
      'question': [problem.question for problem in problems],
      'answer': [problem.answer for problem in problems],
      'subject': [problem.subject for problem in problems],
      'meta': [
          json.dumps(dict(problem.meta), sort_keys=True) for problem in problems
      ],
      'question_hash': [
          splits.question_hash(problem.question) for problem in problems
      ],
  }


def decode_problems(table: pa.Table) -> list[types.Problem]:
  """Returns the problem of each row of a table; inverts `encode_problems`."""
  # The hash is not a field of `Problem`; it follows from the question.
  names = [name for name, _ in PROBLEM if name != 'question_hash']
  return [
      types.Problem(**{**row, 'meta': json.loads(row['meta'])})
      for row in table.select(names).to_pylist()
  ]


def _offsets(lengths: Sequence[int]) -> np.ndarray:
  """Returns the Arrow offsets of n consecutive lists, `[n + 1]` int32.

  List i holds the values offsets[i]:offsets[i + 1].

  Raises:
    ValueError: if there are more entries than Arrow's lists can index.
  """
  offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
  # The cast to int32 would wrap around without an error, and wrong lists would
  # be read back.
  if offsets[-1] > np.iinfo(np.int32).max:
    raise ValueError(
        f'A shard has {offsets[-1]:,} entries in one column; allowed: at most '
        '2,147,483,647. Set a smaller collect.shard_size.'
    )
  return offsets.astype(np.int32)


def nest(
    lengths: Sequence[int],
    values: pa.Array,
    is_null: Sequence[bool] | None = None,
) -> pa.ListArray:
  """Returns an Arrow array of lists, made from the concatenation of the lists.

  Args:
    lengths: length of each list.
    values: the entries of all lists, in order.
    is_null: for each list, whether it is null; None = no list is null.
  """
  mask = None if is_null is None else pa.array(is_null, pa.bool_())
  return pa.ListArray.from_arrays(_offsets(lengths), values, mask=mask)


def nest_all(
    rows: Sequence[Sequence[Any]],
    encode_items: Callable[[Sequence[Any]], pa.Array],
) -> pa.ListArray:
  """Returns a column in which each row is a list of encoded items.

  The items of all rows are encoded in one call, which is much faster than one
  call per row.

  Args:
    rows: the items of each row, e.g. the steps of each ladder.
    encode_items: items -> Arrow array with one entry per item.
  """
  items = list(itertools.chain.from_iterable(rows))
  return nest([len(row) for row in rows], encode_items(items))


def _flat(arrays: Sequence[npt.ArrayLike], dtype: type) -> pa.Array:
  """Returns the entries of all arrays, flattened and concatenated."""
  # NumPy cannot concatenate zero arrays, hence the empty array in front.
  return pa.array(
      np.concatenate([np.zeros(0, dtype), *map(np.ravel, arrays)]).astype(
          dtype, copy=False
      )
  )


def encode(
    struct: pa.StructType,
    items: Sequence[Any],
    arrays: Mapping[str, pa.Array] | None = None,
) -> pa.StructArray:
  """Returns n objects as a struct array, with one field per attribute.

  Args:
    struct: the Arrow type; its fields name the attributes to encode.
    items: the n objects.
    arrays: field name -> Arrow array of length n, for fields that the caller
      has encoded; None = there are none.
  """
  arrays = arrays or {}
  columns = [
      arrays[field.name]
      if field.name in arrays
      else pa.array(_values(items, field.name), field.type)
      for field in struct
  ]
  return pa.StructArray.from_arrays(columns, fields=list(struct))


def _values(items: Sequence[Any], name: str) -> list[Any]:
  """Returns the attribute of each item that the column `name` holds."""
  return list(map(operator.attrgetter(_ATTRIBUTES.get(name, name)), items))


def encode_steps(steps: Sequence[types.Step]) -> pa.StructArray:
  """Returns the steps as one struct array.

  Raises:
    ValueError: if the log-probabilities of a step do not match its tokens.
  """
  # The lists below are divided by token counts. A step with lists of other
  # lengths would shift the entries of all steps after it, without an error.
  for step in steps:
    _check_lengths(step)
  num_tokens = [len(step.token_ids) for step in steps]
  tops = [np.asarray(step.top_log_probs, np.float32) for step in steps]
  hidden = [step.hidden for step in steps]
  usages = [step.usage for step in steps]
  arrays = {
      'token_ids': nest(
          num_tokens, _flat([step.token_ids for step in steps], np.int32)
      ),
      'log_probs': nest(
          [len(step.log_probs) for step in steps],
          _flat([step.log_probs for step in steps], np.float32),
      ),
      # Lists of lists: a step has one list per token, of k entries each. k may
      # differ between steps.
      'top_log_probs': nest(
          num_tokens,
          nest(
              [top.shape[1] for top in tops for _ in range(len(top))],
              _flat(tops, np.float32),
          ),
      ),
      'hidden': nest(
          [0 if h is None else len(h) for h in hidden],
          _flat([h for h in hidden if h is not None], np.float32),
          is_null=[h is None for h in hidden],
      ),
      **{name: pa.array(_values(usages, name), kind) for name, kind in _USAGE},
  }
  return encode(STEP, steps, arrays)


def _check_lengths(step: types.Step) -> None:
  """Raises ValueError if a step has log-probabilities for some tokens only.

  A step without any log-probabilities is allowed.
  """
  num_tokens = len(step.token_ids)
  shapes = np.shape(step.log_probs), np.shape(step.top_log_probs)
  if shapes[0] not in ((num_tokens,), (0,)) or (
      len(shapes[1]) != 2 or shapes[1][0] != num_tokens
  ):
    raise ValueError(
        f'Step {step.text!r} has {num_tokens} tokens, but log_probs of shape '
        f'{shapes[0]} and top_log_probs of shape {shapes[1]}; allowed for '
        f'log_probs: ({num_tokens},), or (0,) if the engine gives none; for '
        f'top_log_probs: ({num_tokens}, k).'
    )


def _lists(array: pa.ListArray) -> tuple[np.ndarray, pa.Array]:
  """Returns the offsets and the values of n lists.

  List i is values[offsets[i]:offsets[i + 1]]. This also holds if the array is a
  slice of a longer one: `offsets` then has the n + 1 offsets of the slice, and
  `values` has the entries of the whole array.
  """
  return array.offsets.to_numpy(), array.values


def unnest(
    column: pa.ListArray | pa.ChunkedArray,
    decode: Callable[[pa.StructArray], list[Any]],
) -> list[list[Any]]:
  """Returns the decoded items of each row of a list column.

  This inverts `nest_all`: the items of all rows are decoded in one call.

  Args:
    column: the column.
    decode: Arrow array of items -> list of decoded items.
  """
  if not len(column):
    return []  # A chunked column without chunks cannot be combined.
  if isinstance(column, pa.ChunkedArray):
    column = column.combine_chunks()
  offsets, values = _lists(column)
  # One call for all rows, because each call makes many Arrow operations.
  items = decode(values)
  return [items[a:b] for a, b in itertools.pairwise(offsets)]


def decode_calls(structs: pa.StructArray) -> list[types.Call]:
  """Returns the calls in a struct array; inverts `encode` with type `CALL`."""
  fields = [structs.field(name).to_pylist() for name, _ in _USAGE]
  if 'kind' in structs.type.names:  # Older shards have no kinds.
    fields.append(structs.field('kind').to_pylist())
  # The fields in `_USAGE` have the order of the arguments of `types.Call`.
  return list(map(types.Call, *fields))


def decode_steps(structs: pa.StructArray) -> list[types.Step]:
  """Returns the steps of a struct array; their arrays are read-only views."""
  plain = {
      name: structs.field(name).to_pylist() for name in ('text', 'is_final')
  }
  is_complete = [None] * len(structs)  # As in older shards.
  if 'is_complete' in structs.type.names:
    is_complete = structs.field('is_complete').to_pylist()
  # The fields in `_USAGE` have the order of the arguments of `types.Usage`.
  usages = map(
      types.Usage, *(structs.field(name).to_pylist() for name, _ in _USAGE)
  )
  token_bounds, token_ids = _lists(structs.field('token_ids'))
  token_ids = token_ids.to_numpy().tolist()  # Python integers; JSON-like.
  prob_bounds, log_probs = _lists(structs.field('log_probs'))
  log_probs = log_probs.to_numpy()
  top_bounds, tops = _lists(structs.field('top_log_probs'))
  entry_bounds, entries = _lists(tops)
  entries = entries.to_numpy()
  # Null means that there is no hidden state. In the buffers it would look like
  # an empty list, so the validity bits are read as well.
  hidden = structs.field('hidden')
  has_hidden = hidden.is_valid().to_numpy(zero_copy_only=False)
  hidden_bounds, hidden = _lists(hidden)
  hidden = hidden.to_numpy()

  def top(i: int) -> np.ndarray:
    first, last = top_bounds[i], top_bounds[i + 1]
    # The n lists of a step, of k entries each, are contiguous in the buffer. So
    # their values can be viewed as an array `[n, k]`.
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
          usage=usage,
          hidden=hidden[hidden_bounds[i] : hidden_bounds[i + 1]]
          if has_hidden[i]
          else None,
          is_complete=is_complete[i],
      )
      for i, usage in enumerate(usages)
  ]
