"""A cluster of Ray: what is asked of it, and the connection to it."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Cluster:
  """How the actors are spread; the fields of `config.ray`.

  address: of a running cluster, 'auto' = the one that this machine belongs to,
    '' = none: this machine alone.
  actors: at most; fewer are started where fewer problems are left.
  cpus: processor cores of each actor.
  gpus: of each actor; a fraction, where several share one.
  problems: handed out at a time.
  """

  address: str = ''
  actors: int = 2
  cpus: float = 1.0
  gpus: float = 0.0
  problems: int = 16

  def __post_init__(self):
    for name in ('actors', 'problems'):
      if getattr(self, name) < 1:
        raise ValueError(f'ray.{name} is {getattr(self, name)}; allowed: >= 1.')
    for name in ('cpus', 'gpus'):
      if getattr(self, name) < 0:
        raise ValueError(f'ray.{name} is {getattr(self, name)}; allowed: >= 0.')


def start(asked: Cluster) -> Any:
  """Returns the module `ray`, connected to the cluster.

  Raises:
    ValueError: if Ray is not installed, or there is no cluster at the address.
  """
  try:
    import ray
  except ImportError as error:
    raise ValueError(
        "launcher 'ray' needs the extra `ray`: pip install -e '.[ray]'."
    ) from error
  if not ray.is_initialized():
    try:
      ray.init(address=asked.address or 'local', log_to_driver=False)
    except ConnectionError as error:
      raise ValueError(
          f'ray.address is {asked.address!r}: {error} Start one with `ray '
          "start --head`, or set ray.address='' for this machine alone."
      ) from error
  return ray
