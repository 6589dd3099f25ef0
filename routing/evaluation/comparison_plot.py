"""Plots the curves of all routers of a comparison, with their intervals."""

from collections.abc import Mapping
import pathlib
from typing import Any

from routing.evaluation import plots
from routing.evaluation import tables

# More colours than any palette that stays readable; line styles tell apart what
# shares a colour.
_LINES = ('-', '--', '-.', ':')


def plot(content: Mapping[str, Any], path: pathlib.Path | str) -> None:
  """Plots accuracy against cost in the comparison's cost metric, to a file."""
  pyplot = plots.load_pyplot()
  metric = content['cost_metric']
  found = content['cost_metrics'][metric]['methods']
  # The reference is drawn last, on top.
  names = [x for x in found if x != content['reference']]
  names.append(content['reference'])
  figure, axes = pyplot.subplots(figsize=(8.4, 5.0), layout='constrained')
  colours = pyplot.get_cmap('tab10').colors
  for index, name in enumerate(names):
    curve = found[name]['curve']
    is_reference = name == content['reference']
    style = dict(
        color='#000000' if is_reference else colours[index % len(colours)],
        linestyle=_LINES[index // len(colours) % len(_LINES)],
        linewidth=2.4 if is_reference else 1.3,
    )
    label = tables.LABELS.get(name, name)
    if curve['cost'][0] == curve['cost'][-1]:  # A single point.
      error = [
          [curve['accuracy'][0] - curve['low'][0]],
          [curve['high'][0] - curve['accuracy'][0]],
      ]
      axes.errorbar(
          curve['cost'][0],
          curve['accuracy'][0],
          yerr=error,
          fmt='o',
          markersize=4,
          color=style['color'],
          label=label,
      )
      continue
    axes.fill_between(
        curve['cost'],
        curve['low'],
        curve['high'],
        color=style['color'],
        alpha=0.12,
        linewidth=0,
    )
    axes.plot(curve['cost'], curve['accuracy'], label=label, **style)
  plots.clean_axes(axes, metric)
  axes.set_ylabel('accuracy', fontsize=9)
  axes.set_xlim(0, 1.3)
  axes.set_title(
      f'{content["num_problems"]:,} test problems; bands: 95 % intervals',
      fontsize=9,
      loc='left',
  )
  figure.legend(loc='outside right upper', fontsize=7, frameon=False)
  figure.savefig(path, dpi=160, format='png')
  pyplot.close(figure)
