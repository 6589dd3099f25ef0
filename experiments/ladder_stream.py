"""Prepares ladders that do not fit in memory for training, file by file.

What `training_data` computes from all ladders of train at once, here comes from
three passes over their files: the reference cost, the statistics of the
features, and the batches. Only arrays with a few numbers per problem are kept.
"""

import dataclasses
import functools
import sys

import ml_collections
import numpy as np
import pyarrow as pa

from experiments import builders
from experiments import split_on_disk
from routing import costs
from routing import types
from routing.features import batching
from routing.features import feature_rows
from routing.features import ladder_columns
from routing.features import observation
from routing.features import standardize
from routing.outcomes import batches
from routing.outcomes import joined_tables
from routing.outcomes import ladder_tables
from routing.outcomes import table as table_lib
from routing.shards import columns
from routing.shards import schema
from routing.tasks import seen as seen_lib
from routing.training import sources

# Problems of select on which training is stopped early, drawn from all of them.
# The standard error of their mean accuracy is below .008, and the same problems
# are used at each validation.
MAX_SELECT = 4_096


@dataclasses.dataclass(frozen=True)
class Streamed:
  """The ladders of train as a stream, and those of select in memory.

  features, accounting, statistics: see `training_data.View`.
  train: yields arrays with standardised features.
  select: arrays of at most `MAX_SELECT` problems.
  seen: all problems of both splits.
  """

  features: observation.FeatureConfig
  accounting: costs.Accounting
  statistics: standardize.Statistics
  train: sources.Shards
  select: types.OutcomeBatch
  seen: seen_lib.Seen


def read(
    config: ml_collections.ConfigDict,
    train: split_on_disk.Split,
    select: split_on_disk.Split,
) -> Streamed:
  """Returns the ladders of two splits, of which train stays on disk.

  Raises:
    ValueError: as `training_data.load` does.
  """
  seen, accounting, hidden_size = _first_pass(config, train)
  features = builders.features(config, len(train.specs), hidden_size)
  to_table = functools.partial(
      ladder_tables.of_shard,
      config=features,
      accounting=accounting,
      protocol=builders.protocol(config),
  )
  places, sizes, depths = [], [], []

  def parts():
    for place, shard in train.numbered_tables():
      found = to_table(shard)
      places.append(place)
      sizes.append(found.num_problems)
      depths.append(found.decisions.max_depth)
      rows = found.decisions.features
      yield rows[None], np.ones((1, len(rows)), bool)

  statistics = standardize.measure_parts(parts())
  batch = functools.partial(
      batches.outcome_batch,
      statistics=statistics,
      metric=config.cost_metric,
  )
  # The arrays of all files have the same width, so that they can be joined.
  load = lambda index: batch(
      to_table(train.table(places[index])), widths=max(depths)
  )
  chosen, questions = _drawn(select, to_table)
  return Streamed(
      features,
      accounting,
      statistics,
      sources.Shards(load, sizes),
      batch(chosen),
      seen.with_problems('select', questions),
  )


def _first_pass(
    config: ml_collections.ConfigDict, train: split_on_disk.Split
) -> tuple[seen_lib.Seen, costs.Accounting, int]:
  """Returns the problems of train, the accounting, and the hidden size."""
  accounting = costs.Accounting(train.specs, config.cost_metric)
  all_large, sizes = [], set()

  def problems():
    # The problems are noted while the costs are read, in one pass.
    for shard in train.tables():
      all_large.append(_large_costs(shard, accounting))
      sizes.update(ladder_columns.hidden_sizes(shard))
      yield from columns.decode_problems(shard)

  seen = seen_lib.NOTHING.with_problems('train', problems())
  reference = float(np.mean(np.concatenate(all_large)))
  accounting = dataclasses.replace(accounting, reference=reference)
  return seen, accounting, max(sizes, default=0)


def _large_costs(shard: pa.Table, accounting: costs.Accounting) -> np.ndarray:
  """Returns what the largest model alone costs on each problem of a shard."""
  found = ladder_tables.large_costs(shard, accounting)
  if found is not None:
    return found
  ladders = schema.LADDERS.from_table(shard)
  return np.array([batching.all_large_cost(x, accounting) for x in ladders])


def _drawn(
    select: split_on_disk.Split, to_table
) -> tuple[table_lib.OutcomeTable, list[types.Problem]]:
  """Returns the outcomes of problems drawn from select; all its problems."""
  # Seeded: a resumed run and every seed of training see the same problems.
  rng = np.random.default_rng(0)
  drawn = rng.permutation(select.num_records)[:MAX_SELECT]
  problems = []

  def tables():
    for shard in select.tables():
      places = len(problems) + np.arange(len(shard))
      problems.extend(columns.decode_problems(shard))
      rows = np.flatnonzero(np.isin(places, drawn))
      if len(rows):
        yield to_table(shard.take(pa.array(rows)))

  # They become one array in memory, so that a file would spare nothing.
  features = feature_rows.Writer(max_bytes=sys.maxsize)
  return joined_tables.joined(tables(), features), problems
