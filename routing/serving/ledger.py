"""What each key has used, in tokens of each model and at list price."""

import asyncio
from collections.abc import Mapping
from collections.abc import Sequence

from routing import costs
from routing import types
from routing.serving import keys as keys_lib
from routing.serving import store as store_lib


class Ledger:
  """Writes down what every key has used.

  Every usage counts when it is known, and not at the end of an answer: what was
  written for a client that went away was paid as well. A batch of a model ends
  many steps at once. So usages are added up until the event loop has done all
  that is due now, and then written to the store together.

  Args:
    store: where it is kept.
    specs: the models with their prices, smallest first.
  """

  def __init__(self, store: store_lib.Store, specs: Sequence[costs.RouteSpec]):
    self._store, self._specs = store, specs
    # (owner, route) -> what is not in the store yet, and its price.
    self._due: dict[tuple[str, int], tuple[types.Usage, float]] = {}
    self._is_scheduled = False  # Whether `flush` will be called by itself.

  def pay(self, owner: str, usage: types.Usage) -> None:
    """Adds a usage to what the holder of a key has used."""
    price = float(costs.call_cost(usage, self._specs[usage.route], 'price'))
    place = owner, usage.route
    if (before := self._due.get(place)) is not None:
      usage = types.Usage(
          usage.route,
          *(
              int(getattr(before[0], name)) + int(getattr(usage, name))
              for name in ('read', 'cached', 'written')
          ),
      )
      price += before[1]
    self._due[place] = usage, price
    if self._is_scheduled:
      return
    try:
      asyncio.get_running_loop().call_soon(self.flush)
    except RuntimeError:  # Outside an event loop, as in tests.
      self.flush()
    else:
      self._is_scheduled = True

  def flush(self) -> None:
    """Writes to the store what is not there yet.

    Raises:
      sqlite3.Error: if it cannot be written; it is kept for the next time.
    """
    self._is_scheduled = False
    if self._due:
      self._store.add_usages(
          [(owner, *paid) for (owner, _), paid in self._due.items()]
      )
      self._due = {}

  def check(self, key: keys_lib.Key) -> None:
    """Raises the refusal of a request whose key has used up its budget."""
    if key.max_tokens or key.max_price:
      self.flush()
      keys_lib.check_budget(key, self._store.usage(key.name))

  def used(self, owner: str) -> Mapping[str, Mapping[str, float]]:
    """Returns model -> tokens read, cached and written, and the price."""
    self.flush()
    return {
        self._specs[route].name: used
        for route, used in self._store.usage(owner).items()
    }
