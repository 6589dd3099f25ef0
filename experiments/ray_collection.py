"""Collects on many machines: Ray holds the engines and hands out problems.

Each actor is a process on some node with engines of its own. It answers what it
is handed with the same collector as a local collection, and appends each record
to a log of its own beside the shards. It returns only that the record is there.
The one process that was started by hand writes all shards from these logs. So
the shards are those of a local collection.
"""

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
import uuid

from absl import logging
import ml_collections

from experiments import builders
from experiments import records_on_disk
from routing.distributed import cluster as cluster_lib
from routing.distributed import pool as pool_lib
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
  limits = builders.limits(config)
  if is_asked(config) and (limits.dollars or limits.tokens):
    # Each actor would have to know what all others spend.
    raise ValueError(
        "collect.limits has a limit on dollars or tokens, and launcher is 'ray'"
        "; allowed: one of them. Set launcher='local', which is enough where "
        'the models run elsewhere.'
    )
  return cluster_lib.Cluster(**config.get('ray', {}))


class Actor:
  """Collects what it is handed, with engines of its own; runs in Ray.

  Args:
    config: of the run.
    workdir: of the run.
    split: name of the split.
    kind: of the records.
    directory: of the shards; every node sees it.
    settings_hash: of the records, where the writer is.

  Raises:
    ValueError: if the records would be others here, e.g. by other weights.
  """

  def __init__(
      self,
      config: ml_collections.ConfigDict,
      workdir: str,
      split: str,
      kind: str,
      directory: str,
      settings_hash: str,
  ):
    from experiments import collect  # Here, since it imports this module.

    job = collect.job(config, workdir, split, kind)
    if manifest_lib.hash_json(job.settings) != settings_hash:
      raise ValueError(
          'This node would collect other records: its weights or its version '
          'of the package differ from those of the node that began.'
      )
    self._job = job
    self._meter = meter_lib.Meter(builders.billed_specs(config))
    self._engines = resilience.with_retries(
        job.make_engines(), builders.limits(config), self._meter
    )
    self._directory = files.path(directory)
    self._shard_size = config.collect.shard_size
    # A new name each time: a log of before may end in half a record.
    self._name = uuid.uuid4().hex[:12]

  async def ready(self) -> None:
    """Returns once the engines are loaded."""

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
  """Returns what `unattended_collection.collect_missing` needs.

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
  asked = cluster(config)
  ray = cluster_lib.start(asked)
  # Relative paths are relative to another directory on other nodes.
  where = records_on_disk.directory(config, workdir, split, kind)
  arguments = (config, _absolute(workdir), split, kind, _absolute(where))
  digest = manifest_lib.hash_json(settings)

  async def collect_all(problems, engines, sink, **loop: Any) -> None:
    del engines
    pool = pool_lib.Pool(
        ray, asked, Actor, (*arguments, digest), loop['concurrency']
    )
    missing = writer.missing()
    await pool.collect(problems, missing, sink, **loop)
    routes = zip(*pool.written, strict=True)
    wrote = ' and '.join(f'{sum(x):,}' for x in routes)
    logging.info(
        '%d actors ended, of which %d died; the others wrote %s tokens.',
        len(pool.written) + pool.num_deaths,
        pool.num_deaths,
        wrote or 0,
    )

  return collect_all, list, Notes(writer)


def _absolute(path: Any) -> str:
  """Returns the absolute path of a directory that all nodes see."""
  where = files.path(path)
  return str(where.absolute() if files.is_local(where) else where)
