"""Who wrote what: a picture of a few answered problems, step by step."""

from collections.abc import Sequence

from routing import costs
from routing import types

# Route by route, small to large; told apart by lightness too.
_COLORS = ('#A6CEE3', '#0072B2', '#08306B')
_DRAFT = '#D9D9D9'
_INK = '#222222'


def trajectories(
    answered: Sequence[types.Trajectory], accounting: costs.Accounting
):
  """One row a problem, one box a step, in the order in which they were paid.

  Args:
    answered: at least one trajectory.
    accounting: its `reference` turns costs into fractions.

  Returns:
    A matplotlib figure.

  Raises:
    ValueError: if there is no trajectory, or more than three models.
  """
  from matplotlib import pyplot

  if not answered:
    raise ValueError('No trajectories to draw; at least one is needed.')
  if len(accounting.specs) > len(_COLORS):
    raise ValueError(
        f'{len(accounting.specs)} models; allowed: up to {len(_COLORS)}.'
    )
  figure, axes = pyplot.subplots(figsize=(9, 1.6 + 0.42 * len(answered)))
  for row, trajectory in enumerate(answered):
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
        color=_INK,
        fontweight='normal' if trajectory.is_correct else 'bold',
    )
  _draw_legend(axes, [spec.name for spec in accounting.specs])
  axes.set_yticks(range(len(answered)), [x.problem.id for x in answered])
  axes.set_xlabel('steps, in the order in which they were written')
  axes.set_xlim(0, 2 + max(len(_boxes(x)) for x in answered))
  axes.invert_yaxis()
  axes.spines[['top', 'right', 'left']].set_visible(False)
  figure.tight_layout()
  return figure


def _draw_legend(axes, names: Sequence[str]) -> None:
  """The colour of each model, and of what was thrown away."""
  import matplotlib.patches

  handles = [
      matplotlib.patches.Patch(color=color, label=f'{name} model')
      for color, name in zip(_COLORS, names, strict=False)
  ]
  handles.append(
      matplotlib.patches.Patch(
          facecolor=_DRAFT, hatch='///', edgecolor='white', label='thrown away'
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
  """(colour, hatch) of each step; a thrown-away draft stands where it was."""
  boxes = [
      (_COLORS[step.route], '') for step in trajectory.steps if step.route == 0
  ]
  boxes += [(_DRAFT, '///') for _ in trajectory.discarded]
  boxes += [
      (_COLORS[step.route], '') for step in trajectory.steps if step.route
  ]
  return boxes
