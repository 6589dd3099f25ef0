"""Draws problems, ladders and trajectories from a simulated process.

Hidden states are drawn, and steps are written one after another. The history
tree is used only to look up the features of a sampled history; none of the
tree's probabilities are used. So the samples are an independent check of the
exact values that are computed on the tree.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from routing import types
from routing.simulation import history_tree as tree_lib
from routing.simulation import process as process_lib

# A behaviour policy: function of the decision t and of `[B]` indices of
# histories in level t of the history tree; returns `[B, A]` action
# probabilities.
Behaviour = Callable[[int, chex.Array], chex.Array]


class Noise(NamedTuple):
  """The random draws of B problems, made before and without any decision.

  difficulty: `[B, T]` int32, difficulty of each step.
  writing: `[B, T, A]` float32 in [0, 1), one draw per step and route. A route's
    step leaves the trace right if the draw is below `Process.stays_right`.
  looks: `[B, T, 2]` float32 in [0, 1), draws for the confidence of the small
    model's step (0) and of any other model's step (1).
  """

  difficulty: jax.Array
  writing: jax.Array
  looks: jax.Array


def draw(process: process_lib.Process, rng: chex.PRNGKey, num: int) -> Noise:
  """Draws the `Noise` of `num` problems; consumes `rng`."""
  first, moving, writing, looking = jax.random.split(rng, 4)
  moves = jnp.log(jnp.asarray(process.moves))  # `categorical` takes logits.
  path = [
      jax.random.categorical(
          first, jnp.log(jnp.asarray(process.start)), shape=(num,)
      )
  ]
  for step in range(1, process.num_steps):
    key = jax.random.fold_in(moving, step)
    path.append(jax.random.categorical(key, moves[path[-1]]))
  shape = num, process.num_steps
  return Noise(
      difficulty=jnp.stack(path, axis=1),
      writing=jax.random.uniform(writing, (*shape, process.num_routes)),
      looks=jax.random.uniform(looking, (*shape, 2)),
  )


def write(
    process: process_lib.Process,
    noise: Noise,
    step: int,
    is_wrong: chex.Array,
    writer: chex.Array | int,
) -> jax.Array:
  """Writes one step of B traces; returns `[B]` bool, the trace is wrong then.

  Args:
    process: the dynamics.
    noise: the random draws of the B problems.
    step: number of the step, in 0..T-1.
    is_wrong: `[B]` bool, the trace was wrong before the step.
    writer: the route that writes the step: an int, or `[B]` int.
  """
  rows = jnp.arange(len(is_wrong))
  probabilities = jnp.asarray(process.stays_right)[
      writer, noise.difficulty[:, step], is_wrong.astype(jnp.int32)
  ]
  return noise.writing[rows, step, writer] >= probabilities


def _level(process, noise, step, is_wrong, *, is_small) -> jax.Array:
  """Draws the confidence level of a step, `[B]` int32.

  Args:
    process, noise, step: as in `write`.
    is_wrong: `[B]` bool, the trace is wrong after the step.
    is_small: bool or `[B]` bool, the small model wrote the step.
  """
  probabilities = jnp.asarray(process.confidence)[
      noise.difficulty[:, step], is_wrong.astype(jnp.int32)
  ]
  # There are two draws per step, since a router may see the confidence of a
  # draft and of the step that replaces it. Given the trace, the two levels are
  # independent.
  look = jnp.where(is_small, noise.looks[:, step, 0], noise.looks[:, step, 1])
  # The level is drawn by inverting the cumulative distribution. The last entry
  # of this distribution is left out: if rounding made it less than 1, a draw
  # above it would give level L, which does not exist.
  bounds = jnp.cumsum(probabilities[:, :-1], axis=-1)
  return jnp.sum(look[:, None] >= bounds, axis=-1)


def _draft(process, noise, step, is_wrong) -> jax.Array:
  """Drafts a step by the small model; returns its confidence, `[B]` int32.

  Args:
    process, noise, step, is_wrong: as in `write`.
  """
  drafted = write(process, noise, step, is_wrong, 0)
  return _level(process, noise, step, drafted, is_small=True)


def _next_histories(tree, noise, t, histories, actions, is_wrong) -> jax.Array:
  """Returns the `[B]` int32 indices of histories in level t + 1 of the tree.

  Args:
    tree: the history tree of the process.
    noise: the random draws of the B problems.
    t: number of the decision just taken.
    histories, actions: `[B]` int32, indices of histories in level t, and the
      actions taken there.
    is_wrong: `[B]` bool, the trace is wrong after the step.

  Returns:
    The indices; 0, as padding, after an action that no decision follows.
  """
  process = tree.process
  is_small = actions == 0
  seen = _level(process, noise, t, is_wrong, is_small=is_small)
  if tree.protocol.has_draft:
    draft = _draft(process, noise, t + 1, is_wrong)
    # Observations are numbered as in `kernels.Kernels.steps`.
    seen = jnp.where(is_small, draft, seen * process.num_levels + draft)
  begins = jnp.asarray(tree.levels[t].begins)[histories, actions]
  return jnp.where(begins < 0, 0, begins + seen)


def rollout(
    tree: tree_lib.HistoryTree,
    behaviour: Behaviour,
    rng: chex.PRNGKey,
    num: int,
) -> types.TrajectoryBatch:
  """Draws `num` trajectories under a behaviour policy; for use under jit, vmap.

  Args:
    tree: the history tree of a process under a protocol.
    behaviour: the behaviour policy, e.g. from `follow`.
    rng: consumed.
    num: B, number of trajectories.
  """
  process, protocol = tree.process, tree.protocol
  noise_key, action_key = jax.random.split(rng)
  noise = draw(process, noise_key, num)
  costs = jnp.asarray(process_lib.action_costs(process, protocol), jnp.float32)
  largest = process.num_routes - 1  # This route writes the reference trace.
  is_wrong = reference_is_wrong = jnp.zeros(num, bool)
  is_asked, writer = jnp.ones(num, bool), jnp.zeros(num, jnp.int32)
  histories = jnp.zeros(num, jnp.int32)
  if protocol.has_draft:
    histories = _draft(process, noise, 0, is_wrong)
  rows = []
  for t, level in enumerate(tree.levels):
    probabilities = behaviour(t, histories)
    actions = jax.random.categorical(
        jax.random.fold_in(action_key, t), jnp.log(probabilities)
    ).astype(jnp.int32)
    taken = jnp.take_along_axis(probabilities, actions[:, None], axis=-1)[:, 0]
    rows.append(
        dict(
            features=jnp.asarray(level.features)[histories] * is_asked[:, None],
            mask=is_asked,  # After a hand-over: padding, action probability 1.
            actions=jnp.where(is_asked, actions, 0),
            behaviour=jnp.where(is_asked, taken, 1.0),
            costs=jnp.where(is_asked, costs[t][actions], 0.0),
        )
    )
    writer = jnp.where(is_asked, actions, writer)  # Fixed after a hand-over.
    is_wrong = write(process, noise, t, is_wrong, writer)
    # The reference uses the same noise, so that loss and gain are paired.
    reference_is_wrong = write(process, noise, t, reference_is_wrong, largest)
    is_asked &= ~jnp.asarray(protocol.is_absorbing(actions))
    if t + 1 < process.num_steps:
      histories = _next_histories(tree, noise, t, histories, actions, is_wrong)
  fields = {
      name: jnp.stack([row[name] for row in rows], axis=1) for name in rows[0]
  }
  return types.TrajectoryBatch(
      **fields,
      available=jnp.broadcast_to(
          fields['mask'][..., None],
          (num, process.num_steps, process.num_routes),
      ),
      correct=1.0 - is_wrong,
      loss=(is_wrong & ~reference_is_wrong).astype(jnp.float32),
      gain=(reference_is_wrong & ~is_wrong).astype(jnp.float32),
  )


def sample_ladders(
    tree: tree_lib.HistoryTree, rng: chex.PRNGKey, num: int
) -> types.OutcomeBatch:
  """Draws the ladders of `num` problems: the small trace and all hand-overs.

  Args:
    tree: the history tree of a process under `escalate`.
    rng: consumed.
    num: B, number of problems.

  Raises:
    ValueError: if the protocol is not `escalate`.
  """
  process, protocol = tree.process, tree.protocol
  if protocol.name != 'escalate':
    raise ValueError(
        f'The protocol is {protocol.name}; ladders exist for escalate only.'
    )
  num_steps, larger = process.num_steps, range(1, process.num_routes)
  noise = draw(process, rng, num)
  stay = jnp.zeros(num, jnp.int32)
  is_wrong = jnp.zeros(num, bool)
  histories = (
      _draft(process, noise, 0, is_wrong) if protocol.has_draft else stay
  )
  features, wrong = [], []
  for t, level in enumerate(tree.levels):
    features.append(jnp.asarray(level.features)[histories])
    # Hand-overs at t are evaluated before the small model writes step t, since
    # the larger route writes step t instead.
    wrong.append([_end(process, noise, t, is_wrong, a) for a in larger])
    is_wrong = write(process, noise, t, is_wrong, 0)
    if t + 1 < num_steps:
      histories = _next_histories(tree, noise, t, histories, stay, is_wrong)
  wrong = jnp.transpose(jnp.asarray(wrong), (2, 0, 1))  # [B, T, A - 1]
  # The largest model's own answer is its hand-over at the first decision.
  is_reference_right = ~wrong[:, 0, -1]
  costs = process_lib.action_costs(process, protocol)
  # A hand-over at t costs the small model's steps before t, `before` [T, 1],
  # and the larger route's steps from t on.
  before = np.cumsum(costs[:, :1], axis=0) - costs[:, :1]
  handover = jnp.broadcast_to(
      (before + costs[:, 1:]).astype(np.float32), wrong.shape
  )
  stay_loss = is_wrong & is_reference_right
  return types.OutcomeBatch(
      features=jnp.stack(features, axis=1),
      mask=jnp.ones((num, num_steps), bool),
      branch=jnp.zeros((num, num_steps), jnp.int32),
      correct=_with_stay(1.0 - wrong, 1.0 - is_wrong),
      cost=_with_stay(handover, jnp.full(num, costs[:, 0].sum())),
      loss=_with_stay(wrong & is_reference_right[:, None, None], stay_loss),
      widths=(1,) * num_steps,
  )


def _with_stay(handover: jax.Array, stay: jax.Array) -> jax.Array:
  """Joins outcomes of hand-overs and of the small trace to `[B, T, A]` float32.

  Args:
    handover: `[B, T, A - 1]`, outcome of each hand-over.
    stay: `[B]`, outcome of the small trace. It is stored as route 0 at the last
      decision, where staying ends the answer. At earlier decisions route 0 has
      outcome 0 (see `types.OutcomeBatch`).
  """
  stays = jnp.zeros(handover.shape[:2]).at[:, -1].set(stay)
  return jnp.concatenate(
      [stays[..., None], handover], axis=-1, dtype=jnp.float32
  )


def _end(process, noise, step, is_wrong, route) -> jax.Array:
  """Returns `[B]` bool: the answer is wrong if `route` writes it to the end.

  Args:
    process, noise, is_wrong: as in `write`.
    step: the first step that `route` writes.
    route: the route that writes all steps from `step` on.
  """
  for t in range(step, process.num_steps):
    is_wrong = write(process, noise, t, is_wrong, route)
  return is_wrong


def follow(policy: tree_lib.Policy) -> Behaviour:
  """Returns a policy on the history tree as a `Behaviour` for `rollout`."""
  # The tables are converted once here, and not in the returned function, which
  # is traced at every level.
  tables = [jnp.asarray(table, jnp.float32) for table in policy]
  return lambda t, histories: tables[t][histories]


def random_rates(
    process: process_lib.Process, rng: chex.PRNGKey, num: int
) -> Behaviour:
  """Returns a random behaviour policy with one hand-over rate per trajectory.

  The rates are uniform in [0, 1], so that the data cover all mean costs. A
  hand-over goes to each larger route with equal probability.

  Args:
    process: the process to collect from.
    rng: consumed.
    num: B, number of trajectories.
  """
  rates = jax.random.uniform(rng, (num, 1))
  larger = jnp.full(
      (num, process.num_routes - 1), 1.0 / (process.num_routes - 1)
  )
  probabilities = jnp.concatenate([1.0 - rates, rates * larger], axis=-1)
  return lambda t, histories: probabilities
