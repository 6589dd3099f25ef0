"""The recipe of `configs/`, with the observations of a real router.

All fields come from the configurations themselves. Problems are drawn once, as
many as are collected for a real pair; training stops early on `select`.
"""

from collections.abc import Sequence
import functools
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
  """Returns the configuration that a user gets, at these budgets."""
  config = _CONFIGS[estimator]()
  config.objective.levels = tuple(budgets)
  # Never more than the configuration: `size` only shortens quick runs.
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
  """Draws ladders, or trajectories at random rates, of new problems.

  Here every trajectory has a problem of its own. A real collection has several
  trajectories per problem, which say a little less.

  Args:
    tree: of the process under the protocol.
    config: `behaviour.trajectories` is read.
    source: 'ladders', or anything else for trajectories.
    num: problems.
    rng: random key.
  """
  if source == 'ladders':
    return _sample_ladders(tree, rng, num)
  return _roll_out(tree, rng, num * config.behaviour.trajectories)


_sample_ladders = jax.jit(sampling.sample_ladders, static_argnums=2)


@functools.partial(jax.jit, static_argnums=2)
def _roll_out(tree, rng, num):
  """Rolls out `num` trajectories of the behaviour policy with random rates."""
  rates = sampling.random_rates(tree.process, jax.random.fold_in(rng, 1), num)
  return sampling.rollout(tree, rates, rng, num)


def train(
    tree: tree_lib.HistoryTree,
    estimator: str,
    source: str,
    size: recipe_lib.Size,
    budgets: Sequence[float],
) -> recipe_lib.Tables:
  """Trains policies for all seeds and budgets; see `Recipe.train`."""
  config = get_config(estimator, size, budgets)
  tree = traces.observed(tree, config)
  policies = [
      _train_seed(tree, config, source, size, seed)
      for seed in range(size.num_seeds)
  ]
  return [np.stack(tables) for tables in zip(*policies, strict=True)]


def _train_seed(tree, config, source, size, seed) -> list[np.ndarray]:
  """Returns `[budgets, n, A]` action probabilities for each level."""
  # Separate keys for train and select, and both apart from the training seed.
  keys = jax.random.split(jax.random.fold_in(jax.random.key(2), seed))
  share = config.problems.select / config.problems.train
  nums = size.num_problems, max(int(share * size.num_problems), 1)
  data, select = (
      jax.device_get(draw(tree, config, source, num, key))
      for num, key in zip(nums, keys, strict=True)
  )
  # From the training problems alone, as in a real run.
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

  # The parameters that a router would be saved with: the best ones, or the last
  # ones of a policy that could not be validated at any step.
  kept = state_lib.kept_params(
      state, is_shared=config.network.get('is_conditioned', False)
  )
  every = jax.jit(jax.vmap(probabilities, in_axes=(0, None)))
  return [
      np.asarray(every(kept, seen(level.features)), np.float64)
      for level in tree.levels
  ]


_TEXT = """This page shows what training gives a user, before calibration. The
network observes what `routing.features.observation` returns for a trace whose
steps have one token each. The log-probability of the token tells the level of
confidence. The feature groups are confidence, progress and cost, because the
process has no text and no hidden states. The only memory is the running minimum
and mean. Training is that of `configs/arithmetic.py` (`exact`) and
`configs/arithmetic_redraft.py:vtrace`, early stopping included, on
{num_problems} problems that are drawn once. The optimum is over all policies,
which may remember everything. The gap to it is due to training, to the sample,
or to what the observation does not tell. A user's run would then calibrate its
thresholds to meet a budget. That is not done here, so the excess is that of
training alone. A policy that `select` cannot validate at any step
(`objective.min_effective_size`) keeps its last weights. In `switch` and
`redraft`, a user whose models are greedy trains by the closed form on all
replies; this page has only V-trace. For the exact belief and a recipe made for
this test, see [optimum.md](optimum.md)."""
RECIPE = recipe_lib.Recipe(
    name='product',
    title='How near the product comes to the optimum',
    learners=(
        ('exact', 'ladders', recipe_lib.ESCALATE),
        ('vtrace', 'random rates', recipe_lib.EVERY),
    ),
    features='signals',  # Replaced by the features of `traces.observed`.
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
