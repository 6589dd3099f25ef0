"""The PyTorch twin with all members at once: arrays with an axis K for them.

All members see the same batch, so their first layers are one matrix product
with the weights side by side, and their last layers a batched one. One AdamW
updates all of them; its arithmetic is elementwise, so members do not mix.
Gradients are clipped for each member alone.
"""

import types
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import pytorch_twin


class Networks(nn.Module):
  """Policies or critics of K members: a tanh layer and a linear one each."""

  def __init__(
      self, num_members: int, num_features: int, hidden: int, num_outputs: int
  ):
    super().__init__()
    # Members side by side: `[F, K * H]` is a view of it.
    empty = lambda *shape: nn.Parameter(torch.empty(*shape))
    self.first_weight = empty(num_features, num_members, hidden)
    self.first_bias = empty(num_members, hidden)
    self.last_weight = empty(num_members, hidden, num_outputs)
    self.last_bias = empty(num_members, 1, num_outputs)

  def forward(self, batch) -> torch.Tensor:
    """`[K, B, T, num_outputs]` from `constant` `[B, 1, C]` and `varying`."""
    num = batch['constant'].shape[-1]
    weight = self.first_weight.flatten(1)
    x = batch['varying'] @ weight[num:] + self.first_bias.flatten()
    if num:
      x = x + batch['constant'] @ weight[:num]
    num_rows, num_steps, _ = x.shape
    x = torch.tanh(x).view(num_rows * num_steps, *self.first_bias.shape)
    x = torch.baddbmm(self.last_bias, x.transpose(0, 1), self.last_weight)
    return x.view(len(x), num_rows, num_steps, -1)

  @torch.no_grad()
  def load(self, params: Any) -> None:
    """Takes over the weights of all members."""
    first, last = params['Dense_0'], params['Dense_1']
    copy = lambda to, x: to.copy_(torch.tensor(np.array(x)))
    copy(self.first_weight, np.moveaxis(np.array(first['kernel']), 0, 1))
    copy(self.first_bias, first['bias'])
    copy(self.last_weight, last['kernel'])
    copy(self.last_bias, np.array(last['bias'])[:, None])

  def member(self, k: int) -> types.SimpleNamespace:
    """Returns one member's layers as `pytorch_twin.Network` has them."""
    layer = types.SimpleNamespace
    return layer(
        first=layer(
            weight=self.first_weight[:, k].T.cpu(),
            bias=self.first_bias[k].cpu(),
        ),
        last=layer(
            weight=self.last_weight[k].T.cpu(), bias=self.last_bias[k, 0].cpu()
        ),
    )


