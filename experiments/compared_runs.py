"""Policies of other runs as rows of a comparison, e.g. of another protocol.

A comparison trains its own policy in `escalate`. A run with the same problems
and models may have trained one in `switch` or `redraft`; it answers the same
problems live, as other routers of these protocols do.
"""

from collections.abc import Mapping
from collections.abc import Sequence

import ml_collections

from experiments import train
from routing import types
from routing.evaluation import style
from routing.routers import entrants
from routing.routers import learned
from routing.routers import router as router_lib


def methods(
    config: ml_collections.ConfigDict,
    problems: Mapping[str, Sequence[types.Problem]] | None = None,
) -> dict[str, router_lib.Method]:
  """Returns the policies of the directories `compare.trained`, by name.

  Args:
    config: of the comparison.
    problems: of `select` and `test`, which no policy may have been trained on;
      None = not checked.

  Raises:
    ValueError: if a directory has no router of a training seed, its routers are
      of several protocols, two directories have the same one, or a router has
      seen a problem in another split.
  """
  found = {}
  # Configurations from before have no such field.
  for directory in config.compare.get('trained', ()):
    routers = _routers(directory, config.train_seeds)
    for split, items in (problems or {}).items():
      for router in routers.values():
        router.seen.check(split, items)
    protocols = {x.card.protocol for x in routers.values()}
    if len(protocols) > 1:
      raise ValueError(
          f'compare.trained names {directory}, whose seeds were trained in '
          f'{sorted(x.name for x in protocols)}; allowed: one protocol.'
      )
    (protocol,) = protocols
    name = f'{style.LABELS[style.REFERENCE]}, {protocol.name}'
    if name in found:
      raise ValueError(
          f'compare.trained names two runs in {protocol.name}; allowed: one '
          'for each protocol.'
      )
    found[name] = entrants.trained(name, protocol, routers)
  return found


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
