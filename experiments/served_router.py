"""Whether a router fits the configuration that it is served with."""

from absl import logging
import ml_collections

from experiments import builders
from experiments import split_on_disk
from routing.routers import learned


def check(
    config: ml_collections.ConfigDict,
    router: learned.LearnedRouter,
    *,
    allow_other_pair: bool = False,
) -> dict[str, str]:
  """Checks that the router was made for this configuration.

  Args:
    config: of the service.
    router: the router.
    allow_other_pair: True = other models in the place of those that the router
      was trained for are only warned about.

  Returns:
    Name of an operating point -> why its promise holds for no answer of this
    configuration. Points whose promise may hold are left out.

  Raises:
    ValueError: if the router was made for another configuration.
  """
  card, protocol = router.card, builders.protocol(config)
  if card.protocol != protocol or card.metric != config.cost_metric:
    raise ValueError(
        f'The router is for {card.protocol.name}, {card.protocol.view}, and '
        f'the cost metric {card.metric!r}; the configuration has '
        f'{protocol.name}, {protocol.view}, and {config.cost_metric!r}.'
    )
  asked, trained = (
      builders.sampling(config).max_decisions,
      card.features.max_decisions,
  )
  if asked > trained:
    raise ValueError(
        f'protocol.max_decisions is {asked}; the router was trained for at '
        f'most {trained}.'
    )
  try:
    _check_pair(config, router)
  except ValueError as error:
    if not allow_other_pair or len(config.routes) != len(card.specs):
      raise
    logging.warning(
        '%s Served all the same: none of its promises holds for them.', error
    )
    reason = 'The models are not those of the calibration.'
    return {point.name: reason for point in router.points}
  return _asked_otherwise(config, router)


def _check_pair(
    config: ml_collections.ConfigDict, router: learned.LearnedRouter
) -> None:
  """Raises ValueError unless the router was trained for these models."""
  card = router.card
  names = [spec.name for spec in builders.specs(config)]
  if names != [spec.name for spec in card.specs]:
    raise ValueError(
        f'The router is for {[spec.name for spec in card.specs]}, the '
        f'configuration has the routes {names}.'
    )
  split_on_disk.check_weights(
      card, builders.model_identities(config), 'The configuration is'
  )


def _asked_otherwise(
    config: ml_collections.ConfigDict, router: learned.LearnedRouter
) -> dict[str, str]:
  """Returns the points for whose calibration models were asked otherwise."""
  present, found = builders.asking_key(config), {}
  for point in router.points:
    # Older files do not say how models were asked.
    differing = [
        name for name, value in point.asking.items() if present[name] != value
    ]
    if differing:
      names = ' and '.join(_ASKING[name] for name in differing)
      found[point.name] = f'The configured {names} differ from the calibration.'
  if found:
    logging.warning(
        'The promises of these points do not hold as models are asked here: '
        '%s.',
        '; '.join(f'{name}: {reason}' for name, reason in found.items()),
    )
  return found


_ASKING = {'sampling': 'sampling settings', 'routes': 'prompts of the routes'}
