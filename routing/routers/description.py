"""Describes a trained router in lines of text."""

from typing import Any

from routing.routers import card as card_lib
from routing.routers import promises


def of(router: Any) -> str:
  """Returns what a `LearnedRouter` consists of and what its points promise."""
  card = router.card
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
      f'  checkpoint  {router.checkpoint_hash[:12]}',
      f'  now at      policy {router.policy_index}, threshold '
      f'{card_lib.describe_threshold(router.threshold)}',
  ]
  if router.is_restricted:
    available = ', '.join(card.specs[route].name for route in router.routes)
    lines.append(f'  available   {available} only; no promise holds')
  lines.append(
      '  operating points' + ('' if router.points else ': not calibrated')
  )
  lines += [f'    {point}' for point in router.points]
  if any(point.promise.get('delta') for point in router.points):
    lines.append(f'    {promises.OF_A_CHOICE}')
  return '\n'.join(lines)
