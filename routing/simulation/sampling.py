"""Draws problems, ladders and trajectories from a simulated process.

Hidden states are drawn and steps are written one after another. The history
tree gives only the index of a sampled history, and thus its features, but none
of its probabilities are used. So samples are an independent check of the tree.
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

# (t, [B] histories of level t) -> [B, A] action probabilities.
Behaviour = Callable[[int, chex.Array], chex.Array]


class Noise(NamedTuple):
  """The random draws of B problems, independent of all decisions.

  difficulty: `[B, T]` int32.
  writing: `[B, T, A]` float32 in [0, 1), one draw per route's step. The step is
    right if the draw is below the probability of a right step.
  looks: `[B, T, 2]` float32 in [0, 1), draws for the confidence of the small
    model's step (0) and of any other model's step (1).
  """

  difficulty: jax.Array
  writing: jax.Array
  looks: jax.Array


def draw(process: process_lib.Process, rng: chex.PRNGKey, num: int) -> Noise:
  """Draws the noise of `num` problems; consumes `rng`."""
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
  """Returns `[B]` bool, whether the trace is wrong after a step.

  Args:
    process: the dynamics.
    noise: the random draws of the problems.
    step: in 0..T-1.
    is_wrong: `[B]` bool, whether the trace was wrong before.
    writer: the route that writes the step, or `[B]` of them.
  """
  rows = jnp.arange(len(is_wrong))
  probabilities = jnp.asarray(process.stays_right)[
      writer, noise.difficulty[:, step], is_wrong.astype(jnp.int32)
  ]
  return noise.writing[rows, step, writer] >= probabilities


def _level(process, noise, step, is_wrong, *, is_small) -> jax.Array:
  """Returns `[B]` int32, the confidence level of a step.

  Args:
    process, noise, step: as in `write`.
    is_wrong: `[B]` bool, whether the trace is wrong after the step.
    is_small: bool or `[B]`, whether the small model wrote it.
  """
  probabilities = jnp.asarray(process.confidence)[
      noise.difficulty[:, step], is_wrong.astype(jnp.int32)
  ]
  # Two draws, since a draft may be seen and then rewritten: given the trace,
  # the confidence of the rewritten step is independent of the draft's.
  look = jnp.where(is_small, noise.looks[:, step, 0], noise.looks[:, step, 1])
  # Inverse of the cumulative distribution. Without its last entry, since a sum
  # that rounds to below 1 would give level L.
  bounds = jnp.cumsum(probabilities[:, :-1], axis=-1)
  return jnp.sum(look[:, None] >= bounds, axis=-1)


def _draft(process, noise, step, is_wrong) -> jax.Array:
  """Returns `[B]` int32, the confidence level of the small model's draft."""
  drafted = write(process, noise, step, is_wrong, 0)
  return _level(process, noise, step, drafted, is_small=True)


def _next_histories(tree, noise, t, histories, actions, is_wrong) -> jax.Array:
  """Returns `[B]` histories of level t + 1; 0 if no decision follows.

  Args:
    tree: of the process.
    noise: the random draws of the problems.
    t: the decision just taken.
    histories, actions: `[B]`, at that decision.
    is_wrong: `[B]` bool, whether the trace is wrong after the step.
  """
  process = tree.process
  is_small = actions == 0
  seen = _level(process, noise, t, is_wrong, is_small=is_small)
  if tree.protocol.has_draft:
    draft = _draft(process, noise, t + 1, is_wrong)
    # Numbered as in `kernels.Kernels.steps`.
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
    tree: of a process under a protocol.
    behaviour: the behaviour policy, e.g. from `follow`.
    rng: consumed.
    num: B.
  """
  process, protocol = tree.process, tree.protocol
  noise_key, action_key = jax.random.split(rng)
  noise = draw(process, noise_key, num)
  costs = jnp.asarray(process_lib.action_costs(process, protocol), jnp.float32)
  largest = process.num_routes - 1  # Writes the whole reference trace.
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
            mask=is_asked,  # Padding after a hand-over: 0, probability 1.
            actions=jnp.where(is_asked, actions, 0),
            behaviour=jnp.where(is_asked, taken, 1.0),
            costs=jnp.where(is_asked, costs[t][actions], 0.0),
        )
    )
    writer = jnp.where(is_asked, actions, writer)  # Stays after a hand-over.
    is_wrong = write(process, noise, t, is_wrong, writer)
    # Under the same noise, so that loss and gain are paired.
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
    tree: of a process under `escalate`.
    rng: consumed.
    num: B.

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
    # Before the small model's step: a hand-over at t replaces that step.
    wrong.append([_end(process, noise, t, is_wrong, a) for a in larger])
    is_wrong = write(process, noise, t, is_wrong, 0)
    if t + 1 < num_steps:
      histories = _next_histories(tree, noise, t, histories, stay, is_wrong)
  wrong = jnp.transpose(jnp.asarray(wrong), (2, 0, 1))  # [B, T, A - 1]
  # The largest model's own answer is its hand-over at the first decision.
  is_reference_right = ~wrong[:, 0, -1]
  costs = process_lib.action_costs(process, protocol)
  # Staying until t, then handing over: `before` excludes step t itself. [T, 1]
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
  """Returns `[B, T, A]` float32 outcomes from those of hand-overs and staying.

  Args:
    handover: `[B, T, A - 1]`.
    stay: `[B]`, outcome of the small trace. It goes to the last decision, as
      staying ends the answer there only; 0 at others (see `OutcomeBatch`).
  """
  stays = jnp.zeros(handover.shape[:2]).at[:, -1].set(stay)
  return jnp.concatenate(
      [stays[..., None], handover], axis=-1, dtype=jnp.float32
  )


def _end(process, noise, step, is_wrong, route) -> jax.Array:
  """Returns `[B]` bool, whether the answer is wrong if `route` ends it.

  `route` writes all steps from `step` on.
  """
  for t in range(step, process.num_steps):
    is_wrong = write(process, noise, t, is_wrong, route)
  return is_wrong


def follow(policy: tree_lib.Policy) -> Behaviour:
  """Returns the behaviour policy of per-level `[n, A]` probabilities."""
  # Once, outside the returned function, which is traced at every level.
  tables = [jnp.asarray(table, jnp.float32) for table in policy]
  return lambda t, histories: tables[t][histories]


def random_rates(
    process: process_lib.Process, rng: chex.PRNGKey, num: int
) -> Behaviour:
  """Returns a random behaviour policy with one hand-over rate per trajectory.

  The rates are uniform in [0, 1], so that the data cover all mean costs.

  Args:
    process: of the trajectories.
    rng: consumed.
    num: B.
  """
  rates = jax.random.uniform(rng, (num, 1))
  larger = jnp.full(
      (num, process.num_routes - 1), 1.0 / (process.num_routes - 1)
  )
  probabilities = jnp.concatenate([1.0 - rates, rates * larger], axis=-1)
  return lambda t, histories: probabilities
