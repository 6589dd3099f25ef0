"""Trains the policies of `switch` and `redraft` on whole trees, in closed form.

Run:    python -m experiments.train_trees --config=configs/arithmetic_trees.py --workdir=runs/redraft_trees --replies=runs/replies
Resume: the same command; finished seeds are kept, an unfinished one goes on.
Writes: what experiments/train writes.

Every reply to every trace is known beforehand (see `experiments.replies`), so
the gradient is that of the expected outcome itself, as on ladders.
"""  # noqa: E501  Commands stay on one line.

import pathlib

from absl import flags
from absl import logging
import ml_collections
import numpy as np

from experiments import builders
from experiments import grown as grown_lib
from experiments import launch
from experiments import replies
from experiments import train
from experiments import training_sets
from routing import types
from routing.features import batching
from routing.features import forests
from routing.features import observation
from routing.features import standardize
from routing.problems import splits
from routing.shards import manifest as manifest_lib
from routing.training import memory


def load(
    config: ml_collections.ConfigDict, directory: pathlib.Path | str
) -> training_sets.TrainingSet:
  """Reads and featurises the trees of train and half of validation.

  Args:
    config: of the run.
    directory: of the replies.

  Raises:
    ValueError: if a split is not collected, or not to its end.
  """
  source = {
      'train': list(
          grown_lib.read_trees(
              config, directory, 'train', grown_lib.num_trained_on(config)
          )
      ),
      # The other half must not have a say in when training stops.
      'validation': splits.halves(
          list(grown_lib.read_trees(config, directory, 'validation'))
      )[0],
  }
  accounting = batching.with_reference(
      builders.accounting(config),
      [types.Rollouts(x.problem, x.reference, ()) for x in source['train']],
  )
  features = _features(config, directory, len(accounting.specs))
  grown = {
      name: forests.forest(x, features, accounting)
      for name, x in source.items()
  }
  statistics = standardize.measure(
      grown['train'].features[None],
      np.ones((1, len(grown['train'].features)), bool),
  )
  depth = max(forest.max_depth for forest in grown.values())
  batches = {
      name: forests.tree_batch(forest, statistics, config.ruler, depth)
      for name, forest in grown.items()
  }
  view = training_sets.View(
      features, accounting, builders.protocol(config), statistics
  )
  return training_sets.TrainingSet(
      view=view,
      shards={
          name: manifest_lib.hash_problems([x.problem for x in source[name]])
          for name in source
      },
      **batches,
  )


def _features(
    config: ml_collections.ConfigDict,
    directory: pathlib.Path | str,
    num_routes: int,
) -> observation.FeatureConfig:
  """What is observed; the replies say how long a hidden state is."""
  first = next(iter(replies.read(config, directory, 'train')))
  sizes = [
      len(x.step.hidden) for x in first.replies if x.step.hidden is not None
  ]
  return observation.configure(
      config.features,
      num_routes=num_routes,
      max_steps=config.protocol.max_steps,
      hidden_size=max(sizes, default=0),
  )


def train_all(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    directory: pathlib.Path | str,
) -> list[pathlib.Path]:
  """Trains every seed of `config.train_seeds`; returns their directories."""
  memory.keep_freed()
  data = load(config, directory)
  logging.info('Trees of %d problems', len(data.train.mask))
  for seed in config.train_seeds:
    train.train_seed(config, workdir, seed, data)
  return [train.run_directory(workdir, seed) for seed in config.train_seeds]


if __name__ == '__main__':
  flags.DEFINE_string('replies', None, 'Directory of the replies.')
  flags.mark_flag_as_required('replies')
  launch.run(train_all, 'config', 'workdir', 'replies')
