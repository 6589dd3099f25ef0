"""The three decision processes (protocols): who may write which step.

`escalate` is optimal stopping. The small model writes until the router hands
the rest of the answer to a larger model, which then writes to the end. There
are two views. With `peek` the router sees the small model's draft of a step and
hands over *before* it; the draft is discarded but paid for. With `commit` it
sees the accepted steps only.

`switch`: before each step the router names the model that writes it. Nothing is
drafted.

`redraft`: the small model drafts each step. The router keeps the draft (action
0) or has a larger model write the step instead; the draft is then discarded but
paid for. Control returns to the small model. Sources: RSD (Liao et al. 2025),
SpecReason (Pan et al. 2025).

In all three an action is a route: the model that writes the next step or, in
`escalate`, everything from the next step on. So the protocols differ only in a
mask `[A]` of allowed actions, in whether there is a draft, and in which actions
end the decisions.
"""

import dataclasses

import numpy as np

# The views that each protocol allows; the first is its default. `switch` with a
# draft would be `redraft`, and `redraft` without one would be `switch`.
VIEWS = {
    'escalate': ('peek', 'commit'),
    'switch': ('commit',),
    'redraft': ('peek',),
}
NAMES = tuple(VIEWS)


@dataclasses.dataclass(frozen=True)
class Protocol:
  """The rules of one decision process.

  name: one of `NAMES`.
  view: one of `VIEWS[name]`: 'peek' (the router sees a draft before it decides)
    or 'commit' (it decides before anything is drafted). None = the default, the
    first one.
  """

  name: str = 'escalate'
  view: str | None = None

  def __post_init__(self):
    if self.name not in NAMES:
      raise ValueError(
          f'Unknown protocol {self.name!r}; allowed: {", ".join(NAMES)}.'
      )
    views = VIEWS[self.name]
    if self.view is None:  # Frozen, so assigned through `object`.
      object.__setattr__(self, 'view', views[0])
    if self.view not in views:
      raise ValueError(
          f'Protocol {self.name} has no view {self.view!r}; allowed: '
          f'{", ".join(views)}.'
      )

  @property
  def has_draft(self) -> bool:
    """Whether the small model drafts, and is paid, before each decision."""
    return self.view == 'peek'

  def is_absorbing(self, route: int) -> bool:
    """Whether `route`, once chosen, writes to the end without a decision."""
    return self.name == 'escalate' and route > 0

  def action_mask(
      self, writer: int | np.ndarray, num_routes: int
  ) -> np.ndarray:
    """Returns which routes may write the next step after `writer`.

    Args:
      writer: the route that wrote last, in 0..A-1, or an array `[T]` of them.
        Before the first step it is 0, the small model.
      num_routes: A.

    Returns:
      `[A]` or `[T, A]` bool, True = allowed.
    """
    lowest = np.asarray(writer)
    if self.name != 'escalate':
      lowest = np.zeros_like(lowest)  # Every route may follow every other.
    # `[A] >= [..., 1]`: escalating never returns to a smaller model.
    return np.arange(num_routes) >= lowest[..., None]
