"""The actor-critic update of one policy from trajectories.

The trajectories were collected by another policy (estimator `vtrace`) or by
recent versions of the same policy (`on_policy`). Importance ratios correct for
the difference: the policy's action probability divided by the recorded one,
which is 1 if the policy has not changed since the collection.

An update has three parts:

1. The policy before the update is evaluated: V-trace gives the advantages of
   reward and constraint cost, the critics' targets, and the excess, i.e. the
   expected constraint cost minus its level.
2. A PID controller adjusts the multiplier to the excess.
3. The policy takes a few gradient steps on the clipped surrogate of the
   Lagrangian (update `lagrangian`), or one constrained step (`trust_region`).
   The critics take a few gradient steps towards their targets.
"""

from collections.abc import Callable
from typing import Any

import chex
import flax.struct
import jax
import optax

from routing import types
from routing.objectives import lagrangian
from routing.objectives import policy_gradient
from routing.objectives import trust_region
from routing.objectives import vtrace
from routing.policy import networks
from routing.training import state as state_lib
from routing.training import step as step_lib

UPDATES = ('lagrangian', 'trust_region')


@flax.struct.dataclass
class Estimates:
  """Estimates for the policy before an update; no gradient flows through them.

  old: `[B, T, A]` log-probabilities of the policy.
  advantages: `[B, T]`, advantages of the reward.
  constraint_advantages: `[B, T]`, advantages of the constraint cost.
  targets: two arrays `[B, T]`, the targets of the reward critic and of the
    constraint critic.
  reward: scalar, expected reward per trajectory.
  excess: scalar, expected constraint cost per trajectory minus the level.
  """

  old: jax.Array
  advantages: jax.Array
  constraint_advantages: jax.Array
  targets: tuple[jax.Array, jax.Array]
  reward: jax.Array
  excess: jax.Array


# (state, batch, estimates, multiplier, level) -> (changed fields, metrics).
PolicyUpdate = Callable[..., tuple[dict[str, Any], dict[str, jax.Array]]]


def make_update(
    config, network: networks.Policy, critics: networks.Critics
) -> step_lib.Update:
  """Returns the update that `config.objective.policy_update` names.

  Args:
    config: `objective`, `optimizer`, `critics`, `multiplier`, `trust_region`.
    network: the policy network.
    critics: the two critic networks.

  Raises:
    ValueError: if the name is not in `UPDATES`.
  """
  name = check_update(config.objective.policy_update)
  makers = {
      'lagrangian': _make_lagrangian_update,
      'trust_region': _make_trust_region_update,
  }
  update_policy = makers[name](config, network)
  optimizer = state_lib.make_optimizer(config.critics)

  def update(state, batch, level):
    # Computed from the parameters before the update, so that the policy and the
    # critics do not see each other's change.
    estimates = estimate(config, network, critics, state, batch, level)
    multiplier, controller = lagrangian.control_multiplier(
        state.controller,
        estimates.excess,
        proportional=config.multiplier.damping,
        integral=config.multiplier.learning_rate,
        derivative=config.multiplier.derivative,
        maximum=config.multiplier.max,
    )
    changes, metrics = update_policy(state, batch, estimates, multiplier, level)
    params, opt_state, critic_metrics = _steps(
        lambda params: _critics_loss(critics, params, batch, estimates, level),
        state.critics,
        state.critics_opt_state,
        optimizer,
        config.objective.num_inner_steps,
        network,
    )
    changes = {
        'multiplier': multiplier,
        'controller': controller,
        'critics': params,
        'critics_opt_state': opt_state,
        **changes,  # Comes last: a trust region has its own multiplier.
    }
    return changes, {
        **metrics,
        # The sum, so that diverging critics also stop the run (`loop.train`).
        'loss': metrics['loss'] + critic_metrics['loss'],
        'critic_loss': critic_metrics['loss'],
        'multiplier': changes['multiplier'],
        'reward': estimates.reward,
        'excess': estimates.excess,
    }

  return update


def check_update(name: str) -> str:
  """Returns `name` if it is in `UPDATES`, otherwise raises ValueError."""
  if name not in UPDATES:
    raise ValueError(
        f'Unknown objective.policy_update {name!r}; allowed: '
        f'{", ".join(UPDATES)}.'
    )
  return name


def estimate(
    config,
    network: networks.Policy,
    critics: networks.Critics,
    state: state_lib.ActorCriticState,
    batch: types.TrajectoryBatch,
    level: chex.Numeric,
) -> Estimates:
  """Returns V-trace estimates for the policy of `state` on a batch.

  Args:
    config: its section `objective` has `form`, `rho_bar` and `c_bar` (V-trace
      clipping), `ratio_clip` (clips ratios in expected reward and excess), and
      `reach_clip` (clips the weight of reaching a decision; 0 = no weight).
    network: the policy network.
    critics: the two critic networks.
    state: the state of one policy, without the axis K.
    batch: trajectories.
    level: the constraint's level.
  """
  objective, mask = config.objective, batch.mask
  logits = networks.apply(network, state.params, batch.features, level)
  old = policy_gradient.log_probs(logits, batch)
  ratios = policy_gradient.importance_ratios(old, batch)
  reach = (
      vtrace.reach_weights(ratios, mask, maximum=objective.reach_clip)
      if objective.reach_clip
      else 1.0
  )
  signals = policy_gradient.signals(batch, form=objective.form)
  values = networks.apply(critics, state.critics, batch.features, level)
  targets, advantages, returns = [], [], []
  # The first iteration is for the reward, the second for the constraint cost.
  for value, signal in zip(values, signals, strict=True):
    target, advantage = vtrace.targets_and_advantages(
        value,
        signal,
        ratios,
        mask,
        rho_bar=objective.rho_bar,
        c_bar=objective.c_bar,
    )
    targets.append(target)
    advantages.append(reach * advantage)
    # target[:, 0] would be biased towards the behaviour policy by rho_bar.
    returns.append(
        vtrace.expected_return(
            value, signal, ratios, mask, ratio_clip=objective.ratio_clip
        )
    )
  return jax.lax.stop_gradient(
      Estimates(
          old=old,
          advantages=advantages[0],
          constraint_advantages=advantages[1],
          targets=tuple(targets),
          reward=returns[0],
          excess=returns[1] - level,
      )
  )


