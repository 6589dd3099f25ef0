"""One member's update from trajectories: critics, multiplier, policy.

The trajectories may be another policy's (`vtrace`) or, as far as possible, this
one's own (`on_policy`): the ratios to the recorded probabilities account for
either, and are 1 where nothing has changed since they were written.

Each update first judges the policy as it is: the critics' values, corrected by
V-trace, give advantages of reward and constraint, and what the multiplier
follows. Then the policy takes either a few gradient steps that stay near it
(`lagrangian`) or one in a trust region (`trust_region`), and the critics a few
towards their targets.
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
class Judgement:
  """What the policy before an update is worth; all constants.

  old: `[B, T, A]` its log-probabilities.
  advantages, charges: `[B, T]` of the reward and of the constraint.
  targets: two `[B, T]`, what the critics should say of either.
  reward: what it earns per trajectory.
  excess: what the constraint charges per trajectory, minus the level.
  """

  old: jax.Array
  advantages: jax.Array
  charges: jax.Array
  targets: tuple[jax.Array, jax.Array]
  reward: jax.Array
  excess: jax.Array


# (state, batch, judgement, multiplier, level) -> (changed fields, metrics).
PolicyUpdate = Callable[..., tuple[dict[str, Any], dict[str, jax.Array]]]


def make_update(
    config, network: networks.Policy, critics: networks.Critics
) -> step_lib.Update:
  """The update that a configuration's `objective.policy_update` names.

  Args:
    config: `objective`, `optimizer`, `critics`, `multiplier` and, for
      'trust_region', `trust_region`.
    network: the policy.
    critics: its critics.

  Raises:
    ValueError: if the update is none of `UPDATES`.
  """
  name = check_update(config.objective.policy_update)
  makers = {'lagrangian': _near_gradient, 'trust_region': _in_trust_region}
  update_policy = makers[name](config, network)
  optimizer = state_lib.make_optimizer(config.critics)

  def update(state, batch, level):
    judgement = judge(config, network, critics, state, batch, level)
    multiplier, controller = lagrangian.control_multiplier(
        state.controller,
        judgement.excess,
        proportional=config.multiplier.damping,
        integral=config.multiplier.learning_rate,
        derivative=config.multiplier.derivative,
        maximum=config.multiplier.max,
    )
    changes, metrics = update_policy(state, batch, judgement, multiplier, level)
    params, opt_state, critic_metrics = _steps(
        lambda params: _critics_loss(critics, params, batch, judgement, level),
        state.critics,
        state.critics_opt_state,
        optimizer,
        config.objective.num_inner,
        network,
    )
    changes = {
        'multiplier': multiplier,
        'controller': controller,
        'critics': params,
        'critics_opt_state': opt_state,
        **changes,
    }
    return changes, {
        **metrics,
        # Both, so that critics that run away are noticed as the policy is.
        'loss': metrics['loss'] + critic_metrics['loss'],
        'critic_loss': critic_metrics['loss'],
        'multiplier': changes['multiplier'],
        'reward': judgement.reward,
        'excess': judgement.excess,
    }

  return update


def check_update(name: str) -> str:
  """Returns `name`, or raises ValueError with the allowed names."""
  if name not in UPDATES:
    raise ValueError(
        f'Unknown objective.policy_update {name!r}; allowed: '
        f'{", ".join(UPDATES)}.'
    )
  return name


def judge(
    config,
    network: networks.Policy,
    critics: networks.Critics,
    state: state_lib.ActorCriticState,
    batch: types.TrajectoryBatch,
    level: chex.Numeric,
) -> Judgement:
  """What the policy of `state`, one member, is worth on a batch.

  Args:
    config: `objective` with `form`, `rho_bar`, `c_bar`, `ratio_bar` (of what
      the multiplier follows) and `reach_bar` (of the weight of each decision by
      how much oftener the policy gets there; 0 = leave it out).
    network, critics: of the run.
    state: without the axis K.
    batch: trajectories.
    level: of the constraint.
  """
  objective, mask = config.objective, batch.mask
  logits = networks.apply(network, state.params, batch.features, level)
  old = policy_gradient.log_probs(logits, batch)
  ratios = policy_gradient.importance_ratios(old, batch)
  reach = (
      vtrace.reach_weights(ratios, mask, maximum=objective.reach_bar)
      if objective.reach_bar
      else 1.0
  )
  signals = policy_gradient.signals(batch, form=objective.form)
  values = networks.apply(critics, state.critics, batch.features, level)
  targets, advantages, returns = [], [], []
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
    returns.append(
        vtrace.expected_return(
            value, signal, ratios, mask, ratio_bar=objective.ratio_bar
        )
    )
  return jax.lax.stop_gradient(
      Judgement(
          old=old,
          advantages=advantages[0],
          charges=advantages[1],
          targets=tuple(targets),
          reward=returns[0],
          excess=returns[1] - level,
      )
  )


def _critics_loss(critics, params, batch, judgement, level):
  """Of both critics together, on the decisions there are."""
  values = networks.apply(critics, params, batch.features, level)
  return sum(
      policy_gradient.critic_loss(value, target, batch.mask)
      for value, target in zip(values, judgement.targets, strict=True)
  )


def _steps(loss_fn, params, opt_state, optimizer, num, network):
  """`num` gradient steps; metrics are those of the last."""

  def body(carry, _):
    params, opt_state = carry
    (loss, aux), grads = jax.value_and_grad(
        lambda x: _with_aux(loss_fn(x)), has_aux=True
    )(params)
    grads = step_lib.pool_gradients(network, grads)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    metrics = {'loss': loss, 'grad_norm': optax.tree.norm(grads), **aux}
    return (optax.apply_updates(params, updates), opt_state), metrics

  # Unrolled, so that XLA sees the first step look at what was judged, and runs
  # that network once.
  (params, opt_state), metrics = jax.lax.scan(
      body, (params, opt_state), length=num, unroll=True
  )
  return params, opt_state, jax.tree.map(lambda x: x[-1], metrics)


def _with_aux(loss):
  return loss if isinstance(loss, tuple) else (loss, {})


def _near_gradient(config, network) -> PolicyUpdate:
  """Gradient steps on the clipped surrogate, penalised by the multiplier."""
  objective = config.objective
  optimizer = state_lib.make_optimizer(config.optimizer)

  def update(state, batch, judgement, multiplier, level):
    advantages = policy_gradient.penalised(
        judgement.advantages, judgement.charges, multiplier
    )
    if objective.rescale:
      advantages = policy_gradient.rescaled(advantages, batch.mask)

    def loss_fn(params):
      return policy_gradient.policy_loss(
          networks.apply(network, params, batch.features, level),
          batch,
          advantages,
          judgement.old,
          clip=objective.clip,
          entropy_weight=objective.entropy_weight,
          kl_weight=objective.kl_weight,
      )

    params, opt_state, metrics = _steps(
        loss_fn,
        state.params,
        state.opt_state,
        optimizer,
        objective.num_inner,
        network,
    )
    return {'params': params, 'opt_state': opt_state}, metrics

  return update


def _in_trust_region(config, network) -> PolicyUpdate:
  """One constrained step; its multiplier is a by-product, not a state."""
  if network.is_conditioned:
    raise ValueError(
        'objective.policy_update is trust_region, which knows one constraint; '
        'a conditioned network (network.is_conditioned) has one for each '
        'level. Allowed: lagrangian.'
    )

  def update(state, batch, judgement, multiplier, level):
    del multiplier
    old = judgement.old

    def surrogates(params):
      logits = networks.apply(network, params, batch.features, level)
      new = policy_gradient.log_probs(logits, batch)
      gain, charge, charge_now = (
          policy_gradient.surrogate(x, old, batch, advantages)
          for x, advantages in (
              (new, judgement.advantages),
              (new, judgement.charges),
              (old, judgement.charges),
          )
      )
      kl = policy_gradient.mean_kl(new, old, batch)
      return -gain, judgement.excess + charge - charge_now, kl

    params, metrics = trust_region.update(
        state.params, surrogates, **config.trust_region
    )
    metrics['expected_excess'] = metrics.pop('excess')
    return {
        'params': params,
        'multiplier': metrics['constraint_multiplier'],
    }, metrics

  return update
