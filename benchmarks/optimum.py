"""How near training comes to what any policy can do.

Run: python -m benchmarks.optimum [--quick]
On made-up processes whose constrained optimum is known (`routing.simulation`),
each estimator trains several seeds at several budgets. The trained policies are
not sampled but evaluated exactly. Their share of the optimal gain is

  (accuracy - random) / (optimum - random)

at the cost that each really has, `random` being the best of chance. The table:

  share, spread, worst  of the gain: mean, deviation and least over seeds
  least, excess         smallest and largest cost, relative to the budget
  plan                  share of the best plan made beforehand, which knows the
                        process but looks at nothing

The last line is a JSON object: `worst_share_of_optimal_gain`, and the table.
"""

from collections.abc import Sequence
import dataclasses
import json
import time

from absl import app
from absl import flags
import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from routing import protocols
from routing.features import standardize
from routing.simulation import histories
from routing.simulation import optimum
from routing.simulation import process as process_lib
from routing.simulation import sampling
from routing.simulation import tree as tree_lib
from routing.training import fit

BUDGETS = (0.4, 0.6)
PROCESSES = {
    'two routes': process_lib.Process(),
    'three routes': process_lib.three_routes(num_steps=3),
}
ESCALATE = (
    protocols.Protocol('escalate', 'peek'),
    protocols.Protocol('escalate', 'commit'),
)
EVERY = (*ESCALATE, protocols.Protocol('switch'), protocols.Protocol('redraft'))
# What learns, from whose trajectories, in which protocols.
LEARNERS = (
    ('exact', 'ladders', ESCALATE),
    ('vtrace', 'uniform', EVERY),
    ('vtrace', 'mismatched', EVERY),
    ('on_policy', 'its own', EVERY),
)
_NUM_MEASURED = 4_096  # Trajectories that features are standardised by.


@dataclasses.dataclass(frozen=True)
class Size:
  """How much is trained.

  num_seeds: runs, each with its own problems and weights.
  batch_size: new problems per update.
  num_steps: updates.
  """

  num_seeds: int
  batch_size: int
  num_steps: int


FULL = Size(num_seeds=5, batch_size=1_024, num_steps=1_000)
QUICK = Size(num_seeds=2, batch_size=256, num_steps=500)


def get_config(
    estimator: str, size: Size, budget: chex.Numeric, step: chex.Numeric
) -> ml_collections.ConfigDict:
  """The configuration of one update, as `routing.training` reads it.

  A policy that makes up its mind at the first decision learns nothing about
  later ones. So it is held undecided at first, by less and less entropy.
  """
  undecided = jnp.maximum(1.0 - step / (0.7 * size.num_steps), 0.0)
  decay = optax.cosine_decay_schedule
  slower = decay(1.0, size.num_steps, 0.02)(step)
  config = ml_collections.ConfigDict()
  config.network = dict(kind='mlp', hidden=(32,), dropout=0.0)
  config.objective = dict(
      estimator=estimator,
      form='budget',
      levels=(budget,),
      entropy_weight=0.05 * undecided,
  )
  config.optimizer = dict(
      learning_rate=decay(3e-2, size.num_steps), weight_decay=0.0, clip_norm=1.0
  )
  config.multiplier = dict(
      init=0.5,
      learning_rate=0.1 * slower,
      damping=4.0,
      derivative=0.0,
      max=20.0,
  )
  if estimator == 'exact':
    return config
  config.objective.update(
      policy_update='lagrangian',
      num_inner=2,
      rho_bar=jnp.inf,
      c_bar=jnp.inf,
      ratio_bar=jnp.inf,
      reach_bar=jnp.inf,
      rescale=False,
      clip=0.2,
      kl_weight=0.0,
  )
  # Of all inner steps, of which the schedule knows nothing.
  inner = size.num_steps * config.objective.num_inner
  config.optimizer.learning_rate = decay(1e-2, inner)
  config.critics = dict(
      learning_rate=decay(1e-2, inner), weight_decay=0.0, clip_norm=1.0
  )
  return config


def standardized(tree: tree_lib.Tree) -> tree_lib.Tree:
  """The same tree, its features as a trained router would be shown them."""
  behaviour = sampling.follow(uniform(tree))
  batch = sampling.rollout(tree, behaviour, jax.random.key(0), _NUM_MEASURED)
  statistics = standardize.measure(
      *map(np.asarray, (batch.features, batch.mask))
  )
  levels = (
      dataclasses.replace(x, features=standardize.apply(x.features, statistics))
      for x in tree.levels
  )
  return dataclasses.replace(tree, levels=tuple(levels))


def uniform(tree: tree_lib.Tree) -> list[np.ndarray]:
  """The policy that takes every route with the same chance."""
  num_routes = tree.process.num_routes
  return tree_lib.constant(tree, np.full(num_routes, 1.0 / num_routes))


def mismatched(tree: tree_lib.Tree) -> list[np.ndarray]:
  """The wrong way round: the surer, the more help. Features are beliefs."""
  larger = tree.process.num_routes - 1
  doubt = histories.doubt_weights(tree.process, tree.protocol)
  leave = [0.6 - 0.4 * (x.features @ doubt)[:, None] for x in tree.levels]
  return [np.hstack([1.0 - x, np.tile(x / larger, larger)]) for x in leave]


