"""Every answer that a router can give to some problems, as columns of numbers.

The answers to a problem share their beginnings. They are stored as a tree of
*parts*: a part is a step, or all that a larger model writes after a hand-over,
and names the part before it. A *decision* stands after a part and names the
draft that the router saw; an *end* is the last part of a graded answer. Texts
are stored once each, and a row is an index in equally long columns, so that
thousands of problems fit into one page.
"""

from collections.abc import Callable
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
# Cost metric -> what something cost, in the unit of the metric.
_Spent = Callable[[str], float]


class AnswerTrees:
  """Collects the answers to all problems, as rows of four tables.

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
        # Texts are indices, and shares whole multiples of `_SHARE_UNIT`.
        'problem': _empty('id', 'question', 'answer', 'large', 'large_right'),
        'decision': _empty('problem', 'after', 'draft', 'confidence', *metrics),
        'part': _empty('after', 'decision', 'route', 'text', *metrics),
        'end': _empty('problem', 'part', 'right', 'cut', *metrics),
    }
    # Rows of the source's decisions, in the order of the table 'decision'.
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
    self._begin(
        ladder.problem, alone, table.large_correct[n], _large_cost(table, n)
    )
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
        self._ending(part, table, int(table.children[row, route]))
      after = self._step(after, here, ladder.steps[step])
      row, step = int(table.children[row, 0]), step + 1
    # After its last decision the small model continues to the end.
    for rest in ladder.steps[step:]:
      after = self._step(after, NONE, rest)
    self._ending(after, table, row)

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
        tree.problem,
        tree.reference,
        table.large_correct[n],
        _large_cost(table, n),
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
          self._ending(part, table, child)
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
    self._end(
        after,
        trajectory.is_correct,
        None,
        lambda metric: costs.total_cost(trajectory.calls, self._specs, metric),
    )

  def _begin(
      self,
      problem: types.Problem,
      alone: types.Completion,
      large_right: float,
      scale: Mapping[str, float],
  ) -> None:
    """Adds a problem, to which the rows that follow belong.

    Args:
      problem: the problem.
      alone: the answer of the largest model alone.
      large_right: its grade, in [0, 1].
      scale: cost metric -> its cost, which costs are fractions of.
    """
    self._scale = scale
    self._append(
        'problem',
        [
            problem.id,
            self._text(problem.question),
            self._text(problem.answer),
            self._text(alone.text),
            _share(large_right),
        ],
    )

  def _decision(
      self, row: int, after: int, draft: types.Step | None, uncertainty: float
  ) -> int:
    """Adds a decision and returns its index.

    Args:
      row: of the decision, among those of the source.
      after: index of the part before it.
      draft: of the next step; ignored where the protocol has no drafts.
      uncertainty: -log of the probability of the least likely token; NaN = not
        recorded.
    """
    if not self._protocol.has_draft:
      draft = None
    self.rows.append(row)
    sure = float(np.exp(-uncertainty))
    return self._append(
        'decision',
        [
            self._problem,
            after,
            NONE if draft is None else self._text(draft.text),
            _share(None if np.isnan(sure) else sure),
        ],
        lambda metric: self._call(draft.usage, metric) if draft else 0.0,
    )

  def _step(self, after: int, decision: int, step: types.Step) -> int:
    """Adds a step as a part and returns its index; see `_part`."""
    return self._part(
        after,
        decision,
        step.route,
        step.text,
        lambda metric: self._call(step.usage, metric),
    )

  def _part(
      self, after: int, decision: int, route: int, text: str, spent: _Spent
  ) -> int:
    """Adds a part and returns its index.

    Args:
      after: index of the part before it.
      decision: index of the decision that it follows from; `NONE` if from none.
      route: of its writer.
      text: what was written.
      spent: what it cost.
    """
    return self._append(
        'part', [after, decision, route, self._text(text)], spent
    )

  def _ending(
      self, part: int, table: table_lib.OutcomeTable, child: int
  ) -> None:
    """Adds an answer of a table; `child` as in `OutcomeTable.children`."""
    ending = -1 - child
    cut = None if table.ending_cut is None else table.ending_cut[ending]
    self._end(
        part,
        table.ending_correct[ending],
        None if cut is None or np.isnan(cut) else cut,
        # Costs of endings are fractions already.
        lambda metric: table.ending_cost[metric][ending] * self._scale[metric],
    )

  def _end(
      self, part: int, right: float | None, cut: float | None, spent: _Spent
  ) -> None:
    """Adds an answer.

    Args:
      part: index of its last part.
      right: its grade, in [0, 1]; None = not graded.
      cut: share of its samples that the token limit cut off; None = not
        recorded.
      spent: what all of it cost.
    """
    self._append(
        'end', [self._problem, part, _share(right), _share(cut)], spent
    )

  def _append(
      self, name: str, values: Sequence[Any], spent: _Spent | None = None
  ) -> int:
    """Adds a row to a table, with its cost in every metric if it has one.

    Args:
      name: of the table.
      values: of the first columns, in their order.
      spent: what it cost; None = the table has no costs.

    Returns:
      The index of the row.
    """
    amounts = []
    if spent is not None:
      amounts = [
          round(float(spent(metric)) / self._scale[metric] / COST_UNIT)
          for metric in costs.COST_METRICS
      ]
    index = self._num_rows(name)
    columns = self._columns[name].values()
    for column, value in zip(columns, [*values, *amounts], strict=True):
      column.append(value)
    return index

  def _num_rows(self, name: str) -> int:
    """Returns the number of rows of a table; all columns have as many."""
    return len(next(iter(self._columns[name].values())))

  @property
  def _problem(self) -> int:
    """Index of the problem that `_begin` has added last."""
    return self._num_rows('problem') - 1

  def _call(self, usage: types.Usage, metric: str) -> float:
    """Returns the cost of a call, in the unit of the metric."""
    return float(costs.call_cost(usage, self._specs[usage.route], metric))

  def _text(self, text: str) -> int:
    """Returns the index of a text, which is stored once."""
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
  for of_policy in reached:
    endings[of_policy] = True
  decisions = np.zeros(len(table.children), bool)
  # Successors come after their decision, so they are visited first.
  for row in reversed(range(len(table.children))):
    decisions[row] = any(
        decisions[x] if x >= 0 else endings[-1 - x] for x in table.children[row]
    )
  return decisions, endings


def _large_cost(table: table_lib.OutcomeTable, n: int) -> dict[str, float]:
  """Returns what the largest model alone costs on problem `n`, by metric."""
  return {x: float(table.large_cost[x][n]) for x in costs.COST_METRICS}


def _share(value: float | None) -> int:
  """Returns a share in units of `_SHARE_UNIT`; `NONE` for None."""
  return NONE if value is None else round(float(value) / _SHARE_UNIT)


def _empty(*names: str) -> dict[str, list[Any]]:
  return {name: [] for name in names}
