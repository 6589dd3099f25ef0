"""Converts problems, steps and calls to Arrow columns and back.

The columns are plain nested lists, so that any Parquet reader can open a shard.
Conversion works on the flat buffers below the lists, not on Python lists: the
arrays of a step are views, and 6,000 ladders load in seconds.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import itertools
import json
from typing import Any

import numpy as np
import pyarrow as pa

from routing import types
from routing.problems import splits

PROBLEM = [
    ('id', pa.string()),
    ('question', pa.string()),
    ('answer', pa.string()),
    ('subject', pa.string()),
    ('meta', pa.string()),  # JSON, since its keys differ between sources.
    # Redundant, for other tools: they can match questions of two files without
    # our normalisation.
    ('question_hash', pa.string()),
]
_CALL = [
    ('route', pa.int32()),
    ('read', pa.int32()),
    ('cached', pa.int32()),
    ('written', pa.int32()),
    ('seconds', pa.float64()),
    ('held', pa.int32()),
]
# Column -> attribute, where the names differ. Files keep the name 'held', under
# which the column was first written.
_ATTRIBUTES = {'held': 'in_context'}
CALL = pa.struct(_CALL)
# Log-probabilities and hidden states are float32, as engines give them; seconds
# and scores are float64, so that sums and thresholds come back exactly.
STEP = pa.struct(
    [
        ('text', pa.string()),
        ('token_ids', pa.list_(pa.int32())),
        ('log_probs', pa.list_(pa.float32())),
        ('top_log_probs', pa.list_(pa.list_(pa.float32()))),
        ('is_final', pa.bool_()),
        *_CALL,
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
  """Returns the columns of `PROBLEM`, one entry per problem."""
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
  """Returns the problems of a table; the inverse of `encode_problems`."""
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
  # A cast would wrap around in silence, and other lists would be read back.
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
  """Returns `values` cut into consecutive lists of the given lengths.

  Args:
    lengths: length of each list.
    values: all entries, in order.
    is_null: for each list, whether it is null instead.
  """
  mask = None if is_null is None else pa.array(is_null, pa.bool_())
  return pa.ListArray.from_arrays(_offsets(lengths), values, mask=mask)


def nest_all(
    rows: Sequence[Sequence[Any]],
    encode_items: Callable[[Sequence[Any]], pa.Array],
) -> pa.ListArray:
  """Returns a column with one list of encoded items per row.

  The items of all rows are encoded together, which is much faster than row by
  row, and then cut into rows.
  """
  items = list(itertools.chain.from_iterable(rows))
  return nest([len(row) for row in rows], encode_items(items))


def _flat(arrays: Sequence[np.ndarray], dtype: type) -> pa.Array:
  """Returns all entries of the arrays, flattened and concatenated."""
  # The empty array makes the concatenation valid, and typed, for no arrays.
  return pa.array(
      np.concatenate([np.zeros(0, dtype), *map(np.ravel, arrays)]).astype(dtype)
  )


def encode(
    struct: pa.StructType,
    items: Sequence[Any],
    arrays: Mapping[str, pa.Array] | None = None,
) -> pa.StructArray:
  """Returns the attributes of `items` as a struct array.

  Args:
    struct: the type; its fields name the attributes.
    items: n objects.
    arrays: field name -> Arrow array of length n, for fields that are encoded
      already.
  """
  arrays = arrays or {}
  columns = [
      arrays[field.name]
      if field.name in arrays
      else pa.array(
          [getattr(x, _ATTRIBUTES.get(field.name, field.name)) for x in items],
          field.type,
      )
      for field in struct
  ]
  return pa.StructArray.from_arrays(columns, fields=list(struct))


def encode_steps(steps: Sequence[types.Step]) -> pa.StructArray:
  """Returns the steps as one struct array.

  Raises:
    ValueError: if the log-probabilities of a step do not match its tokens.
  """
  # The lists below are cut by token counts. A step with other lengths would
  # shift the entries of all steps after it, without an error.
  for step in steps:
    _check_lengths(step)
  num_tokens = [len(step.token_ids) for step in steps]
  tops = [np.asarray(step.top_log_probs, np.float32) for step in steps]
  hidden = [step.hidden for step in steps]
  arrays = {
      'token_ids': nest(
          num_tokens, _flat([step.token_ids for step in steps], np.int32)
      ),
      'log_probs': nest(
          [len(step.log_probs) for step in steps],
          _flat([step.log_probs for step in steps], np.float32),
      ),
      # Two levels: the tokens of a step, then the k entries of a token. k may
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
      **{
          name: pa.array(
              [getattr(x.usage, _ATTRIBUTES.get(name, name)) for x in steps],
              kind,
          )
          for name, kind in _CALL
      },
  }
  return encode(STEP, steps, arrays)


def _check_lengths(step: types.Step) -> None:
  """Raises ValueError unless all tokens of a step have log-probabilities.

  No log-probabilities at all are allowed too.
  """
  num_tokens = len(step.token_ids)
  shapes = np.shape(step.log_probs), np.shape(step.top_log_probs)
  if shapes[0] not in ((num_tokens,), (0,)) or (
      len(shapes[1]) != 2 or shapes[1][0] != num_tokens
  ):
    raise ValueError(
        f'Step {step.text!r} has {num_tokens} tokens, but log_probs of shape '
        f'{shapes[0]} and top_log_probs of shape {shapes[1]}; allowed: '
        f'({num_tokens},), or (0,) where the engine gives none, and '
        f'({num_tokens}, k).'
    )


def _lists(array: pa.ListArray) -> tuple[np.ndarray, pa.Array]:
  """Returns the offsets `[n + 1]` of n lists, and the values they point into.

  `values` holds the whole buffer even if the array is a slice of it, and the
  offsets are absolute. So the two fit together.
  """
  return array.offsets.to_numpy(), array.values


def unnest(
    column: pa.ListArray | pa.ChunkedArray,
    decode: Callable[[pa.StructArray], list],
) -> list[list]:
  """Returns the decoded items of each row of a list column.

  The inverse of `nest_all`: all items are decoded together, then cut into rows.
  """
  if not len(column):
    return []  # A chunked column without chunks cannot be combined.
  if isinstance(column, pa.ChunkedArray):
    column = column.combine_chunks()
  offsets, values = _lists(column)
  # Once for all rows: the cost per call is that of many Arrow operations.
  items = decode(values)
  return [items[a:b] for a, b in itertools.pairwise(offsets)]


def decode_calls(structs: pa.StructArray) -> list[types.Usage]:
  """Returns the usage of each call, or of each step, of a struct array."""
  # `_CALL` lists its fields in the order of the arguments of `types.Usage`.
  call = [structs.field(name).to_pylist() for name, _ in _CALL]
  return list(map(types.Usage, *call))


def decode_steps(structs: pa.StructArray) -> list[types.Step]:
  """Returns the steps of a struct array; their arrays are read-only views."""
  plain = {
      name: structs.field(name).to_pylist() for name in ('text', 'is_final')
  }
  usages = decode_calls(structs)
  token_bounds, token_ids = _lists(structs.field('token_ids'))
  token_ids = token_ids.to_numpy().tolist()  # Python integers; JSON-like.
  prob_bounds, log_probs = _lists(structs.field('log_probs'))
  log_probs = log_probs.to_numpy()
  top_bounds, tops = _lists(structs.field('top_log_probs'))
  entry_bounds, entries = _lists(tops)
  entries = entries.to_numpy()
  # Null (no hidden state) differs from an empty list, hence the validity bits.
  hidden = structs.field('hidden')
  has_hidden = hidden.is_valid().to_numpy(zero_copy_only=False)
  hidden_bounds, hidden = _lists(hidden)
  hidden = hidden.to_numpy()

  def top(i: int) -> np.ndarray:
    first, last = top_bounds[i], top_bounds[i + 1]
    # The n lists of k entries of a step are contiguous: a view as `[n, k]`.
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
      )
      for i, usage in enumerate(usages)
  ]
