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
# Files of this format version use other names for two cost metrics. Card hashes
# include these names, so new ones would make every saved router unreadable.
_METRIC_ON_DISK = {'decoded_tokens': 'decoded', 'latency': 'seconds'}

# One threshold for all decisions, or one per decision.
Threshold = float | tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Card:
  """Everything that a router needs besides its arrays.

  specs: the A models that the router was trained for, smallest first.
  metric: cost metric of the constraint and of the cost features.
  reference: expected cost per problem of the largest model alone, in the unit
    of the cost metric.
  protocol: the protocol that the router was trained in.
  features: the features that the router computes.
  network: the `network` part of the configuration.
  form: the constrained objective. 'budget' bounds the mean cost, 'reliability'
    the relative loss.
  levels: the constraint level (a budget or a risk) of each of the K policies.
  weights_sha256: one hash per model, from the manifest of the shards: the hash
    of the weights or, for a model behind an API, the model's name there. Empty
    in older cards; only `specs` then distinguish one pair of models from
    another.
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
    """The cost accounting that the cost features are computed from."""
    return costs.Accounting(self.specs, self.metric, self.reference)

  def to_json(self) -> dict[str, Any]:
    """Returns the card as JSON-like content, with lists for tuples."""
    content: dict[str, Any] = {
        'format_version': FORMAT_VERSION,
        **dataclasses.asdict(self),
        'network': dict(self.network),
    }
    if not self.weights_sha256:
      # Older cards lack the key, and their hashes must stay the same.
      del content['weights_sha256']
    features = content['features']
    # In this format version `max_decisions` is called `max_steps` and `metric`
    # is called `ruler`. Card hashes include the names, so the names stay.
    features['max_steps'] = features.pop('max_decisions')
    metric = content.pop('metric')
    content['ruler'] = _METRIC_ON_DISK.get(metric, metric)
    # Tuples become lists, so that a card equals the one read from its file.
    return json.loads(json.dumps(content))

  @classmethod
  def from_json(cls, content: Mapping[str, Any]) -> 'Card':
    """Returns the card with the content that `to_json` returned.

    Raises:
      ValueError: if the content has another format version.
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
  """A policy of a router and a threshold, with what calibration promises.

  name: e.g. 'cost<=0.4'; see `promises.name_of`.
  policy_index: index of the policy, in 0..K-1.
  threshold: hand over where the score reaches this; inf = never. A tuple gives
    one threshold per decision.
  promise: JSON-like; quantity, level and delta of the promise, and values
    measured in calibration with their number of problems.
  checkpoint_hash: hash of the router that was calibrated.
  shards_hash: hash of the `prove` records; empty if no hash was recorded.
  asking: JSON-like; how models were asked in calibration: the sampling, and how
    each route puts a question. A promise holds for no other way. Empty in older
    files, which do not say it.
  """

  name: str
  policy_index: int
  threshold: Threshold
  promise: Mapping[str, Any]
  checkpoint_hash: str
  shards_hash: str = ''
  asking: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    # JSON has lists for tuples, so the threshold is converted. The class is
    # frozen, hence `object.__setattr__`.
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
    # A point that was chosen without a test promises nothing, and its line must
    # not read like a promise.
    if all(x.get('delta') is None for x in entries):
      return line
    return f'{line}; promised {promises.in_words(promise)}'


def as_threshold(value: float | Sequence[float]) -> Threshold:
  """Converts a threshold to a float, or one per decision to a tuple of floats.

  Raises:
    ValueError: if there is no threshold, or a threshold is NaN.
  """
  # inf is allowed and never hands over. NaN would silently do the same, since
  # every comparison with NaN is False.
  values = np.asarray(value, np.float64)
  if values.ndim > 1 or not values.size or np.isnan(values).any():
    raise ValueError(
        f'The threshold is {value}; allowed: a number, or one for each '
        'decision, none of them NaN.'
    )
  return tuple(values.tolist()) if values.ndim else float(values)


def threshold_at(threshold: Threshold, decision: int) -> float:
  """Returns the threshold that applies at a decision, counted from 0.

  Raises:
    ValueError: if the thresholds end before this decision.
  """
  if not isinstance(threshold, tuple):
    return threshold
  # Reusing the last threshold would be wrong: the promise was proved for the
  # given thresholds only.
  if decision >= len(threshold):
    raise ValueError(
        f'There is no threshold for decision {decision}; the operating point '
        f'has {len(threshold)}, for decisions 0 to {len(threshold) - 1}. '
        'Calibrate with more thresholds.'
    )
  return threshold[decision]


def describe_threshold(threshold: Threshold) -> str:
  """Returns a threshold as text: '0.37', or '0.37, from decision 3 on 0.52'."""
  values = threshold if isinstance(threshold, tuple) else (threshold,)
  text, start = '', 0
  for value, run in itertools.groupby(values):
    text += f', from decision {start} on ' if start else ''
    text += f'{value:.4g}'
    start += len(list(run))
  return text


def read_points(path: pathlib.Path) -> tuple[OperatingPoint, ...]:
  """Reads operating points; returns an empty tuple if there is no file."""
  if not path.exists():
    return ()
  known = {field.name for field in dataclasses.fields(OperatingPoint)}
  found = []
  for entry in json.loads(path.read_text()):
    if 'member' in entry:  # The name of `policy_index` in older files.
      entry['policy_index'] = entry.pop('member')
    # Unknown fields are skipped, because later versions and users may add them.
    found.append(OperatingPoint(**{k: entry[k] for k in entry if k in known}))
  return tuple(found)


def check_points(
    points: Sequence[OperatingPoint], num_policies: int, checkpoint_hash: str
) -> None:
  """Checks that operating points belong to one router.

  Args:
    points: the operating points.
    num_policies: K of the router.
    checkpoint_hash: hash of the router's arrays and card.

  Raises:
    ValueError: if a point was calibrated on another router.
  """
  for point in points:
    # A promise holds only for the exact weights that were calibrated.
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
  """Returns the SHA-256 of a router's arrays and of its card.

  Args:
    arrays: name -> array; names, types, shapes and bytes enter the hash.
    content: the card as JSON-like content.
  """
  digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
  # Arrays are sorted by name and made contiguous, so that order and memory
  # layout do not change the hash.
  for name in sorted(arrays):
    array = np.ascontiguousarray(arrays[name])
    digest.update(f'{name} {array.dtype} {array.shape}'.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()
