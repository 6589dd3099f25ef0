"""The trained router: features, network, thresholds and promises.

A router is saved as a directory, in a training run or inside the package. The
directory holds the weights of all policies with the feature statistics, the
record of seen problems, the card with hashes of both and, after calibration,
the operating points.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import copy
import json
import pathlib
from typing import Any
from typing import Self

from flax import traverse_util
import jax
import numpy as np

from routing import types
from routing.features import observation
from routing.features import standardize
from routing.policy import networks
from routing.routers import action_probabilities as probabilities_lib
from routing.routers import card as card_lib
from routing.routers import description
from routing.routers import saved as saved_lib
from routing.tasks import seen as seen_lib

ARRAYS_FILE = 'router.safetensors'
CARD_FILE = saved_lib.CARD_FILE
POINTS_FILE = 'operating_points.json'
SEEN_FILE = saved_lib.SEEN_FILE
SHIPPED = pathlib.Path(__file__).parent / 'shipped'
_DEFAULT_THRESHOLD = 0.5  # The threshold of a router without operating points.


class LearnedRouter:
  """A router that thresholds the hand-over probability of a trained policy.

  A calibrated router starts at its first operating point, any other router at
  policy 0 and threshold 0.5. `at` and `with_threshold` return copies at other
  points. A router keeps no state between calls: a network with memory reads
  earlier decisions from `Trace.history`.

  Args:
    card: the metadata.
    params: pytree of arrays `[K, ...]`, one row per policy; `[1, ...]` for a
      network conditioned on the level, which serves all K levels.
    statistics: mean and standard deviation of the features.
    points: operating points, calibrated with exactly these arrays.
    seen: record of the problems used to train, select and prove the router.

  Attributes:
    policy_index: index of the active policy.
    threshold: the active threshold, or one per decision.
    level: constraint level of the active policy: one of the card's levels or,
      for a conditioned network, any value between them.
    point: the active operating point; None at another policy or threshold.
    routes: the routes that may be chosen, ascending; see `restricted_to`.
    has_memory: whether the network reads earlier decisions.
    checkpoint_hash: hash of the arrays and the card.
  """

  def __init__(
      self,
      card: card_lib.Card,
      params: Any,
      statistics: standardize.Statistics,
      points: Sequence[card_lib.OperatingPoint] = (),
      seen: seen_lib.Seen = seen_lib.UNKNOWN,
  ):
    self.card, self.seen = card, seen
    self._params = jax.tree.map(np.asarray, params)
    self._weights = probabilities_lib.Weights(self._params)
    self._statistics = statistics
    # Shapes are checked before anything is computed from arrays and card.
    self._check_shapes()
    self.checkpoint_hash = card_lib.hash_arrays(self._arrays(), card.to_json())
    card_lib.check_points(points, self.num_policies, self.checkpoint_hash)
    self.points = tuple(points)
    self.point = self.points[0] if self.points else None
    self.policy_index = self.point.policy_index if self.point else 0
    self.threshold = self.point.threshold if self.point else _DEFAULT_THRESHOLD
    self.level = card.levels[self.policy_index]
    self._network = networks.make_network(card.network, len(card.specs))
    self.has_memory = networks.has_memory(self._network.kind)
    self.routes = tuple(range(len(card.specs)))

  @property
  def num_policies(self) -> int:
    """K, the number of policies trained together."""
    return len(self.card.levels)

  @property
  def is_restricted(self) -> bool:
    """True if some routes of the card may not be chosen."""
    return len(self.routes) < len(self.card.specs)

  def decide(self, trace: types.Trace) -> types.Decision:
    """Returns route 0 below the threshold, else the likeliest larger route.

    Raises:
      ValueError: if no threshold exists for this decision, or as
        `action_probabilities`.
    """
    return self.decide_from(self.action_probabilities(trace), trace)

  def decide_from(
      self, probabilities: np.ndarray, trace: types.Trace
  ) -> types.Decision:
    """Returns what `decide` does, from its `[A]` action probabilities."""
    score = float(probabilities[1:].sum())
    threshold = card_lib.threshold_at(self.threshold, len(trace.steps))
    # The maximum is over `routes` only: if all probabilities underflow to 0, an
    # argmax over all routes could return one that is not available.
    larger = max(self.routes[1:], key=lambda route: probabilities[route])
    route = larger if score >= threshold else 0
    return types.Decision(route=route, score=score)

  def action_probabilities(self, trace: types.Trace) -> np.ndarray:
    """Returns the policy's `[A]` float32 probabilities, before any threshold.

    Raises:
      ValueError: if the network has memory and the trace lacks its history or
        has more decisions than the router was trained for.
    """
    probabilities = self.probabilities(self.observations(trace))
    return probabilities[len(trace.steps)] if self.has_memory else probabilities

  def observations(self, trace: types.Trace) -> np.ndarray:
    """Returns what the network reads at a trace: `[F]`, with memory `[T, F]`.

    Raises:
      ValueError: see `action_probabilities`.
    """
    config = self.card.features
    if not self.has_memory:
      return observation.observe(trace, config)
    seen = [observation.observe(x, config) for x in trace.history]
    if len(seen) != len(trace.steps) + 1 or len(seen) > config.max_decisions:
      raise ValueError(
          f'The trace has {len(trace.steps)} steps and a history of '
          f'{len(seen)} decisions; a router with memory ({self._network.kind}) '
          'needs a history of steps + 1 decisions, at most '
          f'{config.max_decisions}. Check that `Trace.previous` leads back to '
          'the first decision.'
      )
    # The history is padded to one length, so that the network is compiled once.
    # The network is causal: padding does not change the last decision's output.
    rows = np.zeros((config.max_decisions, config.size), np.float32)
    rows[: len(seen)] = seen
    return rows

  def probabilities(
      self, features: np.ndarray, policy_index: int | None = None
  ) -> np.ndarray:
    """Returns one policy's action probabilities at each observation.

    Args:
      features: `[..., F]` float32 from `observe`, not standardised; for a
        network with memory `[..., T, F]`, all decisions from the first.
      policy_index: index of the policy; None = the active policy.

    Returns:
      `[..., A]` or `[..., T, A]` float32, route 0 = stay. Routes outside
      `routes` have probability 0, and the other routes are renormalised.

    Raises:
      ValueError: if the policy does not exist, or F differs from training.
    """
    level = self.level if policy_index is None else self._level_of(policy_index)
    row = self.policy_index if policy_index is None else policy_index
    if features.shape[-1] != self.card.features.size:
      raise ValueError(
          f'Got {features.shape[-1]} features; the router was trained with '
          f'{self.card.features.size}.'
      )
    # A conditioned network has one row of weights and gets the level as input.
    row = 0 if self._network.is_conditioned else row
    params = self._weights.of(row)
    standardised = standardize.apply(features, self._statistics)
    return np.asarray(
        probabilities_lib.of_one(
            self._network, params, standardised, level, self._available()
        )
    )

  def probabilities_of_each(
      self, features: np.ndarray, rows: np.ndarray, levels: np.ndarray
  ) -> np.ndarray:
    """Returns what `probabilities` does for N observations, in one jitted call.

    Args:
      features: `[N, F]` float32, or `[N, T, F]` for a network with memory.
      rows: `[N]` int, the policy of each observation, `policy_index`.
      levels: `[N]`, the level of each, `level`.

    Returns:
      `[N, A]` or `[N, T, A]` float32.
    """
    rows = np.zeros_like(rows) if self._network.is_conditioned else rows
    standardised = standardize.apply(features, self._statistics)
    return np.asarray(
        probabilities_lib.of_each(
            self._network,
            self._weights.of_all,
            standardised,
            rows,
            levels,
            self._available(),
        )
    )

  def _available(self) -> np.ndarray | None:
    """Returns `[A]` bool, the routes that may be chosen; None = all."""
    if not self.is_restricted:
      return None
    return np.isin(np.arange(len(self.card.specs)), self.routes)

  def score(
      self, features: np.ndarray, policy_index: int | None = None
  ) -> np.ndarray:
    """Returns one policy's hand-over probability; see `probabilities`."""
    # The sum over larger routes, and not 1 - pi(stay), which in float32 rounds
    # small probabilities to a few equal values.
    return self.probabilities(features, policy_index)[..., 1:].sum(axis=-1)

  def restricted_to(self, routes: Iterable[int]) -> Self:
    """Returns a copy that chooses among `routes` only.

    Use the copy e.g. while the server of a model is down. All other routes get
    probability 0 and `routes` are renormalised, so a score is conditional on
    the available routes. Operating points were calibrated with all routes and
    promise nothing with fewer. Policy and threshold stay, and `at` still works,
    but `point` is None. `save` does not store the restriction; `restricted_to`
    with all routes ends the restriction.

    Args:
      routes: 0, because the small model writes by default, and at least one
        larger route; in any order.

    Raises:
      ValueError: if a route does not exist, or route 0 or every larger route is
        missing.
    """
    chosen, num_routes = list(routes), len(self.card.specs)
    if not (
        all(route in range(num_routes) for route in chosen)
        and 0 in chosen
        and len(set(chosen)) > 1
    ):
      raise ValueError(
          f'routes is {chosen}; allowed: 0 and one or more of 1 to '
          f'{num_routes - 1}.'
      )
    router = copy.copy(self)
    router.routes = tuple(sorted({int(route) for route in chosen}))
    # The promise was proved for decisions among all routes.
    router.point = None if router.is_restricted else self.point
    return router

  def at(self, name: str) -> Self:
    """Returns a copy at the operating point with this name."""
    for point in self.points:
      if point.name == name:
        router = self.with_threshold(point.policy_index, point.threshold)
        router.point = None if self.is_restricted else point
        return router
    names = ', '.join(repr(point.name) for point in self.points) or 'none'
    raise ValueError(f'No operating point {name!r}; this router has: {names}.')

  def with_threshold(
      self, policy_index: int, threshold: card_lib.Threshold
  ) -> Self:
    """Returns a copy with another policy and threshold, without promises."""
    router = copy.copy(self)
    router.level = self._level_of(policy_index)
    router.policy_index, router.point = policy_index, None
    router.threshold = card_lib.as_threshold(threshold)
    return router

  def at_level(self, level: float, threshold: card_lib.Threshold) -> Self:
    """Returns a copy at a constraint level and a threshold, without promises.

    Args:
      level: a budget or a risk. A conditioned network allows any level between
        the smallest and the largest that it was trained for, another network
        only the levels that it was trained for.
      threshold: see `with_threshold`.

    Raises:
      ValueError: if the router was not trained for this level.
    """
    levels = self.card.levels
    if level in levels:
      return self.with_threshold(levels.index(level), threshold)
    if not self._network.is_conditioned:
      known = ', '.join(f'{x:g}' for x in levels)
      raise ValueError(
          f'The level is {level}; this router was trained for: {known}.'
      )
    if not min(levels) <= level <= max(levels):
      raise ValueError(
          f'The level is {level}; allowed: {min(levels):g} to {max(levels):g}.'
      )
    # The index is for display only: a conditioned network has one row of
    # weights.
    nearest = min(range(len(levels)), key=lambda k: abs(levels[k] - level))
    router = self.with_threshold(nearest, threshold)
    router.level = level
    return router

  def save(self, directory: pathlib.Path | str) -> None:
    """Writes the router's files; `load` reads them on any machine."""
    from safetensors import numpy as safetensors

    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    safetensors.save_file(self._arrays(), directory / ARRAYS_FILE)
    if self.points:
      text = json.dumps([vars(point) for point in self.points], indent=2)
      (directory / POINTS_FILE).write_text(text + '\n')
    # The card is written last, since it marks the directory as complete.
    saved_lib.write(directory, self.card, self.checkpoint_hash, self.seen)

  def __str__(self) -> str:
    return description.of(self)

  def _arrays(self) -> dict[str, np.ndarray]:
    """Returns weights and feature statistics as a flat mapping of arrays."""
    weights = traverse_util.flatten_dict({'params': self._params}, sep='/')
    return {
        **{name: np.ascontiguousarray(x) for name, x in weights.items()},
        'statistics/mean': self._statistics.mean,
        'statistics/std': self._statistics.std,
    }

  def _level_of(self, policy_index: int) -> float:
    """Returns the level of a policy; raises ValueError on an unknown index."""
    if not 0 <= policy_index < self.num_policies:
      raise ValueError(
          f'policy_index is {policy_index}; allowed: 0 to '
          f'{self.num_policies - 1}.'
      )
    return self.card.levels[policy_index]

  def _check_shapes(self) -> None:
    """Raises ValueError if the arrays do not have the sizes of the card."""
    size = self.card.features.size
    if self._statistics.mean.shape != (size,):
      raise ValueError(
          f'The feature statistics have shape {self._statistics.mean.shape}; '
          f'the card has {size} features.'
      )
    # The first axis of every leaf of the pytree is the policies.
    policies = {len(leaf) for leaf in jax.tree.leaves(self._params)}
    is_shared = self.card.network.get('is_conditioned', False)
    expected = 1 if is_shared else self.num_policies
    if policies != {expected}:
      raise ValueError(
          f'The weights hold {sorted(policies)} policies, but the card of the '
          f'router names {expected}.'
      )


