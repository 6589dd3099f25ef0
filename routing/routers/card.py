"""What a trained router's numbers mean: pair, features, rulers, promises."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import numpy as np

from routing import costs
from routing import protocols
from routing.features import observation

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Card:
  """All that a router needs besides its arrays.

  specs: the A models it was trained for, smallest first.
  ruler: of its constraint, and of what it is told it has spent.
  reference: expected all-large cost of a problem, in the ruler's unit.
  protocol: the decision process it was trained in.
  features: what it observes.
  network: the `network` part of its configuration.
  form: 'budget' or 'reliability'.
  levels: one per member.
  """

  specs: tuple[costs.RouteSpec, ...]
  ruler: str
  reference: float
  protocol: protocols.Protocol
  features: observation.FeatureConfig
  network: Mapping[str, Any]
  form: str
  levels: tuple[float, ...]

  @property
  def accounting(self) -> costs.Accounting:
    """The books that the router must be told its spending from."""
    return costs.Accounting(self.specs, self.ruler, self.reference)

  def to_json(self) -> dict[str, Any]:
    """JSON-like, with lists for tuples."""
    return json.loads(
        json.dumps(
            {
                'format_version': FORMAT_VERSION,
                **dataclasses.asdict(self),
                'network': dict(self.network),
            }
        )
    )

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
    return cls(
        specs=tuple(costs.RouteSpec(**spec) for spec in content.pop('specs')),
        protocol=protocols.Protocol(**content.pop('protocol')),
        features=observation.FeatureConfig(**content.pop('features')),
        levels=tuple(content.pop('levels')),
        **content,
    )


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
  """A member and a threshold, and what calibration promises of them.

  name: e.g. 'cost<=0.4'.
  member: index into the levels of the router.
  threshold: hand over where the score is at least this; inf = never.
  promise: what holds, at which level, measured on how many; JSON-like.
  checkpoint_hash: of the router that was calibrated.
  """

  name: str
  member: int
  threshold: float
  promise: Mapping[str, Any]
  checkpoint_hash: str


def read_points(path: pathlib.Path) -> tuple[OperatingPoint, ...]:
  """The points of an `operating_points.json`; none if there is no file."""
  if not path.exists():
    return ()
  known = {field.name for field in dataclasses.fields(OperatingPoint)}
  return tuple(
      OperatingPoint(**{k: v for k, v in entry.items() if k in known})
      for entry in json.loads(path.read_text())
  )


def check_points(
    points: Sequence[OperatingPoint], num_members: int, checkpoint_hash: str
) -> None:
  """Raises ValueError if a point was calibrated on another router."""
  for point in points:
    if point.checkpoint_hash != checkpoint_hash:
      raise ValueError(
          f'Operating point {point.name!r} was calibrated on checkpoint '
          f'{point.checkpoint_hash[:12]}, but this is {checkpoint_hash[:12]}; '
          'calibrate this one.'
      )
    if not 0 <= point.member < num_members:
      raise ValueError(
          f'Operating point {point.name!r} names member {point.member}; '
          f'allowed: 0 to {num_members - 1}.'
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
