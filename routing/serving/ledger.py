"""What each key has used, in tokens of each model and at list price."""

from collections.abc import Mapping
from collections.abc import Sequence

from routing import costs
from routing import types
from routing.serving import keys as keys_lib
from routing.serving import store as store_lib


class Ledger:
  """Writes down what every key has used.

  Every usage is written when it is known, and not at the end of an answer: what
  was written for a client that went away was paid as well.

  Args:
    store: where it is kept.
    specs: the models with their prices, smallest first.
  """

  def __init__(self, store: store_lib.Store, specs: Sequence[costs.RouteSpec]):
    self._store, self._specs = store, specs

  def pay(self, owner: str, usage: types.Usage) -> None:
    """Adds a usage to what the holder of a key has used."""
    price = float(costs.call_cost(usage, self._specs[usage.route], 'price'))
    self._store.add_usage(owner, usage, price)

  def check(self, key: keys_lib.Key) -> None:
    """Raises the refusal of a request whose key has used up its budget."""
    if key.max_tokens or key.max_price:
      keys_lib.check_budget(key, self._store.usage(key.name))

  def used(self, owner: str) -> Mapping[str, Mapping[str, float]]:
    """Returns model -> tokens read, cached and written, and the price."""
    return {
        self._specs[route].name: used
        for route, used in self._store.usage(owner).items()
    }