def load(path: pathlib.Path | str = 'shipped') -> LearnedRouter:
  """Reads a router from a run directory, an export, or the package.

  Args:
    path: a directory, or 'shipped' for the router in the package.

  Raises:
    ValueError: if the router is unfinished, its files do not belong together,
      or its operating points were calibrated on another router.
  """
  from safetensors import numpy as safetensors

  directory = SHIPPED if str(path) == 'shipped' else pathlib.Path(path)
  saved = saved_lib.read_card(directory)
  arrays = safetensors.load_file(directory / ARRAYS_FILE)
  statistics = standardize.Statistics(
      mean=arrays.pop('statistics/mean'), std=arrays.pop('statistics/std')
  )
  router = LearnedRouter(
      card_lib.Card.from_json(saved['card']),
      traverse_util.unflatten_dict(arrays, sep='/')['params'],
      statistics,
      card_lib.read_points(directory / POINTS_FILE),
      saved_lib.read_seen(directory),
  )
  # Promises were proved for exactly these weights, so changed weights must not
  # load.
  if router.checkpoint_hash != saved['hash']:
    raise ValueError(
        f'{directory}: {ARRAYS_FILE} and {CARD_FILE} do not belong together '
        f'(hash {router.checkpoint_hash[:12]}, expected {saved["hash"][:12]}).'
    )
  return router
