"""Computes the observations of many ladders at once, from a shard's columns.

`observation.observe` defines the features, one trace at a time. At a million
ladders its many small NumPy calls take hours. Here the same numbers come from
operations on the columns of a whole shard, in the same order of additions, so
that the results are the same to the last bit; a test compares them.
"""

from collections.abc import Iterator
import dataclasses
import functools

import numpy as np
import pyarrow as pa

from routing import types
from routing.features import confidence
from routing.features import observation
from routing.features import text


@dataclasses.dataclass(frozen=True)
class Steps:
  """The S steps of N ladders, in order.

  structs: the Arrow array of the steps, of type `columns.STEP`.
  counts: `[N]` int, number of steps of each ladder, >= 1.
  num_tokens, num_log_probs: `[S]` int, the lengths of each step's lists.
  log_probs: float32, of all tokens that have one.
  tops: `[tokens, k]` float32, largest log-probabilities of all tokens.
  usage: tokens and seconds of each step, as arrays `[S]`.
  """

  structs: pa.StructArray
  counts: np.ndarray
  num_tokens: np.ndarray
  num_log_probs: np.ndarray
  log_probs: np.ndarray
  tops: np.ndarray
  usage: types.Usage

  @functools.cached_property
  def first(self) -> np.ndarray:
    """`[N]` int, the index of each ladder's first step."""
    return np.cumsum(self.counts) - self.counts

  def texts(self) -> list[str]:
    """Returns the `[S]` texts."""
    return self.structs.field('text').to_pylist()

  def hidden(self, size: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns which steps have a hidden state, and the states `[S, H]`.

    Returns None if one has another size.
    """
    column = self.structs.field('hidden')
    lengths = column.value_lengths().fill_null(0).to_numpy()
    is_given = column.is_valid().to_numpy(zero_copy_only=False)
    if (lengths[is_given] != size).any():
      return None
    states = np.zeros((len(lengths), size), np.float32)
    states[is_given] = column.flatten().to_numpy().reshape(-1, size)
    return is_given, states


def of_table(table: pa.Table) -> Steps | None:
  """Returns the steps of a table of ladders; None if they are not regular.

  They are if each ladder has a step, and each token the same number of largest
  log-probabilities, all finite. The other ladders must be read one by one.
  """
  column = table['steps'].combine_chunks()
  counts = column.value_lengths().to_numpy()
  structs = column.flatten()
  tops = structs.field('top_log_probs').flatten()
  entries = tops.flatten().to_numpy()
  num_top = np.unique(tops.value_lengths().to_numpy())
  log_probs = structs.field('log_probs')
  values = log_probs.flatten().to_numpy()
  if (
      not len(counts)
      or not counts.all()
      or len(num_top) > 1
      or not (np.isfinite(values).all() and np.isfinite(entries).all())
  ):
    return None
  usage = {
      name: structs.field(name).to_numpy()
      for name in ('read', 'cached', 'written', 'seconds', 'held')
  }
  return Steps(
      structs=structs,
      counts=counts.astype(np.int64),
      num_tokens=structs.field('token_ids').value_lengths().to_numpy(),
      num_log_probs=log_probs.value_lengths().to_numpy(),
      log_probs=values,
      tops=entries.reshape(len(tops), -1) if len(tops) else np.zeros((0, 0)),
      usage=types.Usage(0, in_context=usage.pop('held'), **usage),
  )


def hidden_sizes(table: pa.Table) -> set[int]:
  """Returns the lengths of the hidden states in a table of ladders."""
  structs = table['steps'].combine_chunks().flatten()
  lengths = structs.field('hidden').value_lengths().drop_null()
  return set(np.unique(lengths.to_numpy()).tolist())


def observations(
    steps: Steps,
    questions: list[str],
    spent: np.ndarray,
    config: observation.FeatureConfig,
    *,
    has_draft: bool,
) -> tuple[np.ndarray, np.ndarray] | None:
  """Returns what `observe` and `uncertainties` return at every decision.

  Args:
    steps: the steps of N ladders, M decisions.
    questions: `[N]` texts.
    spent: `[M]` cost so far at each decision; see `types.Trace.spent`.
    config: the features.
    has_draft: whether the router sees the step that it decides on.

  Returns:
    `[M, F]` and `[M, U]` float32, decisions of one ladder side by side; None if
    a feature is not finite or a hidden state has another size.
  """
  owner, place = decisions(steps, config.max_decisions)
  # The viewed step of each decision, and whether there is one.
  viewed = steps.first[owner] + place - (not has_draft)
  is_viewed = (place > 0) | has_draft
  viewed = np.where(is_viewed, viewed, 0)
  statistics = _statistics(steps)
  parts = []
  for group in config.groups:
    if group == 'confidence':
      part = statistics.described[viewed] * is_viewed[:, None]
    elif group == 'progress':
      part = _progress(steps, owner, place, config)
    elif group == 'cost':
      part = spent[:, None]
    elif group == 'text':
      part = _texts(steps, questions, owner, viewed, is_viewed, config)
    else:
      found = steps.hidden(config.hidden_size)
      if found is None:
        return None
      is_given = (found[0][viewed] & is_viewed)[:, None]
      part = np.concatenate([is_given, found[1][viewed] * is_given], axis=1)
    parts.append(part.astype(np.float32))
  features = np.concatenate(parts, axis=1)
  if not np.isfinite(features).all():
    return None
  unsure = np.where(is_viewed[:, None], statistics.uncertainty[viewed], 0.0)
  return features, unsure.astype(np.float32)


def decisions(
    steps: Steps, max_decisions: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the ladder and the step of each of M decisions, both `[M]` int."""
  counts = np.minimum(steps.counts, max_decisions)
  owner = np.repeat(np.arange(len(counts)), counts)
  return owner, np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]


