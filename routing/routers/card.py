"""What a trained router's numbers mean: pair, features, costs, promises."""

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
# What cost metrics are called in files of this format version.
_METRIC_ON_DISK = {'decoded_tokens': 'decoded', 'latency': 'seconds'}

Threshold = float | tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Card:
  """All that a router needs besides its arrays.

  specs: the A models it was trained for, smallest first.
  metric: of its constraint, and of what it is told it has spent.
  reference: expected all-large cost of a problem, in the cost metric's unit.
  protocol: the decision process it was trained in.
  features: what it observes.
  network: the `network` part of its configuration.
  form: 'budget' or 'reliability'.
  levels: one per member.
  weights_sha256: of each model, as the manifest of its shards names it: the
    hash of its weights or, behind an API, its name there. Empty in cards from
    before this was noted; then the specs alone tell pairs apart.
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
    """The books that the router must be told its spending from."""
    return costs.Accounting(self.specs, self.metric, self.reference)

  def to_json(self) -> dict[str, Any]:
    """JSON-like, with lists for tuples."""
    content = {
        'format_version': FORMAT_VERSION,
        **dataclasses.asdict(self),
        'network': dict(self.network),
    }
    if not self.weights_sha256:
      del content['weights_sha256']  # As in cards from before, and their hash.
    features = content['features']
    # Names in files of this format version, and so in the hashes of routers
    # that were saved with it.
    features['max_steps'] = features.pop('max_decisions')
    metric = content.pop('metric')
    content['ruler'] = _METRIC_ON_DISK.get(metric, metric)
    return json.loads(json.dumps(content))

  @classmethod
  def from_json(cls, content: Mapping[str, Any]) -> 'Card':
    """The inverse of `to_json`.

    Raises:
      ValueError: if it was written by another version of the format.
    """
    content = dict(content)
    version = content.pop('format_version', None)
    if version != FORMAT_VERSION:
      raise ValueError(
          f'The router has format version {version}; allowed: {FORMAT_VERSION}.'
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
  """A member and a threshold, and what calibration promises of them.

  name: e.g. 'cost<=0.4'.
  policy_index: index into the levels of the router.
  threshold: hand over where the score is at least this; inf = never. A tuple
    has one for each decision.
  promise: what holds, at which level, measured on how many; JSON-like.
  checkpoint_hash: of the router that was calibrated.
  shards_hash: of the records of `prove`; empty if nobody noted it.
  """

  name: str
  policy_index: int
  threshold: Threshold
  promise: Mapping[str, Any]
  checkpoint_hash: str
  shards_hash: str = ''

  def __post_init__(self):
    object.__setattr__(self, 'threshold', as_threshold(self.threshold))

  def __str__(self) -> str:
    """One line: where the point is, what was measured, what is promised."""
    promise = self.promise
    line = (
        f'{self.name}: member {self.policy_index}, threshold '
        f'{describe_threshold(self.threshold)}'
    )
    if measured := promise.get('measured'):
      figures = ', '.join(f'{k} {v:.3f}' for k, v in measured.items())
      line += f'; {figures} on {promise.get("n")} problems'
    entries = promise, *promise.get('also', ())
    if all(x.get('delta') is None for x in entries):
      return line
    return f'{line}; promised {promises.in_words(promise)}'


def as_threshold(value: float | Sequence[float]) -> Threshold:
  """A number, or a tuple with one for each decision.

  Raises:
    ValueError: if there is none, or one is NaN.
  """
  values = np.asarray(value, np.float64)
  if values.ndim > 1 or not values.size or np.isnan(values).any():
    raise ValueError(
        f'The threshold is {value}; allowed: a number, or one for each '
        'decision.'
    )
  return tuple(values.tolist()) if values.ndim else float(values)


def threshold_at(threshold: Threshold, decision: int) -> float:
  """The threshold of a decision, counted from 0.

  Raises:
    ValueError: if there are thresholds for fewer decisions.
  """
  if not isinstance(threshold, tuple):
    return threshold
  if decision >= len(threshold):
    raise ValueError(
        f'There is no threshold for decision {decision}; the operating point '
        f'has {len(threshold)}, from decision 0 on.'
    )
  return threshold[decision]


def describe_threshold(threshold: Threshold) -> str:
  """E.g. '0.37', or '0.37, from decision 3 on 0.52'."""
  values = threshold if isinstance(threshold, tuple) else (threshold,)
  text, start = '', 0
  for value, run in itertools.groupby(values):
    text += f', from decision {start} on ' if start else ''
    text += f'{value:.4g}'
    start += len(list(run))
  return text


def read_points(path: pathlib.Path) -> tuple[OperatingPoint, ...]:
  """The points of an `operating_points.json`; none if there is no file."""
  if not path.exists():
    return ()
  known = {field.name for field in dataclasses.fields(OperatingPoint)}
  found = []
  for entry in json.loads(path.read_text()):
    if 'member' in entry:  # The name in older files.
      entry['policy_index'] = entry.pop('member')
    found.append(OperatingPoint(**{k: entry[k] for k in entry if k in known}))
  return tuple(found)


def check_points(
    points: Sequence[OperatingPoint], num_policies: int, checkpoint_hash: str
) -> None:
  """Raises ValueError if a point was calibrated on another router."""
  for point in points:
    if point.checkpoint_hash != checkpoint_hash:
      raise ValueError(
          f'Operating point {point.name!r} was calibrated on checkpoint '
          f'{point.checkpoint_hash[:12]}, but this is {checkpoint_hash[:12]}; '
          'calibrate this one.'
      )
    if not 0 <= point.policy_index < num_policies:
      raise ValueError(
          f'Operating point {point.name!r} names member {point.policy_index}; '
          f'allowed: 0 to {num_policies - 1}.'
      )


def hash_arrays(
    arrays: Mapping[str, np.ndarray], content: Mapping[str, Any]
) -> str:
  """SHA-256 over names, types, shapes and bytes, and over the card."""
  digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
  for name in sorted(arrays):
    array = np.ascontiguousarray(arrays[name])
    digest.update(f'{name} {array.dtype} {array.shape}'.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()
