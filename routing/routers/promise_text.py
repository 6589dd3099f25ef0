"""What a promise says, in one sentence; the only place that words it."""

from collections.abc import Mapping
from typing import Any

_QUANTITIES = {
    'loss': 'mean relative loss',
    'cost': 'mean cost',
    'miscoverage': 'mean miscoverage',
}


def statement(
    quantity: str, level: float, delta: float | None, cost_cap: float | None
) -> str:
  """What is promised of one quantity.

  E.g. "mean cost, each problem's capped at 2 times the large model's, <= 0.6
  with probability 0.9".

  Args:
    quantity: 'loss', 'cost' or 'miscoverage'.
    level: that its mean must not exceed.
    delta: chance that the promise is broken; None = no probability is named.
    cost_cap: dearer problems count as this; None = no cap.
  """
  text = _QUANTITIES.get(quantity, quantity)
  if quantity == 'cost' and cost_cap is not None:
    text += f", each problem's capped at {cost_cap:g} times the large model's,"
  text += f' <= {level:g}'
  return text if delta is None else f'{text} with probability {1 - delta:g}'


def sentence(promise: Mapping[str, Any]) -> str:
  """All that the promise of an operating point says; '' if it promises nothing.

  Args:
    promise: as `operating_points.json` has it.
  """
  parts = [promise, *promise.get('also', ())]
  if promise.get('delta') is None:
    return ''
  said = [
      statement(
          x['what'],
          x['level'],
          None if promise.get('is_joint') else x['delta'],
          x.get('cost_cap'),
      )
      for x in parts
  ]
  text = f'promised {" and ".join(said)}'
  if len(parts) > 1:
    joint = promise['joint_delta']
    # Both hold together with this much; each by itself with more, if so named.
    mark = ',' if promise.get('is_joint') else ';'
    text += f'{mark} jointly with probability {1 - joint:g}'
  among = promise.get('among', 1)
  if among > 1:
    return f'{text}, for whichever of {among} points or seeds is chosen'
  return f'{text}, for this point by itself'
