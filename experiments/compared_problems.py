"""Opens the problems, models and trained policies that a comparison runs on."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import json
import pathlib
from typing import Any

import ml_collections

from experiments import builders
from experiments import compared_readers
from experiments import records_on_disk
from experiments import train
from experiments import training_data
from routing import costs
from routing import protocols
from routing import types
from routing.engines import engine as engine_lib
from routing.engines import memoized
from routing.engines import model_files
from routing.evaluation import arena as arena_lib
from routing.evaluation import samples
from routing.evaluation import style
from routing.features import embedding
from routing.outcomes import live_answers
from routing.routers import entrants
from routing.routers import learned
from routing.routers import router as router_lib
from routing.shards import manifest as manifest_lib
from routing.shards import reply_memory
from routing.tasks import delimiter as delimiter_lib

SPLITS = ('train', 'select', 'test')
_TIMED = 25  # Test problems whose traces the routers are timed on.
# Parts of a configuration that change no outcome of a router: those of other
# stages, and those whose effect is in the shards or in the models' identity.
_OF_NO_ROUTER = (
    *('track', 'serving', 'calibration', 'evaluation', 'launcher', 'ray'),
    *('scorer', 'routes', 'environment', 'data', 'problems'),
)
# Parts that only the learned policy reads, when it is trained.
_OF_TRAINING = (
    *('network', 'objective', 'optimizer', 'multiplier', 'soft_threshold'),
    *('num_steps', 'batch_size', 'log_every', 'eval_every'),
    *('checkpoint_every', 'stream', 'trust_region', 'on_policy'),
)


def base(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns the configuration of the pipeline, without the comparison's part.

  Runs of both share a work directory: what one has collected or trained, the
  other finds.
  """
  found = config.copy_and_resolve_references()
  with found.unlocked():
    del found['compare']
  return found


