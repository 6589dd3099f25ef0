"""Plots which model wrote each step of a few answered problems."""

import collections
from collections.abc import Sequence

from routing import costs
from routing import types
from routing.evaluation import style

# Colours from the smallest to the largest route. They also differ in lightness,
# for colour-blind readers and for print.
_COLORS = ('#A6CEE3', '#0072B2', '#08306B')
_DRAFT = '#D9D9D9'


def trajectories(
    answered: Sequence[types.Trajectory], accounting: costs.Accounting
):
  """Plots a row per problem with a box per written step, coloured by model.

  Args:
    answered: at least one trajectory.
    accounting: cost accounting; the plot gives costs relative to `reference`.

  Returns:
    A matplotlib figure.

  Raises:
    ValueError: if there is no trajectory, or more than three models.
  """
  # Imported here: Matplotlib is slow to load, and only plots need it.
  from matplotlib import pyplot

  if not answered:
    raise ValueError(
        'There are no trajectories to draw; at least one is needed.'
    )
  if len(accounting.specs) > len(_COLORS):
    raise ValueError(
        f'There are {len(accounting.specs)} models; the plot has colours for '
        f'up to {len(_COLORS)}.'
    )
  figure, axes = pyplot.subplots(figsize=(9, 1.6 + 0.42 * len(answered)))
  for row, trajectory in enumerate(answered):
    # Boxes have equal widths, because rows are compared by number of steps.
    boxes = _boxes(trajectory)
    for i, (color, hatch) in enumerate(boxes):
      axes.barh(
          row,
          0.94,
          left=i,
          height=0.7,
          color=color,
          hatch=hatch,
          edgecolor='white',
      )
    verdict = 'right' if trajectory.is_correct else 'wrong'
    spent = accounting.spent(trajectory.calls)
    axes.text(
        len(boxes) + 0.15,
        row,
        f'{verdict}, cost {spent:.2f}',
        va='center',
        color=style.INK,
        fontweight='normal' if trajectory.is_correct else 'bold',
    )
  _draw_legend(axes, [spec.name for spec in accounting.specs])
  axes.set_yticks(range(len(answered)), [x.problem.id for x in answered])
  axes.set_xlabel('steps in the order they were written')
  axes.set_xlim(0, 2 + max(len(_boxes(x)) for x in answered))
  # Inverting the axis puts the first problem on top.
  axes.invert_yaxis()
  axes.spines[['top', 'right', 'left']].set_visible(False)
  figure.tight_layout()
  return figure


def _draw_legend(axes, names: Sequence[str]) -> None:
  """Adds a legend with the models and the discarded drafts."""
  import matplotlib.patches

  handles = [
      matplotlib.patches.Patch(color=color, label=f'{name} model')
      for color, name in zip(_COLORS, names, strict=False)
  ]
  handles.append(
      matplotlib.patches.Patch(
          facecolor=_DRAFT,
          hatch='///',
          edgecolor='white',
          label='discarded draft',
      )
  )
  axes.legend(
      handles=handles,
      loc='lower left',
      bbox_to_anchor=(0, 1),
      ncols=4,
      frameon=False,
  )


def _boxes(trajectory: types.Trajectory) -> list[tuple[str, str]]:
  """Returns (colour, hatch) of the box of each step, in the order of writing.

  A discarded draft stands before the step that was written in its place.
  """
  num_discarded = collections.Counter(_places(trajectory))
  boxes = []
  for i, step in enumerate(trajectory.steps):
    # Hatching distinguishes a discarded draft without colour.
    boxes += [(_DRAFT, '///')] * num_discarded[i]
    boxes.append((_COLORS[step.route], ''))
  return boxes


def _places(trajectory: types.Trajectory) -> list[int]:
  """Returns, for each discarded draft, the index of the step written for it."""
  decisions, steps = trajectory.decisions, trajectory.steps
  places = []
  # Older files do not say of what kind a call is.
  if any(call.kind in ('draft', '') for call in trajectory.calls):
    # Decision t is about step t. If it names a larger model, the draft is lost.
    places = [t for t, decision in enumerate(decisions) if decision.route > 0]
  # What else was discarded is the end of the answer, which the last writer
  # wrote again; no decision before the last one was about these steps.
  last = len(steps)
  first = max(len(decisions) - 1, 0)
  while last > first and steps[last - 1].route == steps[-1].route:
    last -= 1
  num_more = len(trajectory.discarded) - len(places)
  return places[: len(trajectory.discarded)] + [last] * num_more
