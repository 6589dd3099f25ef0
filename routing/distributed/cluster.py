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
          "start --head`, or set ray.address='' for this machine alone. A "
          'cluster that asks for a token needs RAY_AUTH_MODE=token here.'
      ) from error
  return ray


def deaths(ray: Any) -> tuple[type[Exception], ...]:
  """Returns what Ray raises where an actor died, alone or with its node."""
  found = ray.exceptions
  return (
      found.RayActorError,
      found.OutOfMemoryError,  # Ray's own monitor ended it.
      found.NodeDiedError,
      found.WorkerCrashedError,
      found.ObjectLostError,  # What it returned, with its node.
  )


def room(ray: Any, asked: Cluster) -> tuple[bool, str]:
  """Returns whether a node is large enough for an actor, and a description.

  Args:
    ray: the module, connected to a cluster.
    asked: what each actor needs.

  Returns:
    True if one node has as much, if nothing else runs there; and, in words,
    what an actor needs and what each node has.
  """
  nodes = [x['Resources'] for x in ray.nodes() if x['Alive']]
  has = [(x.get('CPU', 0), x.get('GPU', 0)) for x in nodes]
  fits = any(cpus >= asked.cpus and gpus >= asked.gpus for cpus, gpus in has)
  each = ', '.join(f'{cpus:g} and {gpus:g}' for cpus, gpus in has)
  return fits, (
      f'An actor needs {asked.cpus:g} cores and {asked.gpus:g} GPUs (ray.cpus, '
      f'ray.gpus). The nodes of the cluster have: {each or "none"}.'
  )
