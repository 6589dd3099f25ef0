"""Collected ladders as the arrays that calibration and evaluation work on."""

from collections.abc import Sequence
import dataclasses
import pathlib

import numpy as np

from routing import costs
from routing import types
from routing.features import batching
from routing.features import observation
from routing.features import traces
from routing.routers import card as card_lib
from routing.routers import fixed
from routing.routers import learned
from routing.shards import reader


@dataclasses.dataclass(frozen=True)
class Graded:
  """One split.

  ladders: N ladders.
  batch: the same as arrays, in the router's own ruler; features as observed.
  doubt: `[N, T]` float64 nats, the confidence threshold's score.
  content_hash: of the shards.
  """

  ladders: list[types.Ladder]
  batch: types.LadderBatch
  doubt: np.ndarray
  content_hash: str


def load(
    workdir: pathlib.Path | str, split: str, card: card_lib.Card
) -> Graded:
  """Reads a split as the router of `card` sees and is charged for it.

  Raises:
    ValueError: if the split is not collected, not as it was written, or of
      another pair than the router's.
  """
  directory = pathlib.Path(workdir) / 'shards' / split
  manifest = reader.read_manifest(directory)
  specs = tuple(costs.RouteSpec(**m) for m in manifest.settings['models'])
  if specs != card.specs:
    raise ValueError(
        f'{directory} was collected with {_names(specs)}, the router was '
        f'trained for {_names(card.specs)}; the models must be the same.'
    )
  ladders = reader.read_ladders(directory)
  batch = batching.ladder_batch(
      ladders, card.features, card.accounting, card.protocol
  )
  return Graded(ladders, batch, doubts(ladders, card), manifest.content_hash)


def _names(specs: Sequence[costs.RouteSpec]) -> str:
  return ', '.join(f'{x.name} ({x.parameters:,} parameters)' for x in specs)


def doubts(ladders: Sequence[types.Ladder], card: card_lib.Card) -> np.ndarray:
  """`[N, T]` float64 nats, as a live `ConfidenceRouter` has them; 0 padded."""
  values = np.zeros((len(ladders), card.features.max_steps))
  for row, ladder in enumerate(ladders):
    for step in range(len(ladder.steps)):
      trace = traces.of_ladder(ladder, step, card.accounting, card.protocol)
      values[row, step] = fixed.doubt(observation.viewed_step(trace))
  return values


def recharge(
    graded: Graded, card: card_lib.Card, ruler: str
) -> types.LadderBatch:
  """The outcomes in another ruler. What the router sees stays as it was."""
  if ruler == card.ruler:
    return graded.batch
  # Outcomes do not depend on features: the cheapest group will do.
  batch = batching.ladder_batch(
      graded.ladders,
      dataclasses.replace(card.features, groups=('progress',)),
      costs.Accounting(card.specs, ruler, reference=1.0),
      card.protocol,
  )
  return dataclasses.replace(batch, features=graded.batch.features)


def member_choices(
    router: learned.LearnedRouter, batch: types.LadderBatch
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Per member: `[N, T]` scores, and `[N, T]` routes a hand-over would take."""
  choices = []
  for member in range(router.num_members):
    larger = router.probabilities(batch.features, member)[..., 1:]
    choices.append((larger.sum(axis=-1), 1 + larger.argmax(axis=-1)))
  return choices
