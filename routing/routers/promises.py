"""Names and sentences for what an operating point promises."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any


def name_of(promises: Sequence[Any]) -> str:
  """Returns the name of a point, made of what it promises.

  'loss<=0.05@0.9&cost<=0.6@0.9' promises each by itself with probability 0.9;
  'loss<=0.05&cost<=0.6@0.9' promises both at once with probability 0.9. The
  probability is the one that holds after a choice among `num_choices` points.

  Args:
    promises: risks or promises, each with `quantity`, `level`, `delta` (None =
      nothing is promised), `num_joint` and `num_choices`.
  """
  bare = [f'{x.quantity}<={x.level:g}' for x in promises]
  if len(bare) > 1 and all(x.num_joint == len(bare) for x in promises):
    delta = sum(x.delta * x.num_choices for x in promises)
    return f'{"&".join(bare)}@{1 - delta:g}'
  return '&'.join(
      name if x.delta is None else f'{name}@{1 - x.delta * x.num_choices:g}'
      for name, x in zip(bare, promises, strict=True)
  )


def claim(promise: Any) -> str:
  """Returns one claim, e.g. 'loss <= 0.05 with probability 0.9'.

  A promise about cost is about the mean of capped costs, and the claim says so.

  Args:
    promise: JSON-like, with 'what', 'level', 'delta' and, for a cost,
      'cost_cap'; or an object whose `to_json` returns this.
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
  return f'{text} on the problems it was chosen on, which promises nothing'


def in_words(promise: Any) -> str:
  """Returns all that a point promises, and what this does not cover.

  Args:
    promise: JSON-like as in `claim`, with further promises in 'also'; or an
      object whose `to_json` returns this. 'joint_delta' is the chance that any
      of several promises is broken, their sum if it is missing; 'among' is the
      number of points that may be chosen among, 1 if it is missing.
  """
  content = _content(promise)
  entries = [content, *content.get('also', ())]
  text = ' and '.join(claim(entry) for entry in entries)
  deltas = [x['delta'] for x in entries if x.get('delta') is not None]
  if not deltas:
    return text
  total = content.get('joint_delta', sum(deltas))
  if len(deltas) > 1:
    text += (
        f'; jointly with probability {1 - total:g}'
        if total < 1
        else '; jointly nothing'
    )
  if 'group' in content:
    text += f'; for problems of {content["group"]!r} alone'
    if (delta := content.get('delta_of_all_groups')) is not None:
      text += f', for all groups at once with probability {1 - delta:g}'
  # 'among' in files of before.
  num_choices = content.get('num_choices', content.get('among', 1))
  return f'{text}; {_choice(num_choices, total)}'


# What a list of points says once, of them all.
OF_A_CHOICE = (
    'Whoever picks one of G points or seeds after seeing them needs each at '
    'delta / G (calibration.num_choices).'
)


def _choice(num_choices: int, delta: float) -> str:
  """Who may pick this point after seeing others, and still has the promise."""
  if num_choices == 1:
    return 'for this point alone, not for one picked among several'
  kept = max(1 - delta * num_choices, 0.0)
  return (
      f'whoever picks one of {num_choices} such points or seeds after seeing '
      f'them still has this with probability {kept:g}; more than {num_choices} '
      'are not covered'
  )


def _content(promise: Any) -> Mapping[str, Any]:
  return promise if isinstance(promise, Mapping) else promise.to_json()