class Problems:
  """The ladders of a run, as the arena of a comparison.

  Args:
    config: of the comparison.
    workdir: of the run.

  Raises:
    ValueError: if a split is not collected.
  """

  def __init__(self, config: ml_collections.ConfigDict, workdir: pathlib.Path):
    self._config, self._workdir = config, workdir
    self._base = base(config)
    self._with_scorer = compared_readers.with_scorer(self._base, config.compare)
    self._ladders: dict[str, list[types.Ladder]] = {}
    self._samples: dict[Any, router_lib.Sample] = {}
    self._memories: dict[int, memoized.Memory] = {}

  @functools.cached_property
  def data(self) -> training_data.TrainingSet:
    """What the policy learns from; fixes features and reference cost."""
    return training_data.load(self._base, self._workdir)

  @property
  def weights_sha256(self) -> Sequence[str]:
    """The hashes of the models that wrote the ladders."""
    return records_on_disk.open_split(
        self._base, self._workdir, 'test'
    ).weights_sha256

  @functools.cached_property
  def embed(self) -> embedding.Embedding | None:
    """The sentence embedding, if the configuration names one."""
    directory = self._config.compare.embedding
    return embedding.SentenceModel(directory) if directory else None

  @functools.cached_property
  def informing(self) -> dict[str, costs.RouteSpec]:
    """The models that only inform, by the need that asks for them."""
    largest = self.data.view.accounting.specs[-1]
    embed = {} if self.embed is None else {'embedding': self.embed.spec}
    return embed | compared_readers.specs(self._with_scorer, largest)

  @functools.cached_property
  def accounting(self) -> costs.Accounting:
    """The models that write, and then those that only inform."""
    writers = self.data.view.accounting
    return dataclasses.replace(
        writers, specs=(*writers.specs, *self.informing.values())
    )

  @property
  def _is_live(self) -> bool:
    # The weights of models that are not asked need not be on this machine.
    return bool(self._config.compare.num_live.test)

  @functools.cached_property
  def readers(self) -> dict[str, Any]:
    """What reads steps, as fields of a `Sample`."""
    config = self._with_scorer
    first = len(self.data.view.accounting.specs)
    first += 'embedding' in self.informing
    judge = compared_readers.judge(config, first) if self._is_live else None
    return dict(
        scorer=compared_readers.scorer(config, first),
        judge=judge,
        follows_words=compared_readers.follows_words(self._base),
        gives_tokens=compared_readers.gives_tokens(self._base),
    )

  def ladders(self, split: str) -> list[types.Ladder]:
    """Returns the ladders of a split."""
    if split not in self._ladders:
      self._ladders[split] = list(
          records_on_disk.known_records(self._base, self._workdir, split)
      )
    return self._ladders[split]

  def sample(
      self, split: str, protocol: protocols.Protocol
  ) -> router_lib.Sample:
    """Returns a split with its outcomes in one view."""
    if (split, protocol) not in self._samples:
      found = samples.of_ladders(
          self.ladders(split),
          self.data.view.features,
          self.accounting,
          protocol,
          self.embed,
      )
      self._samples[split, protocol] = dataclasses.replace(
          found, **self.readers
      )
    return self._samples[split, protocol]

  def arena(self) -> arena_lib.Arena:
    """Returns the arena in which all methods are evaluated."""
    asked = self._config.compare
    view = self.data.view
    return arena_lib.Arena(
        samples=self.sample,
        alone={
            split: samples.alone(
                self.sample(split, router_lib.COMMIT), self.ladders(split)
            )
            for split in ('select', 'test')
        },
        accounting=self.accounting,
        informing=self.informing,
        answering=self._answering if self._is_live else None,
        num_live={
            split: min(asked.num_live[split], len(self.ladders(split)))
            for split in SPLITS
        },
        folder=self._workdir / 'compare' / records_on_disk.ANSWERS_FOLDER,
        traces=lambda protocol: samples.recorded_traces(
            self.ladders('test')[:_TIMED],
            view.accounting,
            protocol,
            view.features.max_decisions,
        ),
        num_timed=_TIMED,
        grid_size=asked.grid_size,
    )

  def key(self, method: router_lib.Method) -> dict[str, Any]:
    """Returns what a method's outcomes depend on besides its code; JSON-like.

    A method that does not declare a reader of steps or an embedding does not
    depend on which there is.
    """
    asked, needs = self._config.compare, method.needs
    named = {
        'step_score': lambda: self.readers['scorer'].name,
        'judge': lambda: getattr(self.readers['judge'], 'name', ''),
        'embedding': lambda: self._embedding_identity,
    }
    settings = self._base.copy_and_resolve_references().to_dict()
    is_trained = method.name == style.REFERENCE
    for name in (*_OF_NO_ROUTER, *(() if is_trained else _OF_TRAINING)):
      settings.pop(name, None)
    for name in ('limits', 'concurrency'):
      settings['collect'].pop(name, None)
    writers = self.data.view.accounting
    return {
        'settings': [dict(x) for x in method.settings[: asked.num_trials]],
        'grid_size': asked.grid_size,
        'num_live': asked.num_live.to_dict(),
        'config': settings,
        'shards': {
            split: records_on_disk.open_split(
                self._base, self._workdir, split
            ).manifest.content_hash
            for split in SPLITS
        },
        'models': self.made_by if self._is_live else None,
        'specs': [dataclasses.asdict(x) for x in writers.specs],
        'readers': {
            need: [named[need](), dataclasses.asdict(spec)]
            for need, spec in self.informing.items()
            if getattr(needs, need)
        },
    }

  @property
  def _embedding_identity(self) -> str:
    """A hash of the weights: models of one shape embed differently."""
    folder = pathlib.Path(self._config.compare.embedding)
    return model_files.hash_weights(folder)

  def _answering(self, seed: int) -> live_answers.Answering:
    """Returns how engines answer; equal requests share their replies."""
    config = self._base
    return live_answers.Answering(
        make_engines=self._engines,
        protocol=builders.protocol(config),
        accounting=self.accounting,
        sampling=builders.sampling(config),
        grade=builders.grader(config),
        seed=config.seed + seed,
        concurrency=config.collect.concurrency,
        max_failures=builders.limits(config).failures,
        made_by=self.made_by,
    )

  @property
  def made_by(self) -> dict[str, Any]:
    """Everything about the models that changes answers."""
    return {
        'weights_sha256': builders.model_identities(self._base),
        'routes': builders.answer_keys(self._base),
    }

  def _engines(self) -> Sequence[engine_lib.Engine]:
    """Returns the engines, with the replies that are on the disk."""
    folder = self._workdir / 'compare' / 'replies'
    folder.mkdir(parents=True, exist_ok=True)
    sampling = delimiter_lib.settings_key(builders.sampling(self._base))
    found = []
    for engine in builders.steady_engines(self._base):
      route = engine.route
      if route not in self._memories:
        made_by = {name: x[route] for name, x in self.made_by.items()}
        name = manifest_lib.hash_json([made_by, sampling])[:16]
        self._memories[route] = reply_memory.DiskMemory(
            folder / f'route{route}-{name}.log', keeps_hidden=route == 0
        )
      found.append(memoized.MemoizedEngine(engine, self._memories[route]))
    return found

  def policy(self) -> router_lib.Method:
    """Returns the learned policy as a method; to fit it is to train it."""
    settings = [
        json.loads(x.to_json()) if hasattr(x, 'to_json') else dict(x)
        for x in self._config.compare.policy_settings
    ]
    return entrants.policy(self._trained, settings)

  def _trained(
      self, seed: int, setting: Mapping[str, Any]
  ) -> learned.LearnedRouter:
    """Returns the policy of one seed and setting, trained now or before."""
    config, directory = self._base.copy_and_resolve_references(), self._workdir
    if setting:  # Without changes it is the run's own policy.
      config.update(setting)
      name = manifest_lib.hash_json(dict(setting))[:16]
      directory = self._workdir / 'compare' / 'policies' / name
    router = train.train_seed(config, directory, seed, self.data)
    for split in ('select', 'test'):
      problems = [x.problem for x in self.ladders(split)]
      router.seen.check(split, problems)
    return router
