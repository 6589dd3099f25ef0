"""Halves of validation as trees: what any threshold gets, without a model.

Where all replies are known (`experiments.replies`), a router at a threshold is
a walk down each problem's tree, and equals what the driver would have got.
"""

from collections.abc import Sequence
import dataclasses
import json
import pathlib

import ml_collections
import numpy as np

from experiments import calibrate_rollouts
from experiments import grown as grown_lib
from experiments import replies
from experiments import training_sets
from routing import types
from routing.calibration import thresholds as thresholds_lib
from routing.outcomes import points as points_lib
from routing.evaluation import walks
from routing.problems import splits
from routing.routers import learned
from routing.shards import manifest as manifest_lib
from routing.training import fit as fit_lib


@dataclasses.dataclass(frozen=True)
class Half:
  """One half of validation.

  records: indices of its problems in the forest.
  met: per member, the scores of all decisions in their trees.
  """

  records: Sequence[int]
  met: list[np.ndarray]

  def grid(self, member: int, size: int) -> np.ndarray:
    """`[K]` thresholds, from the scores that can be met."""
    met = self.met[member][:, None]
    return thresholds_lib.grid(met, np.ones_like(met, bool), size)


def is_tree_trained(config: ml_collections.ConfigDict) -> bool:
  """The router learnt from replies, not from rollouts."""
  return fit_lib.estimator_of(config) == 'exact'


def trained_on(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    directory: pathlib.Path | str,
) -> list:
  """Records of the training problems, wherever the router had them from."""
  if is_tree_trained(config):
    return list(replies.read(config, directory, 'train'))
  return training_sets.open_split(config, workdir, 'train').all()


def check_chosen_on(
    run: pathlib.Path, problems: Sequence[types.Problem]
) -> None:
  """Raises ValueError if training stopped early on other problems."""
  record = json.loads((run / 'features.json').read_text())
  wanted, found = record['shards']['validation'], splits.halves(problems)[0]
  if manifest_lib.hash_problems(found) != wanted:
    raise ValueError(
        f'{run} was trained with other validation problems than the '
        f'{len(problems)} of the replies; train again, or put the others back.'
    )


def halves_of(
    router: learned.LearnedRouter, grown: grown_lib.Grown
) -> tuple[tuple[Half, Half], calibrate_rollouts.Answer]:
  """To choose on and to test on; and what tries thresholds there."""
  choices, forest = grown_lib.scores_of(router, grown.forest), grown.forest
  owner = np.searchsorted(
      forest.roots, np.arange(len(forest.depth)), side='right'
  )

  def half(rows: np.ndarray) -> Half:
    is_own = np.isin(owner - 1, rows)
    return Half(rows.tolist(), [scores[is_own] for scores, _ in choices])

  def answer(member, thresholds, records):
    scores, routes = choices[member]
    found = walks.at_thresholds(
        forest, scores, thresholds, router.card.ruler, routes
    )
    return points_lib.Points(**{k: x[:, records] for k, x in vars(found).items()})

  chosen_on, tested = splits.halves(np.arange(forest.num_problems))
  return (half(chosen_on), half(tested)), answer
