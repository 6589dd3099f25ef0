"""Problems, ladders and trajectories drawn from a process.

Nothing here uses the chances of the tree: hidden states are drawn and steps are
written one after another, so that samples check the tree, and the tree tells
only which history a sampled one is, hence its features.
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

# (t, [B] histories of level t) -> [B, A] chances of the actions.
Behaviour = Callable[[int, chex.Array], chex.Array]


class Noise(NamedTuple):
  """All that chance decides about B problems, whoever writes.

  difficulty: `[B, T]` int32.
  writing: `[B, T, A]` float32 in [0, 1), of each route's step: right if below
    its chance.
  looks: `[B, T, 2]` float32 in [0, 1), of the confidence of the small model's
    step (0), and of any other (1).
  """

  difficulty: jax.Array
  writing: jax.Array
  looks: jax.Array


def draw(process: process_lib.Process, rng: chex.PRNGKey, num: int) -> Noise:
  """The luck of `num` problems; `rng` is consumed."""
  first, moving, writing, looking = jax.random.split(rng, 4)
  moves = jnp.log(jnp.asarray(process.moves))
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
  """`[B]` bool: the trace is wrong after a step.

  Args:
    process, luck: who errs, and when.
    step: in 0..T-1.
    is_wrong: `[B]` bool, the trace was wrong before.
    writer: route, or `[B]` of them.
  """
  rows = jnp.arange(len(is_wrong))
  probabilities = jnp.asarray(process.stays_right)[
      writer, noise.difficulty[:, step], is_wrong.astype(jnp.int32)
  ]
  return noise.writing[rows, step, writer] >= probabilities


def _level(process, noise, step, is_wrong, *, is_small) -> jax.Array:
  """`[B]` int32: how confident the step looks that left the trace so."""
  probabilities = jnp.asarray(process.confidence)[
      noise.difficulty[:, step], is_wrong.astype(jnp.int32)
  ]
  look = jnp.where(is_small, noise.looks[:, step, 0], noise.looks[:, step, 1])
  bounds = jnp.cumsum(probabilities[:, :-1], axis=-1)
  return jnp.sum(look[:, None] >= bounds, axis=-1)


def _draft(process, noise, step, is_wrong) -> jax.Array:
  """`[B]` int32: how confident the small model's step after a trace looks."""
  drafted = write(process, noise, step, is_wrong, 0)
  return _level(process, noise, step, drafted, is_small=True)


def _next_histories(tree, noise, t, histories, actions, is_wrong) -> jax.Array:
  """`[B]` histories of level t + 1; 0 where nothing is asked again.

  Args:
    tree, luck: what is sampled.
    t: the decision just taken.
    histories, actions: `[B]`, of it.
    is_wrong: `[B]` bool, the trace after the step.
  """
  process = tree.process
  is_small = actions == 0
  seen = _level(process, noise, t, is_wrong, is_small=is_small)
  if tree.protocol.has_draft:
    draft = _draft(process, noise, t + 1, is_wrong)
    seen = jnp.where(is_small, draft, seen * process.num_levels + draft)
  begins = jnp.asarray(tree.levels[t].begins)[histories, actions]
  return jnp.where(begins < 0, 0, begins + seen)


def rollout(
    tree: tree_lib.HistoryTree,
    behaviour: Behaviour,
    rng: chex.PRNGKey,
    num: int,
) -> types.TrajectoryBatch:
  """Answers `num` new problems under a behaviour. May be jitted and mapped.

  Args:
    tree: of a process under a protocol.
    behaviour: chances of the actions; `follow` makes one of a table.
    rng: consumed.
    num: B.
  """
  process, protocol = tree.process, tree.protocol
  lucky, acting = jax.random.split(rng)
  noise = draw(process, lucky, num)
  costs = jnp.asarray(process_lib.action_costs(process, protocol), jnp.float32)
  is_wrong = is_lost = jnp.zeros(num, bool)  # The trace; the reference.
  is_asked, heir = jnp.ones(num, bool), jnp.zeros(num, jnp.int32)
  histories = jnp.zeros(num, jnp.int32)
  if protocol.has_draft:
    histories = _draft(process, noise, 0, is_wrong)
  rows = []
  for t, level in enumerate(tree.levels):
    probabilities = behaviour(t, histories)
    actions = jax.random.categorical(
        jax.random.fold_in(acting, t), jnp.log(probabilities)
    ).astype(jnp.int32)
    taken = jnp.take_along_axis(probabilities, actions[:, None], axis=-1)[:, 0]
    rows.append(
        dict(
            features=jnp.asarray(level.features)[histories] * is_asked[:, None],
            mask=is_asked,
            actions=jnp.where(is_asked, actions, 0),
            behaviour=jnp.where(is_asked, taken, 1.0),
            costs=jnp.where(is_asked, costs[t][actions], 0.0),
        )
    )
    heir = jnp.where(is_asked, actions, heir)
    is_wrong = write(process, noise, t, is_wrong, heir)
    is_lost = write(process, noise, t, is_lost, process.num_routes - 1)
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
      loss=(is_wrong & ~is_lost).astype(jnp.float32),
      gain=(is_lost & ~is_wrong).astype(jnp.float32),
  )


def sample_ladders(
    tree: tree_lib.HistoryTree, rng: chex.PRNGKey, num: int
) -> types.OutcomeBatch:
  """The small traces of `num` new problems, and where each way out leads.

  Args:
    tree: of a process under `escalate`.
    rng: consumed.
    num: B.

  Raises:
    ValueError: under another protocol.
  """
  process, protocol = tree.process, tree.protocol
  if protocol.name != 'escalate':
    raise ValueError(f'Ladders are of escalate only; got {protocol.name}.')
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
    wrong.append([_end(process, noise, t, is_wrong, a) for a in larger])
    is_wrong = write(process, noise, t, is_wrong, 0)
    if t + 1 < num_steps:
      histories = _next_histories(tree, noise, t, histories, stay, is_wrong)
  wrong = jnp.transpose(jnp.asarray(wrong), (2, 0, 1))
  is_reference_right = ~wrong[:, 0, -1]
  costs = process_lib.action_costs(process, protocol)
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
  """`[B, T, A]` float32: staying ends the answer at the last decision alone."""
  stays = jnp.zeros(handover.shape[:2]).at[:, -1].set(stay)
  return jnp.concatenate(
      [stays[..., None], handover], axis=-1, dtype=jnp.float32
  )


def _end(process, noise, step, is_wrong, route) -> jax.Array:
  """`[B]` bool: the answer is wrong if a route writes all from `step` on."""
  for t in range(step, process.num_steps):
    is_wrong = write(process, noise, t, is_wrong, route)
  return is_wrong


def follow(policy: tree_lib.Policy) -> Behaviour:
  """The behaviour of a table of chances."""
  tables = [jnp.asarray(table, jnp.float32) for table in policy]
  return lambda t, histories: tables[t][histories]


def random_rates(
    process: process_lib.Process, rng: chex.PRNGKey, num: int
) -> Behaviour:
  """Each trajectory takes larger routes at a rate of its own, in [0, 1].

  `rng` is consumed; `num` is B. All mean costs are thus in the data.
  """
  rates = jax.random.uniform(rng, (num, 1))
  larger = jnp.full(
      (num, process.num_routes - 1), 1.0 / (process.num_routes - 1)
  )
  probabilities = jnp.concatenate([1.0 - rates, rates * larger], axis=-1)
  return lambda t, histories: probabilities
