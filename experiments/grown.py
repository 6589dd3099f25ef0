"""Trees of a split as the arrays that routers are evaluated on."""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import itertools
import pathlib

import ml_collections
import numpy as np

from experiments import builders
from experiments import replies
from routing import types
from routing.features import forests
from routing.lm import tokenizer as tokenizer_lib
from routing.problems import splits
from routing.rollout import trees
from routing.routers import card as card_lib
from routing.routers import learned

_CHUNK = 8_192  # Observations scored at once.


@dataclasses.dataclass(frozen=True)
class Grown:
  """One split as trees.

  rollouts: of the N problems, with the reference alone.
  forest: what any router sees and gets there.
  """

  rollouts: list[types.Rollouts]
  forest: forests.Forest


def read_trees(
    config: ml_collections.ConfigDict,
    directory: pathlib.Path | str,
    split: str,
    num_problems: int | None = None,
) -> Iterator[trees.Tree]:
  """The trees of the first problems of a split.

  Args:
    config: names protocol and sampling.
    directory: of the replies.
    split: name.
    num_problems: the first so many; None = all that are collected.

  Raises:
    ValueError: as `replies.read_all` does, or if there are fewer.
  """
  grower = trees.Grower(
      builders.protocol(config),
      builders.sampling(config),
      tokenizer_lib.Tokenizer().encode,
      builders.grader(config),
  )
  there, records = replies.read_all(config, directory, split)
  if num_problems and there < num_problems:
    raise ValueError(
        f'{directory} holds replies to {there} problems of {split}; '
        f'{num_problems} are wanted.'
    )
  return map(grower.grow, itertools.islice(records, num_problems))


def num_trained_on(config: ml_collections.ConfigDict) -> int | None:
  """How many trees of train are learnt from; None = all there are."""
  # Configurations of what learns from trajectories name none.
  return config.get('trees', {}).get('train') or None


def grow(
    config: ml_collections.ConfigDict,
    directory: pathlib.Path | str,
    split: str,
    card: card_lib.Card,
    num_problems: int | None = None,
) -> Grown:
  """The first problems of a split, as the router of `card` sees them.

  Args:
    config: names protocol and sampling.
    directory: of the replies.
    split: name.
    card: of the router.
    num_problems: the first so many; None = all that are collected.

  Raises:
    ValueError: as `read_trees` does, or if the router is of another protocol.
  """
  if card.protocol != builders.protocol(config):
    raise ValueError(
        f'The router is of {card.protocol.name}, {card.protocol.view}; the '
        f'configuration names {config.protocol.name}.'
    )
  rollouts = []

  def grown():
    for tree in read_trees(config, directory, split, num_problems):
      rollouts.append(types.Rollouts(tree.problem, tree.reference, ()))
      yield tree

  forest = forests.forest(grown(), card.features, card.accounting)
  return Grown(rollouts, forest)


def grow_all(
    config: ml_collections.ConfigDict,
    directory: pathlib.Path | str,
    card: card_lib.Card,
    num_tested: int | None = None,
) -> dict[str, Grown]:
  """All three splits, checked to share no question.

  Args:
    config: names protocol and sampling, and how much of train is learnt from.
    directory: of the replies.
    card: of the router.
    num_tested: the first so many test problems; None = all there are.

  Raises:
    ValueError: as `grow` does, or if two splits share a question.
  """
  sizes = {'train': num_trained_on(config), 'test': num_tested}
  grown = {
      name: grow(config, directory, name, card, sizes.get(name))
      for name in builders.SPLITS
  }
  _check_disjoint(grown)
  return grown


def scores_of(
    router: learned.LearnedRouter, forest: forests.Forest
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Per member: `[M]` scores, and `[M]` routes that are then named."""
  found = []
  for member in range(router.num_members):
    larger = np.concatenate(
        [
            _probabilities(router, member, forest, rows)[:, 1:]
            for rows in _chunks(len(forest.depth))
        ]
    )
    found.append((larger.sum(axis=-1), 1 + larger.argmax(axis=-1)))
  return found


def _chunks(size: int) -> list[np.ndarray]:
  return [
      np.arange(start, min(start + _CHUNK, size))
      for start in range(0, size, _CHUNK)
  ]


def _probabilities(
    router: learned.LearnedRouter,
    member: int,
    forest: forests.Forest,
    rows: np.ndarray,
) -> np.ndarray:
  """`[rows, A]`; a network with memory sees the decisions before, too."""
  if not router.has_memory:
    return router.probabilities(forest.features[rows], member)
  path = forest.path()[rows]
  seen = np.where((path >= 0)[..., None], forest.features[path], 0.0)
  chances = router.probabilities(seen, member)
  return chances[np.arange(len(rows)), forest.depth[rows]]


def _check_disjoint(grown: Mapping[str, Grown]) -> None:
  """Raises ValueError if two splits share a question."""
  splits.check_disjoint(
      **{
          name: [splits.question_hash(x.problem.question) for x in y.rollouts]
          for name, y in grown.items()
      }
  )
