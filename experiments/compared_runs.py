"""Policies of other runs as rows of a comparison, e.g. of another protocol.

A comparison trains its own policy in `escalate`. A run with the same problems
and models may have trained one in `switch` or `redraft`; it answers the same
problems live, as other routers of these protocols do.
"""

from collections.abc import Sequence

import ml_collections

from experiments import split_on_disk
from experiments import train
from routing.evaluation import arena as arena_lib
from routing.evaluation import harness
from routing.evaluation import style
from routing.routers import entrants
from routing.routers import learned
from routing.routers import router as router_lib


def methods(config: ml_collections.ConfigDict) -> dict[str, router_lib.Method]:
  """Returns the policies of the directories `compare.trained`, by name.

  Raises:
    ValueError: if a directory has no router of a training seed, its routers are
      of several protocols, or two directories have the same one.
  """
  return {name: method for name, method, _ in _rows(config)}


def check(
    config: ml_collections.ConfigDict,
    arena: arena_lib.Arena,
    weights_sha256: Sequence[str],
) -> None:
  """Raises ValueError unless the policies can be compared with the others.

  Args:
    config: of the comparison.
    arena: its problems, models and features.
    weights_sha256: of its models, as `card.weights_sha256`.
  """
  for name, method, routers in _rows(config):
    for seed, router in routers.items():
      try:
        for split in ('select', 'test'):
          router.seen.check(split, arena.alone[split].problems)
        split_on_disk.check_weights(
            router.card, weights_sha256, 'The ladders are'
        )
        # `fit` raises where models, cost metric or features differ.
        harness.fit(method, arena, method.settings[0], seed)
      except ValueError as error:
        raise ValueError(
            f'compare.trained: {name}, seed {seed}: {error}'
        ) from error


def _rows(
    config: ml_collections.ConfigDict,
) -> list[tuple[str, router_lib.Method, dict[int, learned.LearnedRouter]]]:
  """Returns the name, the method and the routers of each directory."""
  found = {}
  # Configurations from before have no such field.
  for directory in config.compare.get('trained', ()):
    routers = _routers(directory, config.train_seeds)
    protocols = {x.card.protocol for x in routers.values()}
    if len(protocols) > 1:
      raise ValueError(
          f'compare.trained names {directory}, whose seeds were trained in '
          f'{sorted(x.name for x in protocols)}; allowed: one protocol.'
      )
    (protocol,) = protocols
    words = [style.LABELS[style.REFERENCE], protocol.name]
    if protocol.name == 'escalate':  # The only one with two views.
      words.append(protocol.view)
    name = ', '.join(words)
    if name in found:
      raise ValueError(
          f'compare.trained names two runs of {name!r}; allowed: one for each '
          'protocol.'
      )
    found[name] = name, entrants.trained(name, protocol, routers), routers
  return list(found.values())


def _routers(
    directory: str, seeds: Sequence[int]
) -> dict[int, learned.LearnedRouter]:
  """Returns the router of each seed of a run."""
  found = {}
  for seed in seeds:
    path = train.run_directory(directory, seed)
    if not path.exists():
      raise ValueError(
          f'compare.trained names {directory}, which has no {path.name}; train '
          f'there with train_seeds={tuple(seeds)}, as here.'
      )
    found[seed] = learned.load(path)
  return found
