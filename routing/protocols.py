"""The three decision processes (protocols): who may write which step.

`escalate` is optimal stopping. The small model writes until the router hands
the rest of the answer to a larger model, which then writes to the end. There
are two views. With `peek` the router sees the small model's draft of the next
step before it decides; a hand-over discards this draft, but its cost is still
charged. With `commit` the router sees the accepted steps only.

`switch`: before each step the router names the model that writes it. Nothing is
drafted.

`redraft`: the small model drafts each step. The router keeps the draft (action
0) or has a larger model write the step instead; the draft is then discarded,
but its cost is still charged. The small model drafts the next step in either
case. Sources: RSD (Liao et al. 2025), SpecReason (Pan et al. 2025).

In all three protocols an action is a route, i.e. the index of a model. This
model writes the next step or, after a hand-over in `escalate`, all remaining
steps. So the protocols differ only in a mask `[A]` of allowed actions, in
whether there is a draft, and in which actions are followed by no decision.
"""

import dataclasses

import numpy as np

# The views that each protocol allows; the first is the default. Two of the
# combinations are missing because they have another name: `switch` with a draft
# would be `redraft`, and `redraft` without a draft would be `switch`.
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
  view: one of `VIEWS[name]`: 'peek' (the router sees the small model's draft of
    the next step before it decides) or 'commit' (it decides before the next
    step is drafted). None = the first entry of `VIEWS[name]`.
  """

  name: str = 'escalate'
  view: str | None = None

  def __post_init__(self):
    if self.name not in NAMES:
      raise ValueError(
          f'Unknown protocol {self.name!r}; allowed: {", ".join(NAMES)}.'
      )
    views = VIEWS[self.name]
    if self.view is None:  # A frozen dataclass can assign only in this way.
      object.__setattr__(self, 'view', views[0])
    if self.view not in views:
      raise ValueError(
          f'Protocol {self.name} has no view {self.view!r}; allowed: '
          f'{", ".join(views)}.'
      )

  @property
  def has_draft(self) -> bool:
    """True if the small model drafts the next step before each decision."""
    return self.view == 'peek'

  def is_absorbing(self, route: int) -> bool:
    """Returns whether `route`, once chosen, writes the rest of the answer."""
    return self.name == 'escalate' and route > 0

  def action_mask(
      self, writer: int | np.ndarray, num_routes: int
  ) -> np.ndarray:
    """Returns the mask of routes that may write the next step after `writer`.

    Args:
      writer: the route that wrote the last step, in 0..A-1, or an array `[T]`
        of such routes. Before the first step it is 0, the small model.
      num_routes: A, the number of models.

    Returns:
      `[A]` or `[T, A]` bool, True = the route is allowed.
    """
    lowest = np.asarray(writer)
    if self.name != 'escalate':
      lowest = np.zeros_like(lowest)  # Every route may follow every other one.
    # Shapes: `[A] >= [..., 1]`. In `escalate` control never returns to a
    # smaller model, so `writer` is the smallest route that is allowed.
    return np.arange(num_routes) >= lowest[..., None]

  def check_route(self, route: int, num_routes: int) -> None:
    """Raises ValueError if a router may not choose this route at a decision.

    Args:
      route: the chosen route.
      num_routes: A, the number of models.
    """
    # The mask after writer 0 serves at every decision: in `escalate` no
    # decision follows once a larger model has written, and in the other
    # protocols the mask does not depend on the writer.
    allowed = self.action_mask(0, num_routes)
    if not (0 <= route < num_routes and allowed[route]):
      raise ValueError(
          f'The router chose route {route}; {self.name} allows '
          f'{[m for m in range(num_routes) if allowed[m]]} here.'
      )
