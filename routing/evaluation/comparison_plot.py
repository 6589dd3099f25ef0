"""Plots the curves of all routers of a comparison, and their areas."""

import collections
from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
from typing import Any

import numpy as np

from routing.evaluation import plots
from routing.evaluation import style

# No palette has as many colours as there are routers, so a colour says what a
# router needs: name of a need -> (the same in the legend, colour). Of several
# needs the first in this order counts. Line styles tell apart what shares a
# colour.
_LOOKS = {
    'next-token distributions': ('next-token distributions', '#CC79A7'),
    'samples': ('several answers', '#56B4E9'),
    'step score': ('a score of each step', '#D55E00'),
    'judge': ('a score of each step', '#D55E00'),
    'embedding': ('an embedding of the question', '#009E73'),
    'probe': ('a token of the next step', '#E69F00'),
    'log-probabilities': ('log-probabilities of steps', '#0072B2'),
    # A draft is text, which every router reads.
    'draft': ('nothing', '#8C8C8C'),
    '': ('nothing', '#8C8C8C'),
}
_LINES = ('-', '--', '-.', ':')
_REFERENCE = dict(color='#000000', linewidth=2.6, zorder=9)
# The policy in further protocols, or where another router is the reference.
_POLICY = dict(color='#000000', linewidth=2.0, zorder=8)
_POLICY_LINES = ('--', '-.', (0, (6, 1)), (0, (3, 1, 1, 1)))
_ORACLE = dict(color='#000000', linestyle=':', linewidth=1.2)


def plot(content: Mapping[str, Any], path: pathlib.Path | str) -> None:
  """Plots a comparison in its cost metric, to a PNG file.

  Left: accuracy against cost; only the reference has its 95 % band, because
  twenty bands would hide one another. Right: the area of each router with its
  95 % interval.
  """
  pyplot = plots.load_pyplot()
  metric = content['cost_metric']
  methods = content['cost_metrics'][metric]['methods']
  names = _by_area(methods)
  figure, (left, right) = pyplot.subplots(
      1, 2, figsize=(12.0, 5.2), width_ratios=(1.1, 1), layout='constrained'
  )
  styles = _styles(names, content)
  for name in names:
    _curve(left, methods[name]['curve'], styles[name])
  band = methods[content['reference']]['curve']
  left.fill_between(
      band['cost'], band['low'], band['high'], color='#000000', alpha=0.12
  )
  plots.clean_axes(left, metric)
  left.set_ylabel('accuracy', fontsize=9)
  left.set_xlim(0, style.MAX_COST)
  left.set_title(
      f'{content["num_problems"]:,} test problems; band: 95 % interval of the '
      f'{style.LABELS.get(content["reference"], content["reference"])}',
      fontsize=9,
      loc='left',
  )
  _legend(pyplot, left, content)
  _areas(right, methods, names, styles)
  figure.savefig(path, dpi=160, format='png')
  pyplot.close(figure)


def _by_area(methods: Mapping[str, Any]) -> list[str]:
  """Returns the names by ascending area; those without one come first."""
  area = lambda name: (methods[name]['area'] or {}).get('mean') or 0.0
  return sorted(methods, key=area)


def _need(content: Mapping[str, Any], name: str) -> tuple[str, str]:
  """Returns what a router needs, as the legend calls it, and its colour.

  Raises:
    ValueError: if a need has no colour.
  """
  facts = content['routers'][name]
  # Files from before the list have the text only, in which '-' is no need.
  words = facts['needs'].removeprefix('-').split(', ')
  # The number of samples stands before the word.
  needs = {x.lstrip('0123456789 ') for x in facts.get('need_names', words)}
  if unknown := needs - _LOOKS.keys():
    raise ValueError(
        f'{name} needs {", ".join(sorted(unknown))}; the plot has colours for '
        f'{", ".join(filter(None, _LOOKS))}.'
    )
  return next(x for need, x in _LOOKS.items() if need in needs or not need)


def _styles(
    names: Sequence[str], content: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
  """Returns how the curve of each router is drawn."""
  styles, counts = {}, collections.Counter()
  for name in reversed(names):
    if name == content['reference']:
      styles[name] = _REFERENCE
    elif name not in content['routers']:
      styles[name] = _ORACLE
    elif style.is_policy(name):
      line = _POLICY_LINES[counts[style.REFERENCE] % len(_POLICY_LINES)]
      styles[name] = dict(_POLICY, linestyle=line)
      counts[style.REFERENCE] += 1
    else:
      _, colour = _need(content, name)
      line = _LINES[counts[colour] % len(_LINES)]
      styles[name] = dict(color=colour, linestyle=line, linewidth=1.3)
      counts[colour] += 1
  return styles


def _legend(pyplot, axes, content: Mapping[str, Any]) -> None:
  """Explains the colours that occur."""
  shown = {_need(content, name) for name in content['routers']}
  colours = dict(x for x in _LOOKS.values() if x in shown)
  axes.legend(
      [pyplot.Line2D([], [], color=x, linewidth=2) for x in colours.values()],
      colours,
      title='besides the texts, a router needs',
      title_fontsize=8,
      alignment='left',
      fontsize=8,
      frameon=False,
      loc='lower right',
  )


def _curve(axes, curve: Mapping[str, Any], style: Mapping[str, Any]) -> None:
  """Draws a curve, or a point where the router has a single knob."""
  if curve['cost'][0] == curve['cost'][-1]:
    where = curve['cost'][0], curve['accuracy'][0]
    axes.plot(*where, 'o', markersize=5, color=style['color'], zorder=8)
  else:
    axes.plot(curve['cost'], curve['accuracy'], **style)


def _areas(
    axes,
    methods: Mapping[str, Any],
    names: Sequence[str],
    styles: Mapping[str, Mapping[str, Any]],
) -> None:
  """Draws the area of each router with its interval, the best at the top."""
  for height, name in enumerate(names):
    area = methods[name]['area']
    if area is not None:
      error = np.array(
          [[area['mean'] - area['low']], [area['high'] - area['mean']]]
      )
      axes.errorbar(
          area['mean'],
          height,
          xerr=np.maximum(error, 0.0),
          fmt='o',
          markersize=4,
          capsize=2,
          color=styles[name]['color'],
      )
    # The line style of the curve stands beside the name.
    axes.plot(
        [-0.04, -0.005],
        [height, height],
        transform=axes.get_yaxis_transform(),
        clip_on=False,
        **styles[name],
    )
  axes.set_yticks(
      range(len(names)), [f'{style.LABELS.get(x, x)}     ' for x in names]
  )
  axes.spines[['top', 'right', 'left']].set_visible(False)
  axes.tick_params(axis='y', length=0, labelsize=8, colors=style.INK)
  axes.tick_params(axis='x', labelsize=8, colors=style.INK)
  axes.grid(axis='x', color=style.GRID, linewidth=0.8)
  axes.set_axisbelow(True)
  axes.set_xlabel('area: mean accuracy over costs .2 to .8', fontsize=9)
