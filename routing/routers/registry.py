"""The methods that a comparison can run, by name.

A router of this repository is one file and one line here. Any other needs no
registration: 'my_router:MINE' names the `router.Method` MINE of a module that
Python finds. An installed package may also bring one by an entry point of the
group 'routing.routers', whose name is the method's:

  [project.entry-points.'routing.routers']
  mine = 'my_package.my_router:METHOD'
"""

import importlib
from importlib import metadata
from typing import Any

from routing.routers import router as router_lib

GROUP = 'routing.routers'

# Name -> 'module:object'. Names, not imports: a method is loaded when it is
# asked for, and those of others may need packages of their own.
METHODS = {
    'policy': 'routing.routers.entrants:POLICY',
    'fitted Q, trees': 'routing.routers.entrants:FITTED_Q_TREES',
    'fitted Q, linear': 'routing.routers.entrants:FITTED_Q_LINEAR',
    'boosting': 'routing.routers.entrants:BOOSTING',
    'confidence': 'routing.routers.entrants:CONFIDENCE',
    'confidence, mean': 'routing.routers.entrants:CONFIDENCE_MEAN',
    'confidence, first token': 'routing.routers.entrants:CONFIDENCE_FIRST',
    'fixed step': 'routing.routers.entrants:FIXED_STEP',
    'random per step': 'routing.routers.entrants:RANDOM_PER_STEP',
    'random per question': 'routing.routers.entrants:RANDOM_PER_QUESTION',
    'small alone': 'routing.routers.entrants:SMALL',
    'large alone': 'routing.routers.entrants:LARGE',
    'best constant': 'routing.routers.entrants:BEST_CONSTANT',
    'RouteLLM, matrix factorisation': (
        'third_party.routellm.methods:MATRIX_FACTORISATION'
    ),
    'RouteLLM, classifier': 'third_party.routellm.methods:CLASSIFIER',
    'nearest questions': 'third_party.knn_router.methods:NEAREST',
    'FrugalGPT': 'third_party.frugalgpt.methods:CASCADE',
    'RSD': 'third_party.rsd.methods:METHOD',
    'GlimpRouter': 'third_party.glimprouter.methods:METHOD',
    'STEER': 'third_party.steer.methods:METHOD',
    'SpecReason': 'third_party.specreason.methods:METHOD',
    'KnowNo': 'third_party.knowno.methods:METHOD',
    'AutoMix': 'third_party.automix.methods:METHOD',
    'TRIM, threshold': 'third_party.trim.methods:THRESHOLD',
    'TRIM, POMDP': 'third_party.trim.methods:POMDP',
    'TRIM, aggregate': 'third_party.trim.learned:AGGREGATE',
    'TRIM, sequence': 'third_party.trim.learned:SEQUENCE',
    'self-consistency': 'third_party.self_consistency.methods:METHOD',
    'repeated sampling, any right': (
        'third_party.self_consistency.methods:ANY_RIGHT'
    ),
    'speculative sampling': 'third_party.speculative_sampling.methods:METHOD',
    'token router': 'third_party.token_router.methods:METHOD',
    'power sampling': 'third_party.power_sampling.methods:METHOD',
}


def _entry_points() -> dict[str, metadata.EntryPoint]:
  """Returns the entry points of other packages, by name."""
  return {x.name: x for x in metadata.entry_points(group=GROUP)}


def names() -> list[str]:
  """Returns the names of all methods, ours first."""
  return [*METHODS, *(x for x in _entry_points() if x not in METHODS)]


def load(name: str) -> router_lib.Method:
  """Returns the method of a name, or of 'module:object'.

  Raises:
    ValueError: if there is none, if a package brings a name that is taken here,
      or if what it brings is no `router.Method`.
  """
  outside = _entry_points()
  if name in METHODS and name in outside:
    raise ValueError(
        f'The entry point {name!r} of {outside[name].value} has the name of a '
        'router of this package; give it another one.'
    )
  if name in METHODS:
    found = _imported(METHODS[name])
  elif name in outside:
    found = outside[name].load()
  elif ':' in name:
    try:
      found = _imported(name)
    except (ImportError, AttributeError) as error:
      raise ValueError(
          f'The router {name!r} cannot be loaded: {error}. Is its module in '
          'the current directory, or installed?'
      ) from error
  else:
    raise ValueError(
        f"Unknown router {name!r}; allowed: 'module:object', or "
        f'{", ".join(names())}.'
    )
  if not isinstance(found, router_lib.Method):
    raise ValueError(
        f'The router {name!r} is a {type(found).__name__}; allowed: a '
        'routing.routers.router.Method.'
    )
  own = METHODS.get(found.name)
  if own and found is not _imported(own):
    raise ValueError(
        f'The router {name!r} is called {found.name!r}, as a router of this '
        'package is; give it another name.'
    )
  return found


def _imported(place: str) -> Any:
  """Returns the object that 'module:object' names."""
  module, _, attribute = place.partition(':')
  return getattr(importlib.import_module(module), attribute)
