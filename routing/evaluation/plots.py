"""Plots accuracy against cost, from the content of `results.json`."""

from collections.abc import Mapping
import pathlib
from typing import Any

import numpy as np

from routing.evaluation import style


def load_pyplot():
  """Imports pyplot, which is slow to load, with a backend for servers."""
  import matplotlib

  # Reports are written on servers; the backend 'Agg' needs no display.
  matplotlib.use('Agg')
  from matplotlib import pyplot

  return pyplot


def _draw_curves(axes, figures: Mapping[str, Any]) -> None:
  """Draws the curves of all methods, the policy's 95 % band and both models."""
  methods = figures['methods']
  # Later calls draw on top, so the first style comes last.
  for name in reversed(style.STYLES):
    if name not in methods:
      continue
    curve, look = methods[name]['curve'], style.STYLES[name]
    if name == style.REFERENCE:
      axes.fill_between(
          curve['cost'],
          curve['low'],
          curve['high'],
          color=look['color'],
          alpha=0.18,
          linewidth=0,
      )
    axes.plot(
        curve['cost'],
        curve['accuracy'],
        zorder=4 if name == style.REFERENCE else 3,
        label=style.LABELS[name],
        **look,
    )
  anchors = figures['anchors']
  for model, offset, side in (
      ('small', (6, -12), 'left'),
      ('large', (-3, 6), 'right'),
  ):
    where = anchors[f'{model}_cost'], anchors[f'{model}_accuracy']
    if None in where:  # The records do not suffice to evaluate this model.
      continue
    axes.plot(*where, 'o', color=style.INK, markersize=5, zorder=5)
    axes.annotate(
        f'{model} model alone',
        where,
        xytext=offset,
        textcoords='offset points',
        ha=side,
        color=style.INK,
        fontsize=8,
    )


def clean_axes(axes, metric: str) -> None:
  """Removes needless lines from a panel and labels its cost axis."""
  axes.spines[['top', 'right']].set_visible(False)
  axes.spines[['left', 'bottom']].set_color(style.FAINT)
  axes.tick_params(colors=style.INK, labelsize=8, length=3)
  label = style.COST_LABELS.get(metric, metric)
  axes.set_xlabel(
      f'{label} (1 = large model alone)', fontsize=9, color=style.INK
  )
  axes.grid(axis='y', color=style.GRID, linewidth=0.8)
  # Grid lines are drawn behind the curves.
  axes.set_axisbelow(True)


def _limits(figures: Mapping[str, Any]) -> tuple[float, float]:
  """Returns the range of costs to draw: from the small model to beyond 1."""
  curves = [x['curve']['cost'] for x in figures['methods'].values()]
  right = min(max(max(x) for x in curves), style.MAX_COST)
  small = figures['anchors']['small_cost']
  left = min(min(x) for x in curves) if small is None else small
  return (
      max(left - 0.05, 0.0),
      max(right, 1.0) + 0.1,
  )


def _spread(heights: np.ndarray, gap: float) -> np.ndarray:
  """Moves labels apart until neighbours are at least `gap` apart.

  Args:
    heights: rising heights of the labels.
    gap: minimum distance between neighbours.
  """
  placed = np.array(heights, float)
  # Each pass pushes overlapping neighbours apart by half their overlap each,
  # which keeps the mean of a group; 200 passes suffice for ten labels.
  for _ in range(200):
    overlap = gap - np.diff(placed)
    if (overlap <= 1e-9).all():
      break
    for index in np.flatnonzero(overlap > 1e-9):
      push = overlap[index] / 2
      placed[index] -= push
      placed[index + 1] += push
  return placed


def _label_oracle(axes, curve: Mapping[str, Any]) -> None:
  """Writes the oracle's label next to its curve, far above the other curves."""
  left, right = axes.get_xlim()
  start = left + 0.2 * (right - left)
  axes.annotate(
      style.LABELS['oracle'],
      (start, float(np.interp(start, curve['cost'], curve['accuracy']))),
      xytext=(-8, 4),
      textcoords='offset points',
      ha='right',
      fontsize=9,
      color=style.STYLES['oracle']['color'],
  )


