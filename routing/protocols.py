"""Who may write which step: one decision process, told apart by masks.

`escalate` is optimal stopping: the small model writes until the router hands
the rest of the trace to a larger model for good. With `peek` the router has
seen the small model's draft of the step and hands over *before* it (the draft
is thrown away, and paid); with `commit` it sees only what is in the trace.
"""

import dataclasses

import numpy as np

NAMES = ('escalate',)
VIEWS = ('peek', 'commit')


@dataclasses.dataclass(frozen=True)
class Protocol:
  """The rules of one decision process.

  name: one of `NAMES`.
  view: 'peek' (decide on a draft) or 'commit' (decide before drafting).
  """

  name: str = 'escalate'
  view: str = 'peek'

  def __post_init__(self):
    if self.name not in NAMES:
      raise ValueError(
          f'Unknown protocol {self.name!r}; allowed: {", ".join(NAMES)}.'
      )
    if self.view not in VIEWS:
      raise ValueError(
          f'Unknown view {self.view!r}; allowed: {", ".join(VIEWS)}.'
      )

  @property
  def has_draft(self) -> bool:
    """The router sees, and the user pays, a draft before each decision."""
    return self.view == 'peek'

  def is_absorbing(self, route: int) -> bool:
    """Once `route` writes, it writes to the end and nothing is asked again."""
    return route > 0

  def action_mask(self, writer: int, num_routes: int) -> np.ndarray:
    """`[A]` bool, the routes that may write next after `writer`."""
    return np.arange(num_routes) >= writer
