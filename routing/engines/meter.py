"""Adds up what a run spends, and keeps it under a ceiling.

A request may only be sent if its largest possible usage still fits under the
ceiling, together with all that was spent and with the largest possible usages
of the requests in flight. When a request ends, its true usage replaces the
largest possible one.
"""

import asyncio
from collections.abc import Iterable
from collections.abc import Sequence

from routing import costs
from routing import types
from routing.engines import engine as engine_lib


class Meter:
  """Adds up what a run has spent, and compares it with the spending ceiling.

  Args:
    specs: the routes with their prices, by route index. A route that nobody
      bills has prices of 0.
    dollars: maximum spending, at the prices of the routes; 0 = no limit.
    tokens: maximum number of tokens: read anew, cached and written; 0 = no
      limit.

  Attributes:
    dollars, tokens: what was spent so far, including what may have been billed
      for requests that failed.
    unsure_tokens: the part of `tokens` that may have been billed.
    written: `[A]`, the tokens that each route has written.
    largest_share: the largest reservation so far, as a fraction of the ceiling.
  """

  def __init__(
      self,
      specs: Sequence[costs.RouteSpec],
      dollars: float = 0.0,
      tokens: int = 0,
  ):
    self._specs = specs
    self._max_dollars, self._max_tokens = dollars, tokens
    self.dollars, self.tokens, self.unsure_tokens = 0.0, 0, 0
    self.written = [0] * len(specs)
    self.largest_share = 0.0
    self._num_reserved = self._reserved_tokens = 0
    self._reserved_dollars = 0.0
    self._changed = asyncio.Event()

  @property
  def is_limited(self) -> bool:
    """Whether there is a ceiling."""
    return bool(self._max_dollars or self._max_tokens)

  def add(self, usage: types.Usage) -> None:
    """Adds the usage of one step, or of discarded tokens, to the total."""
    self._spend(usage)
    self.written[usage.route] += int(usage.written)

  def share(self) -> float:
    """Returns the spent fraction of the ceiling, which is reached at 1.

    If both dollars and tokens are limited, the larger fraction counts. Without
    a ceiling the fraction is 0.
    """
    return self._share(self.dollars, self.tokens)

  async def reserve(self, largest: types.Usage) -> None:
    """Reserves the largest possible usage of a request that is about to start.

    If it does not fit under the ceiling, this waits until other requests end
    with a smaller usage than theirs was reserved. `settle` must follow.

    Raises:
      engine_lib.Stop: if it does not fit, and no other request is in flight.
    """
    dollars, tokens = self._size(largest)
    self.largest_share = max(self.largest_share, self._share(dollars, tokens))
    while (
        self._share(
            self.dollars + self._reserved_dollars + dollars,
            self.tokens + self._reserved_tokens + tokens,
        )
        > 1
    ):
      if not self._num_reserved:
        raise engine_lib.Stop(
            f'The spending ceiling is reached: {self} were spent of '
            f'{self._ceiling()}, and the next request may take up to '
            f'{self._in_words(dollars, tokens)}. To continue, raise the limit '
            'on dollars or tokens that was reached.'
        )
      await self._changed.wait()
    self._reserve(1, dollars, tokens)

  def settle(
      self,
      largest: types.Usage,
      billed: Iterable[types.Usage],
      *,
      is_unsure: bool = False,
  ) -> None:
    """Replaces the reservation of a request by its true usage.

    Args:
      largest: what was reserved.
      billed: what the request, which has ended, is known to have used.
      is_unsure: the request failed, and the back end may have billed more. What
        was reserved then counts as spent as well.
    """
    dollars, tokens = self._size(largest)
    self._reserve(-1, -dollars, -tokens)
    for usage in billed:
      self.add(usage)
    if is_unsure:
      self._spend(largest)
      self.unsure_tokens += tokens
    # Wakes all that wait in `reserve`. They look again, and may wait for the
    # next change.
    self._changed.set()
    self._changed = asyncio.Event()

  def _spend(self, usage: types.Usage) -> None:
    """Adds a usage to what was spent."""
    dollars, tokens = self._size(usage)
    self.dollars += dollars
    self.tokens += tokens

  def _size(self, usage: types.Usage) -> tuple[float, int]:
    """Returns the dollars and the tokens of a usage."""
    spec = self._specs[usage.route]
    dollars = float(costs.call_cost(usage, spec, 'price'))
    return dollars, int(usage.read + usage.cached + usage.written)

  def _reserve(self, count: int, dollars: float, tokens: int) -> None:
    """Changes what is reserved."""
    self._num_reserved += count
    self._reserved_tokens += tokens
    self._reserved_dollars += dollars
    if not self._num_reserved:
      self._reserved_dollars = 0.0  # Without the rounding errors of many sums.

  def _share(self, dollars: float, tokens: int) -> float:
    """Returns the fraction of the ceiling that some spending is."""
    parts = [0.0]
    if self._max_dollars:
      parts.append(dollars / self._max_dollars)
    if self._max_tokens:
      parts.append(tokens / self._max_tokens)
    return max(parts)

  def _ceiling(self) -> str:
    """Returns the limits, in words."""
    parts = [f'${self._max_dollars:.4g}'] if self._max_dollars else []
    parts += [f'{self._max_tokens:,} tokens'] if self._max_tokens else []
    return ' and '.join(parts)

  def _in_words(self, dollars: float, tokens: int) -> str:
    """Returns a spending in words; in tokens alone if no route has a price."""
    text = f'{tokens:,} tokens'
    is_billed = any(
        spec.price_output or spec.price_input for spec in self._specs
    )
    return f'${dollars:.4g} and {text}' if is_billed else text

  def __str__(self) -> str:
    text = self._in_words(self.dollars, self.tokens)
    if not self.unsure_tokens:
      return text
    return (
        f'{text} ({self.unsure_tokens:,} of them of failed requests, which may '
        'not have been billed)'
    )
