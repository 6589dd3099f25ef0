"""Converts shards of ladders to outcome tables, without an object per step."""

import dataclasses

import numpy as np
import pyarrow as pa

from routing import costs
from routing import protocols
from routing import types
from routing.features import ladder_columns
from routing.features import observation
from routing.outcomes import records
from routing.outcomes import table as table_lib
from routing.shards import schema


@dataclasses.dataclass(frozen=True)
class _Endings:
  """The completions of N ladders in the order of their decisions.

  Each is `[M, A - 1, samples]`: M decisions, larger routes, samples.
  """

  is_correct: np.ndarray
  is_cut: np.ndarray
  usage: types.Usage


def of_shard(
    shard: pa.Table,
    config: observation.FeatureConfig,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
) -> table_lib.OutcomeTable:
  """Returns the outcome table of the ladders in one shard.

  It is that of `records.ladder_table`, in a twentieth of its time. Ladders that
  are not regular, e.g. with a completion missing, are converted one by one, for
  the same errors.

  Args:
    shard: table of N ladders, as `reader.read_table` returns it.
    config, accounting, protocol: see `records.ladder_table`.
  """
  return of_columns(shard, config, accounting, protocol) or (
      records.ladder_table(
          schema.LADDERS.from_table(shard), config, accounting, protocol
      )
  )


def large_costs(
    shard: pa.Table, accounting: costs.Accounting
) -> np.ndarray | None:
  """Returns what the largest model alone costs on each problem of a shard.

  Returns:
    `[N]` float64 in the metric's own unit; None if the ladders are not regular.
  """
  steps = ladder_columns.of_table(shard)
  found = steps and _endings(
      shard, _num_decisions(shard), len(accounting.specs)
  )
  if not found:
    return None
  counts = _num_decisions(shard)
  cost = _mean_cost(found, accounting, accounting.metric)
  return cost[np.cumsum(counts) - counts, -1]


def samples(shard: pa.Table) -> set[int]:
  """Returns the indices of the samples that a shard of ladders has."""
  structs = shard['completions'].combine_chunks().flatten()
  return set(np.unique(structs.field('sample').to_numpy()).tolist())


def of_columns(
    shard: pa.Table,
    config: observation.FeatureConfig,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
) -> table_lib.OutcomeTable | None:
  """Returns what `of_shard` does; None if the ladders are not regular."""
  steps = ladder_columns.of_table(shard)
  if steps is None or protocol.name != 'escalate':
    return None
  counts = np.minimum(steps.counts, config.max_decisions)
  endings = _endings(shard, counts, len(accounting.specs))
  if endings is None or (counts != _num_decisions(shard)).any():
    return None
  charged = {
      metric: _Charged(steps, endings, counts, accounting, metric, protocol)
      for metric in costs.COST_METRICS
  }
  if not all((x.all_large > 0).all() for x in charged.values()):
    return None
  spent = charged[accounting.metric].seen / accounting.reference
  seen = ladder_columns.observations(
      steps,
      shard['question'].to_pylist(),
      spent,
      config,
      has_draft=protocol.has_draft,
  )
  if seen is None:
    return None
  decisions = _decisions(*seen, counts)
  return _table(shard, steps, counts, endings, charged, decisions)


def _num_decisions(shard: pa.Table) -> np.ndarray:
  """Returns `types.Ladder.num_decisions` of each ladder, `[N]` int."""
  column = shard['completions'].combine_chunks()
  lengths = column.value_lengths().to_numpy()
  step = column.flatten().field('step').to_numpy()
  out = np.zeros(len(lengths), np.int64)
  owner = np.repeat(np.arange(len(lengths)), lengths)
  np.maximum.at(out, owner, step + 1)
  return out


def _endings(
    shard: pa.Table, counts: np.ndarray, num_routes: int
) -> _Endings | None:
  """Returns the completions of a shard; None if some are missing or unsorted.

  Args:
    shard: N ladders.
    counts: `[N]` int, decisions of each ladder.
    num_routes: A.
  """
  structs = shard['completions'].combine_chunks().flatten()
  names = structs.type.names
  step, route, sample = (
      structs.field(name).to_numpy() for name in ('step', 'route', 'sample')
  )
  shape = int(counts.sum()), num_routes - 1, 1 + int(sample.max(initial=0))
  if len(step) != np.prod(shape):
    return None
  first = np.cumsum(counts) - counts
  place = np.arange(shape[0]) - np.repeat(first, counts)
  expected = np.broadcast_arrays(
      place[:, None, None],
      1 + np.arange(shape[1])[:, None],
      np.arange(shape[2]),
  )
  for found, right in zip((step, route, sample), expected, strict=True):
    if (found.reshape(shape) != right).any():
      return None
  cut = np.full(len(step), np.nan)
  if 'is_cut' in names:
    cut = structs.field('is_cut').cast(pa.float32()).to_numpy(False)
  numbers = {
      name: structs.field(name).to_numpy().reshape(shape)
      for name in ('read', 'written', 'seconds')
  }
  cached = np.zeros(shape, np.int64)
  if 'cached' in names:
    cached = structs.field('cached').fill_null(0).to_numpy().reshape(shape)
  right = structs.field('is_correct').to_numpy(zero_copy_only=False)
  return _Endings(
      is_correct=right.reshape(shape).astype(np.float32),
      is_cut=cut.reshape(shape).astype(np.float32),
      usage=types.Usage(0, cached=cached, **numbers),
  )


