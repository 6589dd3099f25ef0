"""The trained router: features, network, threshold, and what is promised.

A router is a folder, whether it is of a run or ships with the package: the
weights of every member and the feature statistics, the record of seen problems,
the card with the hashes of these and, once calibrated, the operating points.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import copy
import functools
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
from routing.policy import categorical
from routing.policy import networks
from routing.problems import seen as seen_lib
from routing.routers import card as card_lib
from routing.routers import promises
from routing.routers import saved as saved_lib

ARRAYS_FILE = 'router.safetensors'
CARD_FILE = saved_lib.CARD_FILE
POINTS_FILE = 'operating_points.json'
SEEN_FILE = saved_lib.SEEN_FILE
SHIPPED = pathlib.Path(__file__).parent / 'shipped'
_DEFAULT_THRESHOLD = 0.5  # Of a router that was not calibrated yet.


@functools.partial(jax.jit, static_argnums=0)
def _probabilities(
    network: networks.Policy,
    params: Any,
    features: jax.Array,
    level: float,
    available: np.ndarray | None,
) -> jax.Array:
  """Chances of all routes; compiled once for all routers of one network.

  And once more for all masks `available`, `[A]` bool. None, all routes, is not
  a mask of ones: its numbers are those of a router that knows no masks.
  """
  logits = networks.apply(network, params, features, level)
  if available is not None:
    # Log-probabilities are logits too, and those of the others give 0.
    logits = categorical.log_softmax(logits, available)
  return jax.nn.softmax(logits)


class LearnedRouter:
  """Hands over where the policy's chance to leave reaches a threshold.

  Without calibration it uses member 0 and a threshold of 0.5; with, its first
  operating point. `at` and `with_threshold` give the router at another one.

  It remembers nothing between calls: what a network with memory must know of
  earlier decisions, it reads from `Trace.history`.

  Args:
    card: what the numbers mean.
    params: a tree of arrays [K, ...], K members; [1, ...] of a network that is
      conditioned on the level, which is all members in one.
    statistics: of the features.
    points: operating points, calibrated on these very numbers.
    seen: record of the problems it was trained, selected and proved on.

  Attributes:
    policy_index: index of the policy that decides.
    threshold: that its score is held against; a number or one a decision.
    level: of its constraint; one of the card's, or, of a conditioned network,
      any between them.
    point: the operating point that member and threshold are of, if any.
    routes: that it may name, ascending; all of them unless it is
      `restricted_to` some.
    has_memory: the network looks at earlier decisions too.
    checkpoint_hash: of arrays and card.
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
    self._statistics = statistics
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
    """K, the policies trained side by side."""
    return len(self.card.levels)

  @property
  def is_restricted(self) -> bool:
    """It may not name every route."""
    return len(self.routes) < len(self.card.specs)

  def decide(self, trace: types.Trace) -> types.Decision:
    """Stays below the threshold, else takes the most likely larger route.

    Raises:
      ValueError: if there is no threshold for this decision, or
        `action_probabilities` raises it.
    """
    probabilities = self.action_probabilities(trace)
    score = float(probabilities[1:].sum())
    threshold = card_lib.threshold_at(self.threshold, len(trace.steps))
    # Of those there are: where all chances are 0, the first is not any route.
    larger = max(self.routes[1:], key=lambda route: probabilities[route])
    route = larger if score >= threshold else 0
    return types.Decision(route=route, score=score)

  def action_probabilities(self, trace: types.Trace) -> np.ndarray:
    """`[A]` float32, what the policy itself would do, without a threshold.

    Raises:
      ValueError: if the trace does not say what a network with memory must
        know, or is longer than those of training.
    """
    config = self.card.features
    if not self.has_memory:
      return self.probabilities(observation.observe(trace, config))
    seen = [observation.observe(x, config) for x in trace.history]
    if len(seen) != len(trace.steps) + 1 or len(seen) > config.max_decisions:
      raise ValueError(
          f'The trace has {len(trace.steps)} steps and says what was seen at '
          f'{len(seen)} decisions; a router with memory ({self._network.kind}) '
          f'needs one more than steps, and at most {config.max_decisions}. '
          'Does '
          '`Trace.previous` lead back to the first decision?'
      )
    # Always of one length, so that it is compiled once; what comes after the
    # last decision is not looked at.
    rows = np.zeros((config.max_decisions, config.size), np.float32)
    rows[: len(seen)] = seen
    return self.probabilities(rows)[len(seen) - 1]

  def probabilities(
      self, features: np.ndarray, policy_index: int | None = None
  ) -> np.ndarray:
    """What one member would do at each observation.

    Args:
      features: `[..., F]` float32, as `observe` gives them, not standardised;
        for a network with memory `[..., T, F]`, all decisions from the first.
      policy_index: index of the policy; None = that of the operating point.

    Returns:
      `[..., A]`, or `[..., T, A]`, float32: chance of each route; 0 = stay.
      0 for what is not in `routes`, and the others in proportion.

    Raises:
      ValueError: if there is no such member, or F is another.
    """
    level = self.level if policy_index is None else self._level_of(policy_index)
    row = self.policy_index if policy_index is None else policy_index
    if features.shape[-1] != self.card.features.size:
      raise ValueError(
          f'Got {features.shape[-1]} features; allowed: '
          f'{self.card.features.size}.'
      )
    row = 0 if self._network.is_conditioned else row
    params = jax.tree.map(lambda x: x[row], self._params)
    standardised = standardize.apply(features, self._statistics)
    available = None
    if self.is_restricted:
      available = np.isin(np.arange(len(self.card.specs)), self.routes)
    return np.asarray(
        _probabilities(self._network, params, standardised, level, available)
    )

  def score(
      self, features: np.ndarray, policy_index: int | None = None
  ) -> np.ndarray:
    """`[...]` float32, one member's chance to hand over: 1 - pi(stay).

    Summed over the larger routes rather than taken from 1, which would round
    all small chances to the same few numbers.
    """
    return self.probabilities(features, policy_index)[..., 1:].sum(axis=-1)

  def restricted_to(self, routes: Iterable[int]) -> Self:
    """The router where only some routes may be named, e.g. one server is down.

    The chances of the others are 0, and those left are scaled to sum to 1; so
    a score is what it is *given* that the others are not there. Operating
    points were calibrated with all routes and promise nothing with fewer:
    member and threshold stay, or are `at` a point's, but `point` is None. The
    restriction is this copy's own: `save` does not keep it, and `restricted_to`
    with all routes lifts it.

    Args:
      routes: 0, since the small model writes where the router does not name
        another, and at least one more; in any order.

    Raises:
      ValueError: if there is no such route, or 0 or a larger one is missing.
    """
    chosen, num_routes = list(routes), len(self.card.specs)
    if not (
        all(route in range(num_routes) for route in chosen)
        and 0 in chosen
        and len(set(chosen)) > 1
    ):
      raise ValueError(
          f'routes are {chosen}; allowed: 0 and one or more of 1 to '
          f'{num_routes - 1}.'
      )
    router = copy.copy(self)
    router.routes = tuple(sorted({int(route) for route in chosen}))
    router.point = None if router.is_restricted else self.point
    return router

  def at(self, name: str) -> Self:
    """Returns the router at a named operating point; see `restricted_to`."""
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
    """The router of one member at a threshold, or several, of one's own."""
    router = copy.copy(self)
    router.level = self._level_of(policy_index)
    router.policy_index, router.point = policy_index, None
    router.threshold = card_lib.as_threshold(threshold)
    return router

  def at_level(self, level: float, threshold: card_lib.Threshold) -> Self:
    """The router at a level of the caller's own, and a threshold for it.

    Args:
      level: a budget or a risk. A network that is conditioned takes any from
        the least to the largest level of its training; the others have none
        but these.
      threshold: see `with_threshold`.

    Raises:
      ValueError: if it was not trained for this level.
    """
    levels = self.card.levels
    if level in levels:
      return self.with_threshold(levels.index(level), threshold)
    if not self._network.is_conditioned:
      known = ', '.join(f'{x:g}' for x in levels)
      raise ValueError(f'The level is {level}; this router has: {known}.')
    if not min(levels) <= level <= max(levels):
      raise ValueError(
          f'The level is {level}; allowed: {min(levels):g} to {max(levels):g}.'
      )
    nearest = min(range(len(levels)), key=lambda k: abs(levels[k] - level))
    router = self.with_threshold(nearest, threshold)
    router.level = level
    return router

  def save(self, directory: pathlib.Path | str) -> None:
    """Writes the router's files; `load` reads them anywhere."""
    from safetensors import numpy as safetensors

    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    safetensors.save_file(self._arrays(), directory / ARRAYS_FILE)
    if self.points:
      text = json.dumps([vars(point) for point in self.points], indent=2)
      (directory / POINTS_FILE).write_text(text + '\n')
    saved_lib.write(directory, self.card, self.checkpoint_hash, self.seen)

  def __str__(self) -> str:
    card = self.card
    names = ' -> '.join(
        f'{spec.name} ({spec.parameters:,} parameters)' for spec in card.specs
    )
    levels = ', '.join(f'{level:g}' for level in card.levels)
    lines = [
        f'LearnedRouter for {names}',
        f'  protocol    {card.protocol.name}, {card.protocol.view}',
        f'  features    {", ".join(card.features.groups)} '
        f'({card.features.size} numbers)',
        f'  network     {card.network["kind"]}',
        f'  trained     {card.form} {levels}, cost metric {card.metric}',
        f'  checkpoint  {self.checkpoint_hash[:12]}',
        f'  now at      member {self.policy_index}, threshold '
        f'{card_lib.describe_threshold(self.threshold)}',
    ]
    if self.is_restricted:
      there = ', '.join(card.specs[route].name for route in self.routes)
      lines.append(f'  among       {there} alone; no promise holds')
    lines.append(
        '  operating points' + ('' if self.points else ': not calibrated')
    )
    lines += [f'    {point}' for point in self.points]
    if any(point.promise.get('delta') for point in self.points):
      lines.append(f'    {promises.OF_A_CHOICE}')
    return '\n'.join(lines)

  def _arrays(self) -> dict[str, np.ndarray]:
    """Everything numeric, by name."""
    weights = traverse_util.flatten_dict({'params': self._params}, sep='/')
    return {
        **{name: np.ascontiguousarray(x) for name, x in weights.items()},
        'statistics/mean': self._statistics.mean,
        'statistics/std': self._statistics.std,
    }

  def _level_of(self, policy_index: int) -> float:
    """The level of a member; raises ValueError if there is no such member."""
    if not 0 <= policy_index < self.num_policies:
      raise ValueError(
          f'member is {policy_index}; allowed: 0 to {self.num_policies - 1}.'
      )
    return self.card.levels[policy_index]

  def _check_shapes(self) -> None:
    """The arrays are those that the card speaks of."""
    size = self.card.features.size
    if self._statistics.mean.shape != (size,):
      raise ValueError(
          f'The statistics are of {self._statistics.mean.shape} features, the '
          f'card names {size}.'
      )
    policies = {len(leaf) for leaf in jax.tree.leaves(self._params)}
    is_shared = self.card.network.get('is_conditioned', False)
    wanted = 1 if is_shared else self.num_policies
    if policies != {wanted}:
      raise ValueError(
          f'The weights are of {policies} members; by the card there are '
          f'{wanted}.'
      )


def load(path: pathlib.Path | str = 'shipped') -> LearnedRouter:
  """Reads a router from a run directory, an export, or the package.

  Args:
    path: 'shipped' for the router that comes with the package, or a directory.

  Raises:
    ValueError: if there is no finished router, its files do not belong
      together, or its operating points were calibrated on another one.
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
  if router.checkpoint_hash != saved['hash']:
    raise ValueError(
        f'{directory}: {ARRAYS_FILE} and {CARD_FILE} do not belong together '
        f'(hash {router.checkpoint_hash[:12]}, expected {saved["hash"][:12]}).'
    )
  return router
