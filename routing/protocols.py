"""Who may write which step: one decision process, told apart by masks.

`escalate` is optimal stopping: the small model writes until the router hands
the rest of the trace to a larger model for good. With `peek` the router has
seen the small model's draft of the step and hands over *before* it (the draft
is thrown away, and paid); with `commit` it sees only what is in the trace.

`switch`: before each step the router names who writes it, any model, each time
anew; nothing is drafted. `redraft`: the small model drafts each step; the
router keeps the draft (action 0), or has a larger model write the step instead
(the draft is thrown away, and paid); then control returns to the small model.
Sources of redraft: RSD (Liao et al. 2025), SpecReason (Pan et al. 2025).

In all three an action is the route that writes the next step, or from the next
step on, so one mask `[A]` says what is allowed.
"""

import dataclasses

import numpy as np

# The views that each protocol can have; the first is its default.
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
  view: 'peek' (decide on a draft) or 'commit' (decide before drafting), of
    `VIEWS[name]`; None = the first of them.
  """

  name: str = 'escalate'
  view: str | None = None

  def __post_init__(self):
    if self.name not in NAMES:
      raise ValueError(
          f'Unknown protocol {self.name!r}; allowed: {", ".join(NAMES)}.'
      )
    views = VIEWS[self.name]
    if self.view is None:
      object.__setattr__(self, 'view', views[0])
    if self.view not in views:
      raise ValueError(
          f'Protocol {self.name} has no view {self.view!r}; allowed: '
          f'{", ".join(views)}.'
      )

  @property
  def has_draft(self) -> bool:
    """The router sees, and the user pays, a draft before each decision."""
    return self.view == 'peek'

  def is_absorbing(self, route: int) -> bool:
    """Once `route` writes, it writes to the end and nothing is asked again."""
    return self.name == 'escalate' and route > 0

  def action_mask(
      self, writer: int | np.ndarray, num_routes: int
  ) -> np.ndarray:
    """The routes that may write next after `writer`.

    Args:
      writer: who wrote last, in 0..A-1: a route, or `[T]` of them. Before the
        first step it is the small model, 0.
      num_routes: A.

    Returns:
      `[A]` or `[T, A]` bool.
    """
    least = np.asarray(writer)
    if self.name != 'escalate':
      least = np.zeros_like(least)
    return np.arange(num_routes) >= least[..., None]
