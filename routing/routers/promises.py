"""Builds the names and sentences that say what an operating point promises."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any


def name_of(promises: Sequence[Any]) -> str:
  """Returns the name of an operating point, built from its promises.

  'loss<=0.05@0.9&cost<=0.6@0.9' promises each bound separately with probability
  0.9; 'loss<=0.05&cost<=0.6@0.9' promises both bounds at once with probability
  0.9. This probability still holds after one of `num_choices` points is chosen.

  Args:
    promises: risks or promises, each with `quantity`, `level`, `delta` (None =
      nothing is promised), `num_joint` and `num_choices`.
  """
  bare = [f'{x.quantity}<={x.level:g}' for x in promises]
  # Every delta is already divided by `num_joint` and `num_choices`. The name
  # gives the guarantee that the configuration asked for, so both divisions are
  # undone: by the sum over the promises (union bound) and by `num_choices`.
  if len(bare) > 1 and all(x.num_joint == len(bare) for x in promises):
    delta = sum(x.delta * x.num_choices for x in promises)
    return f'{"&".join(bare)}@{1 - delta:g}'
  return '&'.join(
      name if x.delta is None else f'{name}@{1 - x.delta * x.num_choices:g}'
      for name, x in zip(bare, promises, strict=True)
  )


def claim(promise: Any) -> str:
  """Returns a promise in words, e.g. 'loss <= 0.05 with probability 0.9'.

  A bound on the mean cost holds for capped costs only, and the text says so.

  Args:
    promise: JSON-like, with 'what', 'level', 'delta' and, for a cost,
      'cost_cap'; or an object whose `to_json` returns such a mapping.
  """
  content = _content(promise)
  what = content['what']
  if what == 'cost':
    what = 'mean cost'
    if (cap := content.get('cost_cap')) is not None:
      what += f", each problem's capped at {cap:g} times the large model's,"
  text = f'{what} <= {content["level"]:g}'
  if content.get('delta') is not None:
    return f'{text} with probability {1 - content["delta"]:g}'
  if content.get('is_marginal'):
    return f'{text} on average over calibration samples'
  return f'{text} on the problems it was chosen on, without a guarantee'


def in_words(promise: Any) -> str:
  """Returns a sentence on all promises of an operating point and their limits.

  Args:
    promise: JSON-like as in `claim`, with further promises in 'also'; or an
      object whose `to_json` returns such a mapping. 'joint_delta' is the
      probability that at least one of the promises is broken; default: the sum
      of their deltas. 'num_choices' is the number of points among which one may
      be chosen after seeing results; default: 1.
  """
  content = _content(promise)
  entries = [content, *content.get('also', ())]
  text = ' and '.join(claim(entry) for entry in entries)
  deltas = [x['delta'] for x in entries if x.get('delta') is not None]
  if not deltas:
    return text
  # Promises that were tested together state the probability that any of them is
  # broken. Otherwise the union bound applies: the sum of their deltas.
  total = content.get('joint_delta', sum(deltas))
  if len(deltas) > 1:
    text += (
        f'; jointly with probability {1 - total:g}'
        if total < 1
        else '; jointly without a guarantee'
    )
  if 'group' in content:
    text += f'; for problems of the group {content["group"]!r} only'
    if (delta := content.get('delta_of_all_groups')) is not None:
      text += f', for all groups at once with probability {1 - delta:g}'
  # Older files call 'num_choices' 'among'.
  num_choices = content.get('num_choices', content.get('among', 1))
  return f'{text}; {_choice(num_choices, total)}'


# Printed under every list of operating points, because choosing among points
# needs a correction.
OF_A_CHOICE = (
    'To choose one of G points or seeds after seeing their results, prove each '
    'at delta / G (set calibration.num_choices to G).'
)


def _choice(num_choices: int, delta: float) -> str:
  """Returns the clause that says if a choice among points is covered."""
  if num_choices == 1:
    return 'for this point alone, not for one chosen among several'
  # Union bound over the points that could have been chosen.
  probability = max(1 - delta * num_choices, 0.0)
  return (
      f'with probability {probability:g} also for the one chosen among up to '
      f'{num_choices} such points or seeds after seeing their results'
  )


def _content(promise: Any) -> Mapping[str, Any]:
  """Returns a promise as a mapping: itself, or what its `to_json` returns."""
  return promise if isinstance(promise, Mapping) else promise.to_json()
