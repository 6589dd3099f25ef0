"""The metadata of a trained router: models, features, costs, promises."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import hashlib
import itertools
import json
import pathlib
from typing import Any

import numpy as np

from routing import costs
from routing import protocols
from routing.features import observation
from routing.routers import promises

FORMAT_VERSION = 1
# Files of this format version have other names for two cost metrics. Card
# hashes include them, so new names would make every saved router unreadable.
_METRIC_ON_DISK = {'decoded_tokens': 'decoded', 'latency': 'seconds'}

Threshold = float | tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Card:
  """Everything that a router needs besides its arrays.

  specs: the A models it was trained for, smallest first.
  metric: cost metric of its constraint and of its cost features.
  reference: expected cost per problem of the largest model alone, in the unit
    of the cost metric.
  protocol: the decision process it was trained in.
  features: the observation that it computes.
  network: the `network` part of its configuration.
  form: 'budget' or 'reliability'.
  levels: the constraint level of each of the K policies.
  weights_sha256: one hash per model, from the manifest of the shards: the hash
    of the weights or, for a model behind an API, its name there. Empty in older
    cards; then only `specs` distinguish one pair of models from another.
  """

  specs: tuple[costs.RouteSpec, ...]
  metric: str
  reference: float
  protocol: protocols.Protocol
  features: observation.FeatureConfig
  network: Mapping[str, Any]
  form: str
  levels: tuple[float, ...]
  weights_sha256: tuple[str, ...] = ()

  @property
  def accounting(self) -> costs.Accounting:
    """The cost accounting that the router's cost features are based on."""
    return costs.Accounting(self.specs, self.metric, self.reference)

  def to_json(self) -> dict[str, Any]:
    """Returns JSON-like content, with lists for tuples."""
    content = {
        'format_version': FORMAT_VERSION,
        **dataclasses.asdict(self),
        'network': dict(self.network),
    }
    if not self.weights_sha256:
      del content['weights_sha256']  # Older cards, and their hash, lack it.
    features = content['features']
    # This format version says `max_steps` and `ruler`. Card hashes include the
    # names, so they stay.
    features['max_steps'] = features.pop('max_decisions')
    metric = content.pop('metric')
    content['ruler'] = _METRIC_ON_DISK.get(metric, metric)
    # Tuples become lists, so that a card equals the one read from its file.
    return json.loads(json.dumps(content))

  @classmethod
  def from_json(cls, content: Mapping[str, Any]) -> 'Card':
    """Returns the card that `to_json` wrote.

    Raises:
      ValueError: if it has another format version.
    """
    content = dict(content)
    version = content.pop('format_version', None)
    if version != FORMAT_VERSION:
      raise ValueError(
          f'The router has format version {version}; allowed: '
          f'{FORMAT_VERSION}. Load it with the package that wrote it.'
      )
    features = dict(content.pop('features'))
    features['max_decisions'] = features.pop('max_steps')
    metric = content.pop('ruler')
    named = {on_disk: name for name, on_disk in _METRIC_ON_DISK.items()}
    return cls(
        metric=named.get(metric, metric),
        specs=tuple(costs.RouteSpec(**spec) for spec in content.pop('specs')),
        protocol=protocols.Protocol(**content.pop('protocol')),
        features=observation.FeatureConfig(**features),
        levels=tuple(content.pop('levels')),
        weights_sha256=tuple(content.pop('weights_sha256', ())),
        **content,
    )


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
  """One policy of a router and a threshold, with what calibration promises.

  name: e.g. 'cost<=0.4'.
  policy_index: index into the levels of the router.
  threshold: hand over where the score reaches this; inf = never. A tuple gives
    one threshold per decision.
  promise: the quantity, level and delta, and the measured values with their
    number of problems; JSON-like.
  checkpoint_hash: hash of the router that was calibrated.
  shards_hash: hash of the `prove` records; empty if it was not recorded.
  """

  name: str
  policy_index: int
  threshold: Threshold
  promise: Mapping[str, Any]
  checkpoint_hash: str
  shards_hash: str = ''

  def __post_init__(self):
    # JSON has lists for tuples; the class is frozen.
    object.__setattr__(self, 'threshold', as_threshold(self.threshold))

  def __str__(self) -> str:
    """Returns one line with threshold, measured values and promises."""
    promise = self.promise
    line = (
        f'{self.name}: policy {self.policy_index}, threshold '
        f'{describe_threshold(self.threshold)}'
    )
    if measured := promise.get('measured'):
      figures = ', '.join(f'{k} {v:.3f}' for k, v in measured.items())
      line += f'; {figures} on {promise.get("n")} problems'
    entries = promise, *promise.get('also', ())
    # A point that was only chosen, not tested, must not read like a promise.
    if all(x.get('delta') is None for x in entries):
      return line
    return f'{line}; promised {promises.in_words(promise)}'


