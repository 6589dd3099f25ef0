"""The recipe of `configs/`, on what a real router observes.

Fields come from the configurations themselves. Problems are made up once, as
many as are collected of a real pair; `select` problems stop training early.
"""

from collections.abc import Sequence
import tempfile

import jax
import ml_collections
import numpy as np

from configs import arithmetic
from configs import arithmetic_redraft
from experiments.studies.optimum import recipe as recipe_lib
from experiments.studies.optimum import traces
from routing import types
from routing.features import confidence
from routing.features import observation
from routing.features import standardize
from routing.policy import networks
from routing.simulation import history_tree as tree_lib
from routing.simulation import sampling
from routing.training import fit
from routing.training import state as state_lib

_CONFIGS = {
    'exact': lambda: arithmetic.get_config('full'),
    'vtrace': lambda: arithmetic_redraft.get_config('vtrace'),
}
Data = types.OutcomeBatch | types.TrajectoryBatch


def get_config(
    estimator: str, size: recipe_lib.Size, budgets: Sequence[float]
) -> ml_collections.ConfigDict:
  """The product's configuration, at these budgets."""
  config = _CONFIGS[estimator]()
  config.objective.levels = tuple(budgets)
  config.num_steps = min(config.num_steps, size.num_steps)
  config.batch_size = min(config.batch_size, size.num_problems)
  return config


def draw(
    tree: tree_lib.HistoryTree,
    config: ml_collections.ConfigDict,
    source: str,
    num: int,
    rng: jax.Array,
) -> Data:
  """Ladders, or trajectories at random rates, of new problems.

  Trajectories of one problem share no luck here: with as many problems as
  trajectories, they say a little more than those of a real collection.
  """
  if source == 'ladders':
    return sampling.sample_ladders(tree, rng, num)
  total = num * config.behaviour.trajectories
  rates = sampling.random_rates(tree.process, jax.random.fold_in(rng, 1), total)
  return sampling.rollout(tree, rates, rng, total)


def train(
    tree: tree_lib.HistoryTree,
    estimator: str,
    source: str,
    size: recipe_lib.Size,
    budgets: Sequence[float],
) -> recipe_lib.Tables:
  """Policies of all seeds and budgets, as `Recipe.train` gives them."""
  config = get_config(estimator, size, budgets)
  tree = traces.observed(tree, config)
  policies = [
      _train_seed(tree, config, source, size, seed)
      for seed in range(size.num_seeds)
  ]
  return [np.stack(tables) for tables in zip(*policies, strict=True)]


def _train_seed(tree, config, source, size, seed) -> list[np.ndarray]:
  """For each level of the tree `[budgets, n, A]`."""
  keys = jax.random.split(jax.random.fold_in(jax.random.key(2), seed))
  share = config.problems.select / config.problems.train
  nums = size.num_problems, max(int(share * size.num_problems), 1)
  data, select = (
      jax.device_get(draw(tree, config, source, num, key))
      for num, key in zip(nums, keys, strict=True)
  )
  statistics = standardize.measure(data.features, data.mask)
  seen = lambda x: standardize.apply(np.asarray(x), statistics)
  with tempfile.TemporaryDirectory() as directory:
    state = fit.fit(
        config,
        data.replace(features=seen(data.features)),
        select.replace(features=seen(select.features)),
        directory,
        seed=seed,
    )
  network = networks.make_network(config.network, tree.process.num_routes)

  def probabilities(params, features):
    return jax.nn.softmax(network.apply({'params': params}, features))

  # As saved by the product: not the first weights where none could be judged.
  kept = state_lib.kept_params(
      state, is_shared=config.network.get('is_conditioned', False)
  )
  every = jax.jit(jax.vmap(probabilities, in_axes=(0, None)))
  return [
      np.asarray(every(kept, seen(level.features)), np.float64)
      for level in tree.levels
  ]


_TEXT = """What training gives a user, before calibration. The network is shown
what `routing.features.observation` makes of a trace whose steps are one token
each, its log-probability telling the level of confidence: the groups
confidence, progress and cost. Text and hidden states the process has none.
There is no memory but the running minimum and mean. Training is that of
`configs/arithmetic.py` (`exact`) and `configs/arithmetic_redraft.py:vtrace`,
early stopping included, on {num_problems} problems made up once. The optimum is
over all policies, which remember everything. What is missing is due to
training, to the sample, or to what the observation does not tell. The product
trains so, but then moves its thresholds to meet a budget, which is not done
here: excess is what training alone gives. A policy that `select` could not
judge at any step (`objective.min_effective_size`) keeps its last weights. In
`switch` and `redraft` the product learns by the closed form where all replies
can be had; only V-trace is here. With the exact belief shown, and a recipe for
the purpose: [optimum.md](optimum.md)."""
RECIPE = recipe_lib.Recipe(
    name='product',
    title='How near the product comes to the optimum',
    learners=(
        ('exact', 'ladders', recipe_lib.ESCALATE),
        ('vtrace', 'random rates', recipe_lib.EVERY),
    ),
    features='signals',  # Those of `traces.observed` take their place.
    train=train,
    full=recipe_lib.Size(num_seeds=5, num_problems=6_000, num_steps=10_000),
    quick=recipe_lib.Size(num_seeds=2, num_problems=1_000, num_steps=200),
    text=_TEXT,
    files=(
        __file__,
        traces.__file__,
        observation.__file__,
        confidence.__file__,
        standardize.__file__,
        arithmetic.__file__,
        arithmetic_redraft.__file__,
    ),
)