def _mean_cost(
    endings: _Endings, accounting: costs.Accounting, metric: str
) -> np.ndarray:
  """Returns the samples' mean cost, `[M, A - 1]`, in the metric's unit."""
  cost = np.stack(
      [
          costs.call_cost(_route(endings.usage, index), spec, metric)
          for index, spec in enumerate(accounting.specs[1:])
      ],
      axis=1,
  )
  total = np.zeros(cost.shape[:2])
  for sample in range(cost.shape[2]):  # In the order of `costs.ladder_costs`.
    total += cost[..., sample]
  return total / cost.shape[2]


def _route(usage: types.Usage, index: int) -> types.Usage:
  """Returns the usage of larger route number `index`, arrays `[M, samples]`."""
  names = 'read', 'cached', 'written', 'seconds'
  return types.Usage(1 + index, *(getattr(usage, x)[:, index] for x in names))


class _Charged:
  """What every answer of N ladders costs in one metric; see `LadderCosts`.

  seen: `[M]`, cost of the calls that a router has seen at each decision.
  all_large: `[N]`, the largest model alone.
  stay: `[N]`, the small model alone, as a fraction of `all_large`.
  handover: `[M, A - 1]`, with a hand-over, as the same fraction.
  """

  def __init__(self, steps, endings, counts, accounting, metric, protocol):
    cost = costs.call_cost(steps.usage, accounting.specs[0], metric)
    padded = ladder_columns.padded(steps, np.asarray(cost, np.float64))
    so_far = np.cumsum(padded, axis=1)
    owner, place = ladder_columns.decisions(steps, int(counts.max()))
    drafts = so_far[owner, place]
    before = np.where(place > 0, so_far[owner, place - 1], 0.0)
    self.seen = drafts if protocol.has_draft else before
    # As `costs.ladder_costs` computes it, to the same last bit.
    paid = drafts if protocol.has_draft else drafts - padded[owner, place]
    mean = _mean_cost(endings, accounting, metric)
    self.all_large = mean[np.cumsum(counts) - counts, -1]
    self.stay = so_far[:, -1] / self.all_large
    self.handover = (paid[:, None] + mean) / self.all_large[owner, None]


def _decisions(features, uncertainty, counts) -> table_lib.Decisions:
  """Returns the decisions of ladders, which are chains."""
  first = np.cumsum(counts) - counts
  index = np.arange(int(counts.sum()))
  depth = index - np.repeat(first, counts)
  return table_lib.Decisions(
      features=features,
      uncertainty=uncertainty,
      depth=depth.astype(np.int32),
      parents=np.where(depth > 0, index - 1, -1).astype(np.int32),
  )


def _table(shard, steps, counts, endings, charged, decisions):
  """Returns the outcome table; a ladder's endings end with never handing over.

  Args:
    shard: N ladders.
    steps: their steps.
    counts: `[N]` int, decisions of each.
    endings: their completions.
    charged: cost metric -> costs.
    decisions: the M decisions.
  """
  num, num_larger = len(counts), endings.is_correct.shape[1]
  first, last = np.cumsum(counts) - counts, np.cumsum(counts) - 1
  owner = np.repeat(np.arange(num), counts)
  small_right = shard['small_correct'].to_numpy().astype(np.float64)
  finals = steps.structs.field('is_final').to_numpy(zero_copy_only=False)
  alone = endings.is_correct[first, -1]  # `[N, samples]`.
  alone_mean = alone.mean(axis=1)
  # Ending (decision, larger route) of ladder n is number `moved`; `stayed` is
  # the ending of its last step.
  per_ladder = counts * num_larger + 1
  stayed = np.cumsum(per_ladder) - 1
  moved = np.arange(len(owner) * num_larger).reshape(-1, num_larger)
  moved = moved + owner[:, None]
  children = np.concatenate(
      [np.arange(1, len(owner) + 1)[:, None], -1 - moved], axis=1
  )
  children[last, 0] = -1 - stayed

  def placed(of_moves, of_stays, dtype=np.float32):
    out = np.empty(int(per_ladder.sum()), dtype)
    out[moved], out[stayed] = of_moves, of_stays
    return out

  lost = (alone[owner, None] * (1.0 - endings.is_correct)).mean(axis=2)
  return table_lib.OutcomeTable(
      decisions=decisions,
      children=children.astype(np.int32),
      roots=first.astype(np.int32),
      ending_problem=np.repeat(np.arange(num), per_ladder).astype(np.int32),
      ending_correct=placed(endings.is_correct.mean(axis=2), small_right),
      ending_loss=placed(
          lost, alone_mean.astype(np.float64) * (1.0 - small_right)
      ),
      ending_cost={
          name: placed(x.handover, x.stay, np.float64)
          for name, x in charged.items()
      },
      large_correct=alone_mean,
      large_cost={name: x.all_large for name, x in charged.items()},
      ending_cut=placed(
          endings.is_cut.mean(axis=2), ~finals[np.cumsum(steps.counts) - 1]
      ),
      large_cut=endings.is_cut[first, -1].mean(axis=1),
  )
