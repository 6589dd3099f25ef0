"""Proximal policy optimisation of a policy that keeps or rewrites steps.

An episode is one answer. With R = 1 if it is right, and c_t the cost of the
step that the large model wrote at decision t (0 if the draft was kept), the
return after t is G_t = R - price x (c_t + c_{t+1} + ...). The update maximises
  mean of min(ratio A, clip(ratio, 1 - e, 1 + e) A) + bonus x entropy,
  A = G_t - value(o_t),  ratio = pi(a_t | o_t) / pi_old(a_t | o_t),
where the value is a second network, fitted to G_t.
Source: Schulman et al. 2017, "Proximal Policy Optimization Algorithms", eq. 7,
with returns to the end in place of truncated advantages: answers are short.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from routing.policy import networks


@dataclasses.dataclass(frozen=True)
class Settings:
  """How the policy learns.

  kind: of the networks, see `networks.KINDS`.
  hidden: width of each hidden layer.
  rounds: number of times that answers are collected and learned from.
  problems: answers collected in each round.
  epochs: gradient steps on the answers of a round.
  learning_rate: of Adam.
  clip: e, the largest change of the ratio that is rewarded.
  entropy: bonus per nat.
  """

  kind: str = 'mlp'
  hidden: tuple[int, ...] = (32, 32)
  rounds: int = 12
  problems: int = 96
  epochs: int = 10
  learning_rate: float = 3e-3
  clip: float = 0.2
  entropy: float = 0.01


@dataclasses.dataclass(frozen=True)
class Episodes:
  """B answers, padded to T decisions.

  features: `[B, T, F]` float32.
  mask: `[B, T]` bool, the decision was made.
  actions: `[B, T]` int32, 1 = the step was rewritten.
  costs: `[B, T]` float32, cost of the rewritten step as a fraction of the mean
    all-large cost.
  correct: `[B]` float32 in {0, 1}.
  """

  features: np.ndarray
  mask: np.ndarray
  actions: np.ndarray
  costs: np.ndarray
  correct: np.ndarray

  def returns(self, price: float) -> np.ndarray:
    """Returns G_t, `[B, T]` float32; 0 where there is no decision."""
    costs = np.where(self.mask, self.costs, 0.0)
    to_go = np.cumsum(costs[:, ::-1], axis=1)[:, ::-1]
    found = self.correct[:, None] - price * to_go
    return np.where(self.mask, found, 0.0).astype(np.float32)


_init = jax.jit(networks.init_params, static_argnums=(1, 2))


class Learner:
  """A policy with its critic and their optimiser.

  Args:
    settings: see `Settings`.
    num_features: F.
    seed: of the first parameters.
  """

  def __init__(self, settings: Settings, num_features: int, seed: int):
    self.settings = settings
    config = dict(kind=settings.kind, hidden=settings.hidden)
    self._policy = networks.make_network(config, 2)
    self._critics = networks.make_critics(config)
    keys = jax.random.split(jax.random.key(seed))
    self.params = {
        'policy': _init(keys[0], self._policy, num_features),
        'critics': _init(keys[1], self._critics, num_features),
    }
    self._optimizer = _adam(settings.learning_rate)
    self._state = self._optimizer.init(self.params)

  def log_probs(self, features: np.ndarray) -> np.ndarray:
    """Returns log pi of both actions, `[B, T, 2]`, of `[B, T, F]` features."""
    found = _log_probs(self._policy, self.params['policy'], features)
    return np.asarray(found)

  def update(self, episodes: Episodes, price: float) -> None:
    """Learns from the answers of one round."""
    returns = episodes.returns(price)
    old = np.take_along_axis(
        self.log_probs(episodes.features), episodes.actions[..., None], axis=-1
    )[..., 0]
    self.params, self._state = _update(
        (self._policy, self._critics, self._optimizer, self.settings),
        self.params,
        self._state,
        (episodes.features, episodes.mask, episodes.actions, old, returns),
    )


# One object for each rate: policies of all prices then share their programs.
_adam = functools.cache(optax.adam)


@functools.partial(jax.jit, static_argnums=0)
def _log_probs(policy, params, features) -> jax.Array:
  logits = policy.apply({'params': params}, features)
  return jax.nn.log_softmax(logits)


def loss(
    policy: networks.Policy,
    critics: networks.Critics,
    settings: Settings,
    params: Any,
    batch: tuple[jax.Array, ...],
) -> jax.Array:
  """Returns the loss of one gradient step, a scalar.

  Args:
    policy, critics: the networks.
    settings: see `Settings`.
    params: of both networks.
    batch: features, mask, actions, old log-probabilities and returns, as in
      `Episodes`.
  """
  features, mask, actions, old, returns = batch
  log_probs = jax.nn.log_softmax(
      policy.apply({'params': params['policy']}, features)
  )
  value, _ = critics.apply({'params': params['critics']}, features)
  mean = lambda x: jnp.sum(jnp.where(mask, x, 0.0)) / jnp.sum(mask)
  advantage = jax.lax.stop_gradient(returns - value)
  # Scaled, so that one learning rate serves all prices.
  advantage -= mean(advantage)
  advantage /= jnp.sqrt(mean(advantage**2)) + 1e-6
  taken = jnp.take_along_axis(log_probs, actions[..., None], axis=-1)[..., 0]
  ratio = jnp.exp(taken - old)
  clipped = jnp.clip(ratio, 1 - settings.clip, 1 + settings.clip)
  gain = mean(jnp.minimum(ratio * advantage, clipped * advantage))
  entropy = mean(-jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1))
  return mean((returns - value) ** 2) - gain - settings.entropy * entropy


@functools.partial(jax.jit, static_argnums=0)
def _update(static, params, state, batch):
  """Returns parameters and optimiser after the epochs of one round."""
  policy, critics, optimizer, settings = static

  def step(_, carry):
    params, state = carry
    gradient = jax.grad(functools.partial(loss, policy, critics, settings))(
        params, batch
    )
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state

  return jax.lax.fori_loop(0, settings.epochs, step, (params, state))
