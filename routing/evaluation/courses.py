"""Every answer that a router can give to some problems, as columns of numbers.

The answers to a problem share their beginnings. They are stored as a tree of
*parts*: a part is a step, or all that a larger model writes after a hand-over,
and names the part before it. A *decision* stands after a part and names the
draft that the router saw; an *end* is the last part of a graded answer. Texts
are stored once each, and a row is an index in equally long columns, so that
thousands of problems fit into one page.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from routing import costs
from routing import protocols
from routing import types
from routing.outcomes import sources
from routing.outcomes import table as table_lib
from routing.rollout import trees

NONE = -1  # In a column of indices: there is none. In a share: not recorded.
COST_UNIT = 1e-4  # Costs are whole multiples of this part of the large model's.
_SHARE_UNIT = 1e-3


class Columns:
  """Collects the rows of all problems.

  Args:
    accounting: the models and their prices.
    protocol: decides whether a router saw a draft.
  """

  def __init__(
      self, accounting: costs.Accounting, protocol: protocols.Protocol
  ):
    self._specs, self._protocol = accounting.specs, protocol
    self._texts: dict[str, int] = {}
    metrics = [f'cost {x}' for x in costs.COST_METRICS]
    self._columns: dict[str, dict[str, list[Any]]] = {
        'problem': _empty('id', 'question', 'answer', 'large', 'large_right'),
        'decision': _empty('problem', 'after', 'draft', 'confidence', *metrics),
        'part': _empty('after', 'decision', 'route', 'text', *metrics),
        'end': _empty('problem', 'part', 'right', 'cut', *metrics),
    }
    # Rows of the source's decisions, in the order of the column `decision`.
    self.rows: list[int] = []
    self._scale: Mapping[str, float] = {}

  def to_json(self) -> dict[str, Any]:
    """Returns the columns by table, and the texts that they point to."""
    return {**self._columns, 'texts': list(self._texts)}

  def add_ladder(
      self, ladder: types.Ladder, table: table_lib.OutcomeTable, n: int
  ) -> None:
    """Adds every answer of a ladder, which is problem `n` of the table."""
    first = {(c.step, c.route): c for c in ladder.completions if not c.sample}
    alone = first[0, len(self._specs) - 1]
    self._begin(ladder.problem, alone, table.large_correct[n], _of(table, n))
    after, row, step = NONE, int(table.roots[n]), 0
    while row >= 0:
      seen = table.decisions.uncertainty[row, 0]
      here = self._decision(row, after, ladder.steps[step], seen)
      for route in range(1, len(self._specs)):
        completion = first[step, route]
        spent = lambda metric, c=completion: costs.completion_cost(
            c, self._specs, metric
        )
        part = self._part(after, here, route, completion.text, spent)
        self._end(part, table, int(table.children[row, route]))
      after = self._step(after, here, ladder.steps[step])
      row, step = int(table.children[row, 0]), step + 1
    # After its last decision the small model continues to the end.
    for rest in ladder.steps[step:]:
      after = self._step(after, NONE, rest)
    self._end(after, table, row)

  def add_tree(
      self,
      tree: trees.ReplyTree,
      table: table_lib.OutcomeTable,
      n: int,
      is_alive: tuple[np.ndarray, np.ndarray],
  ) -> None:
    """Adds the answers of a reply tree that some threshold reaches.

    Args:
      tree: the tree, which is problem `n` of the table.
      table: outcomes of all trees.
      n: index of the problem.
      is_alive: see `alive`.
    """
    decisions, endings = is_alive
    self._begin(
        tree.problem, tree.reference, table.large_correct[n], _of(table, n)
    )
    pending = [(tree.root, int(table.roots[n]), NONE)]
    while pending:
      node, row, after = pending.pop()
      seen = table.decisions.uncertainty[row, 0]
      here = self._decision(row, after, node.draft, seen)
      for route, branch in enumerate(node.branches):
        child = int(table.children[row, route])
        if not (decisions[child] if child >= 0 else endings[-1 - child]):
          continue
        part, decided = after, here
        for step in branch.steps[len(node.steps) :]:
          part, decided = self._step(part, decided, step), NONE
        if child < 0:
          self._end(part, table, child)
        else:
          pending.append((branch, child, part))

  def add_rollouts(
      self, rollouts: types.Rollouts, source: sources.Recorded, n: int
  ) -> None:
    """Adds the recorded answers to problem `n` of a source."""
    scale = {
        metric: costs.completion_cost(rollouts.reference, self._specs, metric)
        for metric in costs.COST_METRICS
    }
    self._begin(
        rollouts.problem, rollouts.reference, source.large_correct[n], scale
    )
    owned = np.flatnonzero(source.owner == n)
    # The decisions of all trajectories stand one after the other.
    starts = np.cumsum(np.asarray(source.batch.mask, bool).sum(axis=1))
    for index, trajectory in zip(owned, rollouts.trajectories, strict=True):
      row = int(starts[index]) - len(trajectory.decisions)
      self._trajectory(trajectory, source.decisions, row)

  def _trajectory(
      self,
      trajectory: types.Trajectory,
      decisions: table_lib.Decisions,
      row: int,
  ) -> None:
    """Adds one recorded answer, whose first decision is row `row`."""
    drafts, after = iter(trajectory.discarded), NONE
    for number, step in enumerate(trajectory.steps):
      here = NONE
      if number < len(trajectory.decisions):
        is_kept = not trajectory.decisions[number].route
        draft = None
        if self._protocol.has_draft:
          draft = step if is_kept else next(drafts)
        seen = decisions.uncertainty[row + number, 0]
        here = self._decision(row + number, after, draft, seen)
      after = self._step(after, here, step)
    spent = lambda metric: costs.total_cost(
        trajectory.calls, self._specs, metric
    )
    self._append(
        'end',
        [len(self._columns['problem']['id']) - 1, after]
        + [_share(trajectory.is_correct), NONE],
        spent,
    )

  def _begin(self, problem, alone, large_right, scale) -> None:
    self._scale = scale
    values = [problem.id, *map(self._text, (problem.question, problem.answer))]
    values += [self._text(alone.text), _share(large_right)]
    for column, value in zip(
        self._columns['problem'].values(), values, strict=True
    ):
      column.append(value)

  def _decision(self, row, after, draft, uncertainty) -> int:
    """Adds a decision and returns its index; `draft` None = none was seen."""
    draft = draft if self._protocol.has_draft else None
    self.rows.append(row)
    # The uncertainty is -log of the probability of the least likely token.
    sure = float(np.exp(-uncertainty))
    return self._append(
        'decision',
        [
            len(self._columns['problem']['id']) - 1,
            after,
            NONE if draft is None else self._text(draft.text),
            _share(None if np.isnan(sure) else sure),
        ],
        lambda metric: draft and self._call(draft.usage, metric),
    )

  def _step(self, after: int, decision: int, step: types.Step) -> int:
    return self._part(
        after,
        decision,
        step.route,
        step.text,
        lambda metric: self._call(step.usage, metric),
    )

  def _part(self, after, decision, route, text, spent) -> int:
    values = [after, decision, route, self._text(text)]
    return self._append('part', values, spent)

  def _end(self, part: int, table: table_lib.OutcomeTable, child: int) -> None:
    """Adds an answer; `child` as in `OutcomeTable.children`."""
    ending = -1 - child
    cut = None if table.ending_cut is None else table.ending_cut[ending]
    values = [len(self._columns['problem']['id']) - 1, part]
    values += [_share(table.ending_correct[ending])]
    values += [_share(None if cut is None or np.isnan(cut) else cut)]
    # Endings are fractions already.
    self._append(
        'end',
        values,
        lambda metric: table.ending_cost[metric][ending] * self._scale[metric],
    )

  def _append(self, name: str, values: Sequence[Any], spent) -> int:
    """Adds a row with its cost in every metric; returns its index."""
    amounts = [
        round(float(spent(metric) or 0.0) / self._scale[metric] / COST_UNIT)
        for metric in costs.COST_METRICS
    ]
    columns = self._columns[name].values()
    for column, value in zip(columns, [*values, *amounts], strict=True):
      column.append(value)
    return len(column) - 1

  def _call(self, usage: types.Usage, metric: str) -> float:
    return float(costs.call_cost(usage, self._specs[usage.route], metric))

  def _text(self, text: str) -> int:
    return self._texts.setdefault(text, len(self._texts))


def alive(
    table: table_lib.OutcomeTable, reached: Iterable[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
  """Returns which decisions and endings some threshold of a policy reaches.

  Args:
    table: the outcome table.
    reached: for each policy, the endings that it reaches.

  Returns:
    `[M]` bool of the decisions and `[L]` bool of the endings.
  """
  endings = np.zeros(len(table.ending_problem), bool)
  for found in reached:
    endings[found] = True
  decisions = np.zeros(len(table.children), bool)
  # Successors come after their decision, so they are visited first.
  for row in reversed(range(len(table.children))):
    decisions[row] = any(
        decisions[x] if x >= 0 else endings[-1 - x] for x in table.children[row]
    )
  return decisions, endings


def _of(table: table_lib.OutcomeTable, n: int) -> dict[str, float]:
  """Returns what the largest model alone costs on problem `n`, by metric."""
  return {x: float(table.large_cost[x][n]) for x in costs.COST_METRICS}


def _share(value: float | None) -> int:
  return NONE if value is None else round(float(value) / _SHARE_UNIT)


def _empty(*names: str) -> dict[str, list[Any]]:
  return {name: [] for name in names}