def _label_curves(axes, figures: Mapping[str, Any]) -> None:
  """Labels the curves in the empty lower right, with a line to each curve."""
  known = [name for name in style.STYLES if name in figures['methods']]
  names = [name for name in known if name != 'oracle']
  low, high = axes.get_ylim()
  left, right = axes.get_xlim()
  # The lines start near half of the cost range, where curves differ most; the
  # labels are to the right of that.
  at, column = left + 0.42 * (right - left), left + 0.68 * (right - left)
  height = {}
  for name in names:
    curve = figures['methods'][name]['curve']
    height[name] = float(np.interp(at, curve['cost'], curve['accuracy']))
  # Labels are in the order of the curves, so that no two lines cross.
  names.sort(key=height.get)
  if 'oracle' in known:
    _label_oracle(axes, figures['methods']['oracle']['curve'])
  gap = 0.052 * (high - low)
  target = np.array([height[name] for name in names])
  placed = _spread(target, gap)
  # The column of labels must stay below the curves and above the axis.
  placed += min(0.0, low + 0.62 * (high - low) - placed[-1])
  placed += max(0.0, low + 0.04 * (high - low) - placed[0])
  for name, y in zip(names, placed, strict=True):
    axes.annotate(
        style.LABELS[name],
        (at, height[name]),
        xytext=(column, y),
        color=style.STYLES[name]['color'],
        fontsize=9,
        fontweight='bold' if name == style.REFERENCE else 'normal',
        va='center',
        arrowprops=dict(
            arrowstyle='-',
            color=style.STYLES[name]['color'],
            linewidth=0.6,
            alpha=0.6,
            relpos=(0, 0.5),
            shrinkA=2,
            shrinkB=0,
        ),
    )


def frontier(results: Mapping[str, Any], path: pathlib.Path | str) -> None:
  """Plots accuracy against cost in the constraint's cost metric, to a file."""
  pyplot = load_pyplot()
  metric = results['cost_metric']
  figures = results['cost_metrics'][metric]
  figure, axes = pyplot.subplots(figsize=(6.4, 4.4), layout='constrained')
  _draw_curves(axes, figures)
  axes.set_xlim(_limits(figures))
  clean_axes(axes, metric)
  _label_curves(axes, figures)
  axes.set_ylabel('accuracy', fontsize=9, color=style.INK)
  num_seeds = len(results['seeds'])
  axes.set_title(
      f'{results["num_problems"]["test"]:,} test problems, {num_seeds} policy '
      f'seed{"s" if num_seeds > 1 else ""}; band: 95 % interval over both',
      fontsize=9,
      color=style.INK,
      loc='left',
  )
  figure.savefig(path, dpi=180)
  pyplot.close(figure)


def cost_metrics(results: Mapping[str, Any], path: pathlib.Path | str) -> None:
  """Plots accuracy against cost in every cost metric, one panel each."""
  pyplot = load_pyplot()
  names = list(results['cost_metrics'])
  # The number of rows is rounded up. With an odd number of panels one cell is
  # left empty; it is hidden below.
  num_rows = -(-len(names) // 2)
  figure, grid = pyplot.subplots(
      num_rows,
      min(len(names), 2),
      figsize=(8.0, 3.1 * num_rows + 0.4),
      sharey=True,
      squeeze=False,
      layout='constrained',
  )
  for axes in grid.flat[len(names) :]:
    axes.set_visible(False)
  for axes, metric in zip(grid.flat, names, strict=False):
    figures = results['cost_metrics'][metric]
    _draw_curves(axes, figures)
    axes.set_xlim(_limits(figures))
    clean_axes(axes, metric)
    flag = (
        ' (used in the constraint)' if metric == results['cost_metric'] else ''
    )
    axes.set_title(f'{metric}{flag}', fontsize=9, color=style.INK, loc='left')
  for axes in grid[:, 0]:
    axes.set_ylabel('accuracy', fontsize=9, color=style.INK)
  # All panels share one legend, in the order of the table.
  handles, labels = grid.flat[0].get_legend_handles_labels()
  figure.legend(
      handles[::-1],
      labels[::-1],
      loc='outside lower center',
      ncols=3,
      fontsize=8,
      frameon=False,
  )
  figure.savefig(path, dpi=180)
  pyplot.close(figure)
