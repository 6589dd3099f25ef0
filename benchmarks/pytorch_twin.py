"""The actor-critic update of `routing.training`, as PyTorch users write it.

Modules and optimisers, one member after another, V-trace by a loop over the
steps; eager, or with losses and their gradients compiled by `torch.compile`.
All members at once are `pytorch_vectorized`. It knows the default: a network of
one hidden layer, form `budget`, update `lagrangian`. `benchmarks.training_step`
times it.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import numpy as np
import torch
from torch import nn

from routing import types


@dataclasses.dataclass(frozen=True)
class Style:
  """How the twin is written.

  num_constant: the first features, which are the same at every decision of a
    trajectory and are multiplied once a trajectory; 0 = at every decision.
  is_compiled: by `torch.compile`, rather than eager.
  backend: of `torch.compile`.
  is_vectorized: all members at once, by arrays with an axis for them.
  """

  num_constant: int = 0
  is_compiled: bool = False
  backend: str = 'inductor'
  is_vectorized: bool = False

  def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function, compiled if the style is."""
    if not self.is_compiled:
      return function
    return torch.compile(function, backend=self.backend)


class Network(nn.Module):
  """Policy or critics: a tanh layer and a linear one."""

  def __init__(self, num_features: int, hidden: int, num_outputs: int):
    super().__init__()
    self.first = nn.Linear(num_features, hidden)
    self.last = nn.Linear(hidden, num_outputs)

  def forward(self, batch) -> torch.Tensor:
    """`[B, T, num_outputs]` from `constant` `[B, 1, C]` and `varying` ones."""
    num = batch['constant'].shape[-1]
    weight = self.first.weight
    x = nn.functional.linear(batch['varying'], weight[:, num:], self.first.bias)
    if num:
      x = x + nn.functional.linear(batch['constant'], weight[:, :num])
    return self.last(torch.tanh(x))


def v_trace(values, rewards, ratios, mask, rho_bar, c_bar):
  """Targets and advantages, `[..., B, T]` each, by a loop over the steps."""
  zeros = torch.zeros_like(values)
  values, rewards = values.where(mask, zeros), rewards.where(mask, zeros)
  ratios = ratios.where(mask, zeros)
  rho, c = ratios.clamp(max=rho_bar), ratios.clamp(max=c_bar)
  targets = torch.zeros_like(values)
  advantages = torch.zeros_like(values)
  next_value = next_target = torch.zeros_like(values[..., 0])
  for t in reversed(range(values.shape[-1])):
    now, reward = values[..., t], rewards[..., t]
    surprise = rho[..., t] * (reward + next_value - now)
    targets[..., t] = now + surprise + c[..., t] * (next_target - next_value)
    advantages[..., t] = rho[..., t] * (reward + next_target - now)
    next_value, next_target = now, targets[..., t]
  return targets, advantages


class PolicyFamily:
  """One policy, its critics, their optimisers and its multiplier."""

  def __init__(
      self,
      config,
      level,
      num_features: int,
      num_routes: int,
      style: Style,
      device: str,
  ):
    (hidden,) = config.network.hidden
    self.config, self.level = config, level
    self.policy = Network(num_features, hidden, num_routes).to(device)
    self.critics = Network(num_features, hidden, 2).to(device)
    self.policy_optimizer = _adamw(self.policy, config.optimizer)
    self.critics_optimizer = _adamw(self.critics, config.critics)
    self.integral = torch.tensor(config.multiplier.init, device=device)
    self.previous = torch.tensor(float('inf'), device=device)
    self.multiplier = self.integral
    self.judge = style.compiled(self._judge)
    self.policy_loss = style.compiled(self._policy_loss)
    self.critics_loss = style.compiled(self._critics_loss)

  def log_probs(self, batch) -> torch.Tensor:
    """`[B, T, A]` over the available routes."""
    logits = self.policy(batch)
    is_open = batch['available'] & batch['mask'][..., None]
    return torch.log_softmax(logits.masked_fill(~is_open, -1e9), dim=-1)

  def control(self, excess: torch.Tensor) -> None:
    """Moves the multiplier."""
    given = self.config.multiplier
    self.integral = (self.integral + given.learning_rate * excess).clamp(
        0.0, given.max
    )
    rise = (excess - self.previous).clamp(min=0.0)
    self.multiplier = (
        given.damping * excess + self.integral + given.derivative * rise
    ).clamp(0.0, given.max)
    self.previous = excess

  @torch.no_grad()
  def _judge(self, batch):
    """Log-probabilities, two advantages, the critics' targets, the excess."""
    objective, mask = self.config.objective, batch['mask']
    old = self.log_probs(batch)
    probabilities = _taken(old, batch).exp()
    ratios = torch.where(mask, probabilities / batch['behaviour'], 1.0)
    reach = torch.ones_like(ratios)
    for t in range(1, ratios.shape[1]):
      reach[:, t] = reach[:, t - 1] * ratios[:, t - 1]
    reach = reach.clamp(max=objective.reach_clip) * mask
    rewards = torch.zeros_like(batch['costs'])
    last = mask.sum(dim=1) - 1
    rows = torch.arange(len(last), device=last.device)
    rewards[rows, last] = batch['correct']
    values = self.critics(batch)
    targets, advantages = [], []
    for k, signal in enumerate((rewards, batch['costs'])):
      target, advantage = v_trace(
          values[..., k],
          signal,
          ratios,
          mask,
          objective.rho_bar,
          objective.c_bar,
      )
      targets.append(target)
      advantages.append(reach * advantage)
    unbiased, _ = v_trace(
        values[..., 1],
        batch['costs'],
        ratios,
        mask,
        objective.ratio_clip,
        objective.ratio_clip,
    )
    excess = unbiased[:, 0].mean() - self.level
    return old, advantages, torch.stack(targets, dim=-1), excess

  def _policy_loss(self, batch, old, advantages) -> torch.Tensor:
    """Clipped surrogate, entropy bonus and divergence penalty."""
    objective, mask = self.config.objective, batch['mask']
    new = self.log_probs(batch)
    ratio = (_taken(new, batch) - _taken(old, batch)).exp()
    clipped = ratio.clamp(1.0 - objective.clip, 1.0 + objective.clip)
    gain = torch.minimum(ratio * advantages, clipped * advantages)
    entropy = -(new.exp() * new).sum(dim=-1)
    kl = (old.exp() * (old - new)).sum(dim=-1)
    return (
        -(gain * mask).sum() / len(mask)
        - objective.entropy_weight * (entropy * mask).sum() / mask.sum()
        + objective.kl_weight * (kl * mask).sum() / mask.sum()
    )

  def _critics_loss(self, batch, targets) -> torch.Tensor:
    """Half the squared error of both critics."""
    errors = self.critics(batch) - targets
    errors = (errors**2).sum(dim=-1) * batch['mask']
    return 0.5 * errors.sum() / batch['mask'].sum()

  def update(self, batch) -> torch.Tensor:
    """One update on a batch; returns the loss of the last inner step."""
    old, (of_reward, of_cost), targets, excess = self.judge(batch)
    self.control(excess)
    advantages = (of_reward - self.multiplier * of_cost) / (
        1.0 + self.multiplier
    )
    loss = self._descend(
        self.policy,
        self.policy_optimizer,
        self.config.optimizer.clip_norm,
        lambda: self.policy_loss(batch, old, advantages),
    )
    critics_loss = self._descend(
        self.critics,
        self.critics_optimizer,
        self.config.critics.clip_norm,
        lambda: self.critics_loss(batch, targets),
    )
    return loss + critics_loss

  def _descend(self, network, optimizer, clip_norm, loss_of) -> torch.Tensor:
    """The inner steps; returns the last loss."""
    for _ in range(self.config.objective.num_inner_steps):
      optimizer.zero_grad()
      loss = loss_of()
      loss.backward()
      nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
      optimizer.step()
    return loss.detach()


