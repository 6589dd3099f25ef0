"""Collects on many machines: Ray holds the engines and hands out problems.

Each actor is a process on some node with engines of its own. It answers what it
is handed with the same collector as a local collection, and appends each record
to a log of its own beside the shards. It returns only that the record is there.
The one process that was started by hand writes all shards from these logs. So
the shards are those of a local collection.
"""

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import functools
from typing import Any
import uuid

from absl import logging
import ml_collections

from experiments import builders
from experiments import ray_nodes
from experiments import records_on_disk
from routing import costs
from routing import types
from routing.distributed import cluster as cluster_lib
from routing.distributed import pool as pool_lib
from routing.engines import engine as engine_lib
from routing.engines import meter as meter_lib
from routing.engines import resilience
from routing.rollout import cut_answers
from routing.shards import block_log
from routing.shards import files
from routing.shards import manifest as manifest_lib
from routing.shards import writer as writer_lib

LAUNCHERS = ('local', 'ray')


def is_asked(config: ml_collections.ConfigDict) -> bool:
  """Returns whether a configuration collects by Ray.

  Raises:
    ValueError: if the launcher is unknown.
  """
  launcher = config.get('launcher', 'local')  # Older configurations have none.
  if launcher not in LAUNCHERS:
    raise ValueError(
        f'launcher is {launcher!r}; allowed: {", ".join(LAUNCHERS)}.'
    )
  return launcher == 'ray'


def cluster(config: ml_collections.ConfigDict) -> cluster_lib.Cluster:
  """Returns the cluster of a configuration.

  Raises:
    ValueError: if a setting is not allowed.
  """
  if is_asked(config):
    limits = builders.limits(config)
    if limits.dollars or limits.tokens:
      # Each actor would have to know what all others spend.
      raise ValueError(
          'collect.limits has a limit on dollars or tokens, and launcher is '
          "'ray'; allowed: one of them. Set launcher='local', which is enough "
          'where the models run elsewhere.'
      )
  return cluster_lib.Cluster(**config.get('ray', {}))


class Actor:
  """A process of Ray that answers the problems it is handed, by own engines.

  Args:
    make_job: returns the collector, its engines and the kind of its records.
    settings_hash: of the records, where the writer is.
    specs: names and prices of the routes.
    limits: on requests and attempts.
    directory: of the shards; every node sees it.
    shard_size: number of problems in a block.
    origin: the process that began; None = this process stays as Ray made it.
  """

  def __init__(
      self,
      make_job: Callable[[], Any],
      settings_hash: str,
      specs: Sequence[costs.RouteSpec],
      limits: resilience.Limits,
      directory: str,
      shard_size: int,
      origin: ray_nodes.Origin | None = None,
  ):
    self._origin = origin
    self._make_job, self._settings_hash = make_job, settings_hash
    self._meter, self._limits = meter_lib.Meter(specs), limits
    self._directory, self._shard_size = files.path(directory), shard_size
    # A new name each time: a log of before may end in half a record.
    self._name = uuid.uuid4().hex[:12]

  async def ready(self) -> None:
    """Loads the engines.

    Raises:
      ValueError: if the records would be others here, e.g. by other weights.
    """
    # In a thread, since an engine may run a loop of its own while it loads.
    await asyncio.to_thread(self._load)

  def _load(self) -> None:
    """See `ready`."""
    if self._origin is not None:
      self._origin.enter()
    self._job = self._make_job()
    if manifest_lib.hash_json(self._job.settings) != self._settings_hash:
      raise ValueError(
          'A node would collect other records: its weights or its version of '
          'the package differ from those of the node that began.'
      )
    self._engines = resilience.with_retries(
        self._job.make_engines(), self._limits, self._meter
    )

  async def collect(
      self, items: Sequence[pool_lib.Item]
  ) -> list[pool_lib.Told]:
    """Logs the record of each problem, and returns what became of each."""
    told: dict[int, pool_lib.Told] = {}
    kind = self._job.writer.kind

    def log(place: int, record: Any) -> None:
      index, _ = items[place]
      path = block_log.path(
          self._directory, kind, index // self._shard_size, self._name
      )
      block_log.append(path, kind, index, record)
      told[place] = cut_answers.Told(tuple(cut_answers.of_record(record)))

    await self._job.collect(
        [problem for _, problem in items],
        self._engines,
        log,
        concurrency=len(items),
        on_failed=told.__setitem__,
    )
    return [told[place] for place in range(len(items))]

  async def close(self) -> list[int]:
    """Ends the engines; returns the tokens that each route has written."""
    for engine in self._engines:
      await engine.close()
    return self._meter.written


class Notes:
  """A writer of shards for records that are in the logs of actors."""

  def __init__(self, writer: writer_lib.Writer):
    self._writer = writer
    self.missing, self.fail = writer.missing, writer.fail

  @property
  def manifest(self) -> manifest_lib.Manifest:
    """The manifest that is on disk."""
    return self._writer.manifest

  def add(self, index: int, record: cut_answers.Told) -> None:
    """Notes that the record of a problem is in an actor's log."""
    del record
    self._writer.note(index)


def collector(
    config: ml_collections.ConfigDict,
    workdir: Any,
    split: str,
    kind: str,
    settings: Mapping[str, Any],
    writer: writer_lib.Writer,
) -> tuple[Callable[..., Awaitable[None]], type[list], Notes]:
  """Returns the arguments by which a collection runs on the nodes of Ray.

  Args:
    config: of the run.
    workdir: of the run.
    split: name of the split.
    kind: of the records.
    settings: of the records; see `collect.Job`.
    writer: of the shards.

  Returns:
    A collector of problems, what makes its engines, which are none, and a
    writer of its records.
  """
  directory = records_on_disk.directory(config, workdir, split, kind)
  asked = cluster(config)
  collect_all = functools.partial(
      _collect_all,
      cluster=asked,
      writer=writer,
      arguments=(
          # Relative paths are relative to another directory on other nodes.
          functools.partial(
              _job, config, str(files.absolute(workdir)), split, kind
          ),
          manifest_lib.hash_json(settings),
          builders.billed_specs(config),
          builders.limits(config),
          str(files.absolute(directory)),
          config.collect.shard_size,
          ray_nodes.origin(str(files.absolute(workdir)), asked.cpus),
      ),
  )
  return collect_all, list, Notes(writer)


def _job(*arguments: Any) -> Any:
  """Returns `collect.job`, on another node."""
  from experiments import collect  # Here, since it imports this module.

  return collect.job(*arguments)


async def _collect_all(
    problems: Sequence[types.Problem],
    engines: Sequence[engine_lib.Engine],
    sink: Callable[[int, Any], None],
    *,
    cluster: cluster_lib.Cluster,
    writer: writer_lib.Writer,
    arguments: Sequence[Any],
    **loop: Any,
) -> None:
  """Collects the missing problems of a writer by actors.

  Args:
    problems: those that are missing.
    engines: none.
    sink: takes what is told of the problems.
    cluster: what is asked of it.
    writer: of the shards.
    arguments: of `Actor`.
    **loop: see `pool.Pool.collect`.
  """
  del engines
  ray = cluster_lib.start(cluster)
  pool = pool_lib.Pool(ray, cluster, Actor, arguments, loop['concurrency'])
  await pool.collect(problems, writer.missing(), sink, **loop)
  wrote = [sum(x) for x in zip(*pool.written, strict=True)]
  logging.info(
      '%d actors died; the others, %d, wrote %s tokens.',
      pool.num_deaths,
      len(pool.written),
      ' and '.join(f'{x:,}' for x in wrote) or 0,
  )