def _critics_loss(critics, params, batch, estimates, level):
  """Returns the sum of both critics' losses on a batch."""
  values = networks.apply(critics, params, batch.features, level)
  return sum(
      policy_gradient.critic_loss(value, target, batch.mask)
      for value, target in zip(values, estimates.targets, strict=True)
  )


def _steps(loss_fn, params, opt_state, optimizer, num, network):
  """Takes `num` gradient steps on a loss.

  Args:
    loss_fn: params -> loss, or (loss, metrics).
    params: parameters before the steps.
    opt_state: state of `optimizer`.
    optimizer: the optimiser.
    num: number of steps.
    network: decides whether gradients are averaged over the K policies.

  Returns:
    The parameters and optimiser state after the steps, and the metrics of the
    last step.
  """

  def body(carry, _):
    params, opt_state = carry
    (loss, aux), grads = jax.value_and_grad(
        lambda x: _with_aux(loss_fn(x)), has_aux=True
    )(params)
    grads = step_lib.pool_gradients(network, grads)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    metrics = {'loss': loss, 'grad_norm': optax.tree.norm(grads), **aux}
    return (optax.apply_updates(params, updates), opt_state), metrics

  # The loop is unrolled, because XLA then sees that the first step evaluates
  # the network at the same parameters as `estimate`, and computes this once.
  (params, opt_state), metrics = jax.lax.scan(
      body, (params, opt_state), length=num, unroll=True
  )
  return params, opt_state, jax.tree.map(lambda x: x[-1], metrics)


def _with_aux(loss):
  """Returns (loss, metrics) of a loss function that may return no metrics."""
  return loss if isinstance(loss, tuple) else (loss, {})


def _make_lagrangian_update(config, network) -> PolicyUpdate:
  """Returns the policy update `lagrangian`.

  It takes gradient steps on the clipped surrogate of the Lagrangian.
  """
  objective = config.objective
  optimizer = state_lib.make_optimizer(config.optimizer)

  def update(state, batch, estimates, multiplier, level):
    advantages = policy_gradient.penalised(
        estimates.advantages, estimates.constraint_advantages, multiplier
    )
    if objective.normalize_advantages:
      advantages = policy_gradient.rescaled(advantages, batch.mask)

    def loss_fn(params):
      return policy_gradient.policy_loss(
          networks.apply(network, params, batch.features, level),
          batch,
          advantages,
          estimates.old,
          clip=objective.clip,
          entropy_weight=objective.entropy_weight,
          kl_weight=objective.kl_weight,
      )

    params, opt_state, metrics = _steps(
        loss_fn,
        state.params,
        state.opt_state,
        optimizer,
        objective.num_inner_steps,
        network,
    )
    return {'params': params, 'opt_state': opt_state}, metrics

  return update


def _make_trust_region_update(config, network) -> PolicyUpdate:
  """Returns the policy update `trust_region`: one step of CPO.

  CPO is Constrained Policy Optimization. Its step finds the multiplier by
  solving the dual problem in closed form.
  """
  if network.is_conditioned:
    raise ValueError(
        'objective.policy_update is trust_region, which takes one constraint, '
        'but network.is_conditioned is True: that network has one constraint '
        'per level. Use policy_update lagrangian, or is_conditioned=False.'
    )

  def update(state, batch, estimates, multiplier, level):
    del multiplier  # The step solves for its own multiplier.
    old = estimates.old

    def surrogates(params):
      logits = networks.apply(network, params, batch.features, level)
      new = policy_gradient.log_probs(logits, batch)
      gain, new_constraint, old_constraint = (
          policy_gradient.surrogate(x, old, batch, advantages)
          for x, advantages in (
              (new, estimates.advantages),
              (new, estimates.constraint_advantages),
              (old, estimates.constraint_advantages),
          )
      )
      kl = policy_gradient.mean_kl(new, old, batch)
      # To first order, the constraint cost of the new policy minus its level is
      # the excess of the old policy plus the change
      # surrogate(new) - surrogate(old). In the loss a constant has no effect.
      return -gain, estimates.excess + new_constraint - old_constraint, kl

    params, metrics = trust_region.update(
        state.params, surrogates, **config.trust_region
    )
    # Renamed, because 'excess' is the name of the estimate before the update.
    metrics['expected_excess'] = metrics.pop('excess')
    return {
        'params': params,
        'multiplier': metrics['constraint_multiplier'],
    }, metrics

  return update