def _adamw(network: nn.Module, config) -> torch.optim.AdamW:
  return torch.optim.AdamW(
      network.parameters(),
      config.learning_rate,
      weight_decay=config.weight_decay,
  )


def _taken(log_probs: torch.Tensor, batch) -> torch.Tensor:
  return log_probs.gather(-1, batch['actions'][..., None])[..., 0]


class Twin:
  """The run in PyTorch: its members take the same batch, one by one."""

  def __init__(
      self,
      config,
      state,
      data: types.TrajectoryBatch,
      style: Style = Style(),
      device: str = 'cpu',
  ):
    """Starts from the weights of `state`, the run's own, on a device."""
    self._device = device
    num_features, num_routes = data.features.shape[-1], data.available.shape[-1]
    self.data = {k: torch.from_numpy(v) for k, v in vars(data).items()}
    features = self.data.pop('features')
    num = style.num_constant
    self.data['constant'] = features[:, :1, :num].contiguous()
    self.data['varying'] = features[..., num:].contiguous()
    self.data['actions'] = self.data['actions'].long()  # As `gather` needs.
    self.data = {k: v.to(device) for k, v in self.data.items()}
    self.dropout = config.network.dropout
    self._make(config, num_features, num_routes, style)
    self.load(state)

  def _make(self, config, num_features, num_routes, style) -> None:
    """Makes the members."""
    self.policies = [
        PolicyFamily(
            config, level, num_features, num_routes, style, self._device
        )
        for level in config.objective.levels
    ]

  def load(self, state) -> None:
    """Takes over the weights of `state`, not what the optimizers remember."""
    for k, policy_index in enumerate(self.policies):
      _load(policy_index.policy, state.params, k)
      _load(policy_index.critics, state.critics, k)

  def step(self, rows: np.ndarray) -> torch.Tensor:
    """One update of every member on rows of the data; `[K]` losses."""
    places = torch.from_numpy(rows).to(self._device)
    batch = {k: v[places] for k, v in self.data.items()}
    if self.dropout:
      for name in ('constant', 'varying'):
        x = batch[name]
        ones = torch.ones(len(x), 1, x.shape[-1], device=x.device)
        batch[name] = x * nn.functional.dropout(ones, self.dropout)
    return self._update(batch).cpu()  # On a GPU this waits for the end.

  def _update(self, batch) -> torch.Tensor:
    """One update of every member on a batch; `[K]` losses."""
    return torch.stack(
        [policy_index.update(batch) for policy_index in self.policies]
    )


@torch.no_grad()
def _load(network: Network, params: Any, policy_index: int) -> None:
  for name, layer in (('Dense_0', network.first), ('Dense_1', network.last)):
    layer.weight.copy_(
        torch.tensor(np.array(params[name]['kernel'][policy_index].T))
    )
    layer.bias.copy_(torch.tensor(np.array(params[name]['bias'][policy_index])))