class Twin(pytorch_twin.Twin):
  """The run in PyTorch: its members take the same batch, all at once."""

  def _make(self, config, num_features, num_routes, style) -> None:
    """Makes the members."""
    (hidden,) = config.network.hidden
    num = len(config.objective.levels)
    self.config = config
    tensor = lambda x: torch.tensor(x, device=self._device)
    make = lambda outputs: Networks(num, num_features, hidden, outputs).to(
        self._device
    )
    self.networks, self.critics = make(num_routes), make(2)
    self.optimizer = _adamw(self.networks, config.optimizer)
    self.critics_optimizer = _adamw(self.critics, config.critics)
    self.levels = tensor(list(config.objective.levels))
    self.integral = tensor([float(config.multiplier.init)] * num)
    self.previous = tensor([float('inf')] * num)
    self.multiplier = self.integral
    self.judge = style.compiled(self._judge)
    self.policy_loss = style.compiled(self._policy_loss)
    self.critics_loss = style.compiled(self._critics_loss)
    self.clip = style.compiled(_clip)

  def load(self, state) -> None:
    """Takes over the weights of `state`, not what the optimizers remember."""
    self.networks.load(state.params)
    self.critics.load(state.critics)

  @property
  def policies(self) -> list[types.SimpleNamespace]:
    """The members, one by one, as those of `pytorch_twin.Twin`."""
    return [
        types.SimpleNamespace(
            policy=self.networks.member(k),
            critics=self.critics.member(k),
            multiplier=self.multiplier[k],
        )
        for k in range(len(self.levels))
    ]

  def log_probs(self, batch) -> torch.Tensor:
    """`[K, B, T, A]` over the available routes."""
    logits = self.networks(batch)
    is_open = batch['available'] & batch['mask'][..., None]
    return torch.log_softmax(logits.masked_fill(~is_open, -1e9), dim=-1)

  def _control(self, excess: torch.Tensor) -> None:
    """Moves the multipliers by `[K]` excess costs."""
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
    """As `pytorch_twin.PolicyFamily` does, each with an axis K in front."""
    objective, mask = self.config.objective, batch['mask']
    old = self.log_probs(batch)
    probabilities = _taken(old, batch).exp()
    ratios = torch.where(mask, probabilities / batch['behaviour'], 1.0)
    reach = torch.ones_like(ratios)
    for t in range(1, ratios.shape[-1]):
      reach[..., t] = reach[..., t - 1] * ratios[..., t - 1]
    reach = reach.clamp(max=objective.reach_clip) * mask
    rewards = torch.zeros_like(batch['costs'])
    last = mask.sum(dim=1) - 1
    rows = torch.arange(len(last), device=last.device)
    rewards[rows, last] = batch['correct']
    values, costs = self.critics(batch), batch['costs']
    targets, advantages = [], []
    for k, signal in enumerate((rewards, costs)):
      target, advantage = pytorch_twin.v_trace(
          *(values[..., k], signal, ratios, mask),
          *(objective.rho_bar, objective.c_bar),
      )
      targets.append(target)
      advantages.append(reach * advantage)
    unbiased, _ = pytorch_twin.v_trace(
        *(values[..., 1], costs, ratios, mask),
        *(objective.ratio_clip, objective.ratio_clip),
    )
    excess = unbiased[..., 0].mean(dim=-1) - self.levels
    return old, advantages, torch.stack(targets, dim=-1), excess

  def _policy_loss(self, batch, old, advantages) -> torch.Tensor:
    """`[K]`: clipped surrogate, entropy bonus and divergence penalty."""
    objective, mask = self.config.objective, batch['mask']
    new = self.log_probs(batch)
    ratio = (_taken(new, batch) - _taken(old, batch)).exp()
    clipped = ratio.clamp(1.0 - objective.clip, 1.0 + objective.clip)
    gain = torch.minimum(ratio * advantages, clipped * advantages)
    entropy = -(new.exp() * new).sum(dim=-1)
    kl = (old.exp() * (old - new)).sum(dim=-1)
    total = lambda x: (x * mask).sum(dim=(-2, -1))
    return (
        -total(gain) / len(mask)
        - objective.entropy_weight * total(entropy) / mask.sum()
        + objective.kl_weight * total(kl) / mask.sum()
    )

  def _critics_loss(self, batch, targets) -> torch.Tensor:
    """`[K]`: half the squared error of both critics."""
    mask = batch['mask']
    errors = ((self.critics(batch) - targets) ** 2).sum(dim=-1) * mask
    return 0.5 * errors.sum(dim=(-2, -1)) / mask.sum()

  def _update(self, batch) -> torch.Tensor:
    """One update of every member on a batch; `[K]` losses."""
    old, (of_reward, of_cost), targets, excess = self.judge(batch)
    self._control(excess)
    multiplier = self.multiplier[:, None, None]
    advantages = (of_reward - multiplier * of_cost) / (1.0 + multiplier)
    loss = self._descend(
        self.networks,
        self.optimizer,
        self.config.optimizer.clip_norm,
        lambda: self.policy_loss(batch, old, advantages),
    )
    return loss + self._descend(
        self.critics,
        self.critics_optimizer,
        self.config.critics.clip_norm,
        lambda: self.critics_loss(batch, targets),
    )

  def _descend(self, networks, optimizer, clip_norm, losses_of) -> torch.Tensor:
    """The inner steps; returns the last losses, `[K]`."""
    given = networks
    for _ in range(self.config.objective.num_inner_steps):
      optimizer.zero_grad()
      losses = losses_of()
      losses.sum().backward()  # No member's loss depends on another's weights.
      # The axis of members comes second in the first weights.
      self.clip(
          given.first_weight.grad.transpose(0, 1),
          *(given.first_bias.grad, given.last_weight.grad),
          *(given.last_bias.grad, clip_norm),
      )
      optimizer.step()
    return losses.detach()


def _clip(a, b, c, d, clip_norm: float) -> None:
  """Scales gradients, each with K in front, to a norm per member, in place."""
  gradients = a, b, c, d
  norm = sum(x.square().flatten(1).sum(dim=1) for x in gradients).sqrt()
  scale = torch.where(norm > clip_norm, clip_norm / norm, 1.0)
  for x in gradients:
    x.mul_(scale.view(-1, *[1] * (x.dim() - 1)))


def _adamw(networks: nn.Module, config) -> torch.optim.AdamW:
  return torch.optim.AdamW(
      networks.parameters(),
      config.learning_rate,
      weight_decay=config.weight_decay,
      fused=True,  # All in one loop over the numbers.
  )


def _taken(log_probs: torch.Tensor, batch) -> torch.Tensor:
  places = batch['actions'][..., None].expand(*log_probs.shape[:-1], 1)
  return log_probs.gather(-1, places)[..., 0]