@dataclasses.dataclass(frozen=True)
class _Statistics:
  """Of each step: `[S, C]` confidence features, `[S, U]` uncertainty scores."""

  described: np.ndarray
  uncertainty: np.ndarray


def _statistics(steps: Steps) -> _Statistics:
  """Returns the statistics of each step and of all steps up to it."""
  num = len(steps.num_tokens)
  names = confidence.NAMES
  column = {name: np.zeros(num) for name in names}
  first = np.zeros(num)
  for rows, values in _by_length(steps.log_probs, steps.num_log_probs):
    column['has_log_probs'][rows] = 1.0
    column['mean'][rows] = values.mean(axis=1)
    column['minimum'][rows] = values.min(axis=1)
    column['last'][rows], first[rows] = values[:, -1], values[:, 0]
    column['sum'][rows] = values.sum(axis=1)
  has = column['has_log_probs'] > 0
  for name in ('mean', 'minimum', 'last'):
    column[f'log_neg_{name}'] = np.where(has, _log_negative(column[name]), 0.0)
  if steps.tops.size:
    entropy = confidence.truncated_entropy(steps.tops)
    tops = steps.tops
    margin = tops[:, 0] - tops[:, 1] if tops.shape[1] > 1 else 0 * tops[:, 0]
    for rows, values in _by_length(entropy, steps.num_tokens):
      column['has_top_log_probs'][rows] = 1.0
      column['entropy_mean'][rows] = values.mean(axis=1)
      column['entropy_max'][rows] = values.max(axis=1)
    for rows, values in _by_length(margin, steps.num_tokens):
      column['margin_mean'][rows] = values.mean(axis=1)
      column['margin_min'][rows] = values.min(axis=1)
  column['num_tokens'] = steps.num_tokens.astype(np.float64)
  minimum, mean, any_so_far = _running(steps, column, has)
  column['running_minimum'], column['running_mean'] = minimum, mean
  column['log_neg_running_minimum'] = np.where(
      any_so_far, _log_negative(minimum), 0.0
  )
  unsure = np.stack([-column['minimum'], -column['mean'], -first], axis=1)
  return _Statistics(
      np.stack([column[name] for name in names], axis=1),
      np.where(has[:, None], unsure, np.nan),
  )


def _running(
    steps: Steps, column: dict[str, np.ndarray], has: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the minimum and the mean over the steps so far, and if any counts.

  A step without log-probabilities does not count. All are `[S]`.
  """
  count = np.cumsum(padded(steps, has.astype(np.int64)), axis=1)
  low = np.minimum.accumulate(
      padded(steps, np.where(has, column['minimum'], np.inf)), axis=1
  )
  total = np.cumsum(padded(steps, column['mean']), axis=1)
  count, low, total = (unpadded(steps, x) for x in (count, low, total))
  is_any = count > 0
  mean = total / np.maximum(count, 1)
  return np.where(is_any, low, 0.0), np.where(is_any, mean, 0.0), is_any


def padded(steps: Steps, values: np.ndarray) -> np.ndarray:
  """Returns the values of S steps as `[N, most steps of a ladder]`, 0 beyond.

  A cumulative sum along the second axis adds in the order of the steps.
  """
  out = np.zeros((len(steps.counts), steps.counts.max()), values.dtype)
  out[_is_step(steps)] = values
  return out


def unpadded(steps: Steps, values: np.ndarray) -> np.ndarray:
  """Returns the values of the S steps; inverts `padded`."""
  return values[_is_step(steps)]


def _is_step(steps: Steps) -> np.ndarray:
  return np.arange(steps.counts.max()) < steps.counts[:, None]


def _log_negative(log_probs: np.ndarray) -> np.ndarray:
  """Returns what `confidence` calls log(-x), of each entry."""
  return np.log(np.maximum(-log_probs, 0.0) + confidence.FLOOR)


def _by_length(
    values: np.ndarray, lengths: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields the lists of each length n > 0: their indices, and `[m, n]` values.

  A mean over the rows of such an array adds in the same order as the mean of
  each list. `np.add.reduceat` would not.

  Args:
    values: the entries of all lists, in order.
    lengths: `[S]` int.
  """
  starts = np.cumsum(lengths) - lengths
  order = np.argsort(lengths, kind='stable')
  sizes, begins = np.unique(lengths[order], return_index=True)
  for size, rows in zip(sizes, np.split(order, begins[1:]), strict=True):
    if size:
      yield rows, values[starts[rows][:, None] + np.arange(size)]


def _progress(
    steps: Steps,
    owner: np.ndarray,
    place: np.ndarray,
    config: observation.FeatureConfig,
) -> np.ndarray:
  """Returns the features of how far the answers are; see `observation`."""
  before = padded(steps, steps.num_tokens)
  before = np.cumsum(before, axis=1) - before
  writer = np.zeros((len(place), config.num_routes))
  writer[:, 0] = place > 0  # The small model writes all steps of a ladder.
  return np.concatenate(
      [
          (place / config.max_decisions)[:, None],
          place[:, None] == np.arange(config.max_decisions),
          before[owner, place][:, None],
          writer,
      ],
      axis=1,
  )


def _texts(
    steps: Steps,
    questions: list[str],
    owner: np.ndarray,
    viewed: np.ndarray,
    is_viewed: np.ndarray,
    config: observation.FeatureConfig,
) -> np.ndarray:
  """Returns the hashed n-grams of question and viewed step, `[M, widths]`."""
  largest = config.max_ngram
  asked = text.hash_all(questions, config.question_width, largest)
  written = text.hash_all(steps.texts(), config.step_width, largest)
  seen = written[viewed]
  seen[~is_viewed] = 0.0
  return np.concatenate([asked[owner], seen], axis=1)
