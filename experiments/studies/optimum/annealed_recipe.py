"""The recipe that tests whether the estimators are right.

The network observes the exact belief over hidden states, every update has new
problems, entropy is annealed, and weights are averaged over the last quarter of
the updates.

All seeds and budgets of one estimator are one jitted program, data included.

Source of the averaging: Polyak and Juditsky 1992, "Acceleration of Stochastic
Approximation by Averaging".
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from experiments.studies.optimum import recipe as recipe_lib
from routing import types
from routing.features import standardize
from routing.simulation import histories
from routing.simulation import history_tree as tree_lib
from routing.simulation import sampling
from routing.training import fit

MEAN_OVER = (
    0.25  # Share of the updates, the last ones, to average weights over.
)
_NUM_MEASURED = 4_096  # Trajectories that feature statistics are measured on.


def get_config(
    estimator: str,
    size: recipe_lib.Size,
    budget: chex.Numeric,
    step: chex.Numeric,
) -> ml_collections.ConfigDict:
  """Returns the configuration of one update, as `routing.training` reads it.

  The budget and the number of the update may be traced scalars.
  """
  # A policy that is certain at the first decision never reaches later ones and
  # learns nothing about them. An entropy bonus prevents it; the bonus falls
  # linearly to 0 over the first 60 % of the updates.
  undecided = jnp.maximum(1.0 - step / (0.6 * size.num_steps), 0.0)
  # The rate falls to near 0, because the average is off by as much as the
  # weights wander. It does not fall to 0, because the last weights, which are
  # averaged, must still follow the multiplier.
  decay = functools.partial(optax.cosine_decay_schedule, alpha=0.03)
  config = ml_collections.ConfigDict()
  config.network = dict(kind='mlp', hidden=(32,), dropout=0.0)
  config.objective = dict(
      estimator=estimator,
      form='budget',
      levels=(budget,),
      entropy_weight=0.1 * undecided,
  )
  config.optimizer = dict(
      learning_rate=decay(3e-2, size.num_steps), weight_decay=0.0, clip_norm=1.0
  )
  config.multiplier = dict(
      init=0.5,
      # With a lower rate at the end, costs stay percents off the budget.
      learning_rate=0.1,
      damping=4.0,
      derivative=0.0,
      max=20.0,
  )
  if estimator == 'exact':
    return config
  config.objective.update(
      policy_update='lagrangian',
      num_inner_steps=2,
      # rho_bar alone decides what V-trace converges to: unclipped, to the value
      # of the policy itself. The other clipping thresholds bound the variance
      # where the behaviour policy is far away.
      rho_bar=jnp.inf,
      c_bar=1.0,
      ratio_clip=jnp.inf,
      reach_clip=10.0,
      normalize_advantages=False,
      clip=0.2,
      kl_weight=0.0,
  )
  # The schedule counts gradient steps, of which each update has several.
  inner = size.num_steps * config.objective.num_inner_steps
  config.optimizer.learning_rate = decay(1e-2, inner)
  config.critics = dict(
      learning_rate=decay(1e-2, inner), weight_decay=0.0, clip_norm=1.0
  )
  return config


def standardized(tree: tree_lib.HistoryTree) -> tree_lib.HistoryTree:
  """Returns the tree with standardised features, as a router observes them."""
  batch = _measured(tree, uniform(tree))
  statistics = standardize.measure(
      *map(np.asarray, (batch.features, batch.mask))
  )
  levels = (
      dataclasses.replace(x, features=standardize.apply(x.features, statistics))
      for x in tree.levels
  )
  return dataclasses.replace(tree, levels=tuple(levels))


@jax.jit
def _measured(tree, policy):
  """Returns trajectories of a policy, to measure features on."""
  return sampling.rollout(
      tree, sampling.follow(policy), jax.random.key(0), _NUM_MEASURED
  )


def uniform(tree: tree_lib.HistoryTree) -> list[np.ndarray]:
  """Returns the policy that takes every route with equal probability."""
  num_routes = tree.process.num_routes
  return tree_lib.constant(tree, np.full(num_routes, 1.0 / num_routes))


def mismatched(tree: tree_lib.HistoryTree) -> list[np.ndarray]:
  """Returns a policy that hands over the more, the more certain it is.

  It is the opposite of a good policy: a hard test for importance weights.

  Args:
    tree: its features must be beliefs.
  """
  larger = tree.process.num_routes - 1
  uncertainty = histories.uncertainty_weights(tree.process, tree.protocol)
  # From 0.6 for the most certain histories to 0.2; never 0, so that importance
  # ratios are bounded.
  leave = [0.6 - 0.4 * (x.features @ uncertainty)[:, None] for x in tree.levels]
  return [np.hstack([1.0 - x, np.tile(x / larger, larger)]) for x in leave]


def _batches(
    tree: tree_lib.HistoryTree,
    seen: tree_lib.HistoryTree,
    source: str,
    num: int,
) -> Callable[..., types.OutcomeBatch | types.TrajectoryBatch]:
  """Returns a function that draws one batch of new problems.

  The function takes a random key and the policy in training, a function from
  features to action probabilities. Only 'its own' trajectories use the policy.

  Args:
    tree: of beliefs, which the behaviour policies read.
    seen: the same tree with standardised features, for the batch.
    source: see `train`.
    num: problems per batch.
  """
  tables = {'uniform': uniform, 'mismatched': mismatched}
  fixed = sampling.follow(tables[source](tree)) if source in tables else None

  def batch_of(key, probabilities):
    if source == 'ladders':
      return sampling.sample_ladders(seen, key, num)

    def its_own(t, rows):
      return probabilities(jnp.asarray(seen.levels[t].features)[rows])

    return sampling.rollout(seen, fixed or its_own, key, num)

  return batch_of


def train(
    tree: tree_lib.HistoryTree,
    estimator: str,
    source: str,
    size: recipe_lib.Size,
    budgets: Sequence[float],
) -> list[np.ndarray]:
  """Trains policies for all seeds and budgets.

  Args:
    tree: history tree whose features are beliefs.
    estimator: as `objective.estimator`.
    source: 'ladders', or behaviour 'uniform', 'mismatched' or 'its own'.
    size: how much is trained.
    budgets: cost fractions.

  Returns:
    For each level `[seeds, budgets, n, A]`, the action probabilities.
  """
  seen = standardized(tree)
  shape = tree.process.num_routes, tree.levels[0].features.shape[-1]
  batch_of = _batches(tree, seen, source, size.num_problems)

  def learner(seed, budget, step):
    config = get_config(estimator, size, budget, step)
    return fit.make_learner(config, *shape, seed)

  def run(seed, budget):
    network, state, _ = learner(seed, budget, 0)
    rng = jax.random.fold_in(jax.random.key(1), seed)

    def probabilities(params, features):
      params = jax.tree.map(lambda x: x[0], params)  # One budget per run.
      return jax.nn.softmax(network.apply({'params': params}, features))

    def update(carry, step):
      state, mean = carry
      _, _, train_step = learner(seed, budget, step)
      # Every update has new problems, so nothing can be overfitted.
      key = jax.random.fold_in(rng, step)
      batch = batch_of(key, functools.partial(probabilities, state.params))
      state, _ = train_step(state, (batch, None))
      # 0 until the last `num_last` updates, then 1 / num_last.
      weight = (step >= size.num_steps - num_last) / num_last
      mean = jax.tree.map(lambda x, y: x + weight * y, mean, state.params)
      return (state, mean), None

    num_last = max(int(MEAN_OVER * size.num_steps), 1)
    start = state, jax.tree.map(jnp.zeros_like, state.params)
    (_, mean), _ = jax.lax.scan(update, start, jnp.arange(size.num_steps))
    return [probabilities(mean, x.features) for x in seen.levels]

  # lax.map, not vmap: the arrays of one run fit the processor's cache.
  seeds = jnp.repeat(jnp.arange(size.num_seeds), len(budgets))
  levels = jnp.tile(jnp.array(budgets), size.num_seeds)
  every = jax.jit(lambda *runs: jax.lax.map(lambda x: run(*x), runs))
  return [
      np.asarray(x, np.float64).reshape(-1, len(budgets), *x.shape[1:])
      for x in every(seeds, levels)
  ]


_TEXT = """This page tests whether the estimators are right, not what a user
gets. The network observes the *exact belief* over the hidden states of the
process, which no router of real models has. Training has a recipe of its own:
{num_steps} updates with {num_problems} new problems each, entropy annealed to
0, decaying learning rates, and weights averaged over the last quarter. Real
models are trained by the recipes of `configs/`. For the same processes with the
recipe of `configs/` and the observations of a real router, see
[optimum_product.md](optimum_product.md).

{differences}"""
RECIPE = recipe_lib.Recipe(
    name='annealed',
    title='How near the estimators come to the optimum',
    learners=(
        ('exact', 'ladders', recipe_lib.ESCALATE),
        ('vtrace', 'uniform', recipe_lib.EVERY),
        ('vtrace', 'mismatched', recipe_lib.EVERY),
        ('on_policy', 'its own', recipe_lib.EVERY),
    ),
    features='belief',
    train=train,
    # The mean cost of an off-policy batch of 1,000 has a standard error of some
    # percent; larger batches bring costs within 1 % of the budget. Exploration
    # among three routes needs many updates.
    full=recipe_lib.Size(num_seeds=5, num_problems=4_096, num_steps=3_000),
    quick=recipe_lib.Size(num_seeds=2, num_problems=512, num_steps=400),
    text=_TEXT,
    files=(__file__,),
)