def train(
    tree: tree_lib.Tree, estimator: str, source: str, size: Size
) -> list[np.ndarray]:
  """Policies of all seeds and budgets, trained side by side.

  Args:
    tree: of beliefs.
    estimator, source: of `LEARNERS`.
    size: how much.

  Returns:
    For each level `[seeds, budgets, n, A]`, the chances of the actions.
  """
  seen = standardized(tree)
  shape = tree.process.num_routes, tree.levels[0].features.shape[-1]
  tables = {'uniform': uniform, 'mismatched': mismatched}
  fixed = sampling.follow(tables[source](tree)) if source in tables else None

  def learner(seed, budget, step):
    config = get_config(estimator, size, budget, step)
    return fit.make_learner(config, *shape, seed)

  def run(seed, budget):
    network, state, _ = learner(seed, budget, 0)
    rng = jax.random.fold_in(jax.random.key(1), seed)

    def chances(params, features):
      member = jax.tree.map(lambda x: x[0], params)  # Each run has one level.
      return jax.nn.softmax(network.apply({'params': member}, features))

    def batch_at(step, params):
      # Problems are made up anew for each update: nothing can be overfitted.
      key = jax.random.fold_in(rng, step)
      if source == 'ladders':
        return sampling.sample_ladders(seen, key, size.batch_size)
      its_own = lambda t, rows: chances(
          params, jnp.asarray(seen.levels[t].features)[rows]
      )
      return sampling.rollout(seen, fixed or its_own, key, size.batch_size)

    def update(state, step):
      _, _, train_step = learner(seed, budget, step)
      return train_step(state, (batch_at(step, state.params), None))[0], None

    state, _ = jax.lax.scan(update, state, jnp.arange(size.num_steps))
    return [chances(state.params, x.features) for x in seen.levels]

  over_budgets = jax.vmap(run, in_axes=(None, 0))
  over_seeds = jax.vmap(over_budgets, in_axes=(0, None))
  tables = jax.jit(over_seeds)(jnp.arange(size.num_seeds), jnp.array(BUDGETS))
  return [np.asarray(x, np.float64) for x in tables]


def shares(
    tree: tree_lib.Tree, tables: Sequence[np.ndarray], budget: float
) -> dict[str, float]:
  """The figures of several seeds' policies; see the top of the file.

  Args:
    tree: what they were trained for.
    tables: for each level `[seeds, n, A]`.
    budget: what they were trained to cost.
  """
  values = [
      tree_lib.evaluate(tree, policy) for policy in zip(*tables, strict=True)
  ]
  correct, cost, _ = np.array(values).T
  lowest = optimum.random_accuracy(tree, cost)
  best = np.array([optimum.solve(tree, c).values.correct for c in cost])
  share = (correct - lowest) / (best - lowest)
  return {
      'share': float(share.mean()),
      'spread': float(share.std(ddof=1)),
      'worst': float(share.min()),
      'least': float(cost.min() / budget - 1.0),
      'excess': float(cost.max() / budget - 1.0),
  }


def share_of_plan(tree: tree_lib.Tree, budget: float) -> float:
  """What the best plan made beforehand has of the optimal gain."""
  blind = tree_lib.grow(process_lib.unseen(tree.process), tree.protocol)
  plan, best = (optimum.solve(x, budget).values.correct for x in (blind, tree))
  lowest = float(optimum.random_accuracy(tree, budget))
  return (plan - lowest) / (best - lowest)


def measure(
    size: Size, learners: Sequence[tuple[str, str, Sequence]] = LEARNERS
) -> dict[str, object]:
  """Prints the table; returns what the last line holds."""
  rows, start = [], time.perf_counter()
  for name, process in PROCESSES.items():
    for protocol in EVERY:
      tree = tree_lib.grow(process, protocol)
      plans = [share_of_plan(tree, budget) for budget in BUDGETS]
      for estimator, source, allowed in learners:
        if protocol not in allowed:
          continue
        tables = train(tree, estimator, source, size)
        for k, budget in enumerate(BUDGETS):
          row = {
              'estimator': estimator,
              'source': source,
              'process': name,
              'protocol': f'{protocol.name} {protocol.view}',
              'budget': budget,
              **shares(tree, [x[:, k] for x in tables], budget),
              'plan': plans[k],
          }
          rows.append(row)
          print(_line(row), flush=True)
  return {
      'worst_share_of_optimal_gain': min(row['worst'] for row in rows),
      'worst_excess': max(row['excess'] for row in rows),
      'num_seeds': size.num_seeds,
      'seconds': round(time.perf_counter() - start),
      'table': rows,
  }


def _line(row: dict[str, object]) -> str:
  return '  '.join(
      f'{name} {x:+.4f}' if isinstance(x, float) else f'{x:<10}'
      for name, x in row.items()
  )


def main(argv: Sequence[str]) -> None:
  """Prints the table, then the JSON line."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  print(json.dumps(measure(QUICK if flags.FLAGS.quick else FULL)))


if __name__ == '__main__':
  flags.DEFINE_bool('quick', False, 'Fewer seeds, problems and updates.')
  app.run(main)