def as_threshold(value: float | Sequence[float]) -> Threshold:
  """Returns a float, or a tuple of floats with one threshold per decision.

  Raises:
    ValueError: if there is no threshold, or one is NaN.
  """
  # inf is allowed, and means never; NaN would silently mean the same.
  values = np.asarray(value, np.float64)
  if values.ndim > 1 or not values.size or np.isnan(values).any():
    raise ValueError(
        f'The threshold is {value}; allowed: a number, or one for each '
        'decision, none of them NaN.'
    )
  return tuple(values.tolist()) if values.ndim else float(values)


def threshold_at(threshold: Threshold, decision: int) -> float:
  """Returns the threshold of a decision, counted from 0.

  Raises:
    ValueError: if there are thresholds for fewer decisions.
  """
  if not isinstance(threshold, tuple):
    return threshold
  # No fallback to the last threshold: the promise was proved for these only.
  if decision >= len(threshold):
    raise ValueError(
        f'There is no threshold for decision {decision}; the operating point '
        f'has {len(threshold)}, for decisions 0 to {len(threshold) - 1}. '
        'Calibrate with more.'
    )
  return threshold[decision]


def describe_threshold(threshold: Threshold) -> str:
  """Returns e.g. '0.37', or '0.37, from decision 3 on 0.52'."""
  values = threshold if isinstance(threshold, tuple) else (threshold,)
  text, start = '', 0
  for value, run in itertools.groupby(values):
    text += f', from decision {start} on ' if start else ''
    text += f'{value:.4g}'
    start += len(list(run))
  return text


def read_points(path: pathlib.Path) -> tuple[OperatingPoint, ...]:
  """Returns the points of a points file; none if there is no file."""
  if not path.exists():
    return ()
  known = {field.name for field in dataclasses.fields(OperatingPoint)}
  found = []
  for entry in json.loads(path.read_text()):
    if 'member' in entry:  # Older files call the policy index so.
      entry['policy_index'] = entry.pop('member')
    # Unknown fields are skipped: later versions and users may add some.
    found.append(OperatingPoint(**{k: entry[k] for k in entry if k in known}))
  return tuple(found)


def check_points(
    points: Sequence[OperatingPoint], num_policies: int, checkpoint_hash: str
) -> None:
  """Checks that points belong to this router.

  Raises:
    ValueError: if a point was calibrated on another router.
  """
  for point in points:
    # A promise holds for the exact numbers that were calibrated.
    if point.checkpoint_hash != checkpoint_hash:
      raise ValueError(
          f'Operating point {point.name!r} was calibrated on checkpoint '
          f'{point.checkpoint_hash[:12]}, but this router is '
          f'{checkpoint_hash[:12]}; calibrate this router.'
      )
    if not 0 <= point.policy_index < num_policies:
      raise ValueError(
          f'Operating point {point.name!r} has policy {point.policy_index}; '
          f'allowed: 0 to {num_policies - 1}.'
      )


def hash_arrays(
    arrays: Mapping[str, np.ndarray], content: Mapping[str, Any]
) -> str:
  """Returns SHA-256 of array names, types, shapes and bytes, and the card."""
  digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
  # Sorted and contiguous, so that order and memory layout do not matter.
  for name in sorted(arrays):
    array = np.ascontiguousarray(arrays[name])
    digest.update(f'{name} {array.dtype} {array.shape}'.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()
