"""What a report shows of one router: its dials and its answers."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import numpy as np

from routing import costs
from routing import protocols
from routing import types
from routing.evaluation import answer_trees
from routing.evaluation import dials as dials_lib
from routing.evaluation import page
from routing.outcomes import known
from routing.outcomes import sources
from routing.outcomes import table as table_lib
from routing.rollout import trees
from routing.routers import card as card_lib

# Problems of which a page shows single answers; the dials and the curves are of
# all. Where there are more, the caller draws ladders at random, and takes the
# first reply trees or rollouts; see `Shown.places`.
MAX_PROBLEMS = 2_000
Record = types.Ladder | trees.ReplyTree | types.Rollouts


@dataclasses.dataclass(frozen=True)
class Shown:
  """A router and the test problems on which a report shows it.

  accounting: the models and their prices.
  protocol: of the router.
  points: operating points of the router.
  families: one for each policy of the router.
  source: evaluates thresholds on N problems.
  records: of some problems of the source; ladders or reply trees if it is
    known, rollouts if it is recorded.
  places: index of each record's problem in the source, in random order; None =
    the records are of its first problems.
  """

  accounting: costs.Accounting
  protocol: protocols.Protocol
  points: Sequence[card_lib.OperatingPoint]
  families: Sequence[sources.Family]
  source: sources.Known | sources.Recorded
  records: Sequence[Record]
  places: Sequence[int] | None = None

  @functools.cached_property
  def _turned(self) -> list[tuple[dials_lib.Dial, dict[str, Any]]]:
    """The dials that the records can evaluate, with their figures."""
    turned = []
    for dial in dials_lib.of_points(self.points, self.families, self.source):
      figures = dials_lib.figures(
          dial,
          self.families[dial.policy_index],
          self.source,
          costs.COST_METRICS,
      )
      if figures:
        turned.append((dial, figures))
    return turned

  def _scored(self, rows: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """Returns what each dial says at some decisions; None = at all."""
    dials = [dial for dial, _ in self._turned]
    return dials_lib.scores(
        dials,
        self.families,
        self._decisions,
        len(self.accounting.specs),
        slice(None) if rows is None else np.asarray(rows, np.int64),
    )

  @property
  def _decisions(self) -> table_lib.Decisions:
    if isinstance(self.source, sources.Known):
      return self.source.table.decisions
    return self.source.decisions

  def dials(self) -> list[dict[str, Any]]:
    """Returns each dial with what its positions earn; see `dials.figures`.

    Thresholds are texts, because JSON has no infinity.
    """
    return [
        {
            'policy': dial.policy_index,
            'thresholds': _as_text(dial.thresholds.tolist()),
            'points': {str(k): names for k, names in dial.points.items()},
            'figures': figures,
        }
        for dial, figures in self._turned
    ]

  def answers(self, num_problems: int) -> dict[str, Any]:
    """Returns every answer that a dial can reach to some of the problems.

    Args:
      num_problems: the first so many of the records are shown.

    Returns:
      See `answer_trees.AnswerTrees.to_json`; 'dials': what each dial says at
      each decision, see `dials.scores`; 'total': N; 'is_drawn', whether the
      problems are a random sample of these N; 'is_graded_once'.
    """
    collected = answer_trees.AnswerTrees(self.accounting, self.protocol)
    places = range(len(self.records)) if self.places is None else self.places
    # Drawn in random order, so the first of them are a random sample, too; on
    # the page they are in the order of the problems.
    order = sorted(
        range(min(num_problems, len(places))), key=places.__getitem__
    )
    shown = [self.records[i] for i in order]
    is_alive = None
    if shown and isinstance(shown[0], trees.ReplyTree):
      table = self.source.table
      is_alive = answer_trees.alive(
          table,
          [
              _reached(table, x, len(dial.thresholds))
              for x, (dial, _) in zip(self._scored(), self._turned, strict=True)
          ],
      )
    for n, record in zip((places[i] for i in order), shown, strict=True):
      if isinstance(record, types.Ladder):
        collected.add_ladder(record, self.source.table, n)
      elif isinstance(record, types.Rollouts):
        collected.add_rollouts(record, self.source, n)
      else:
        collected.add_tree(record, self.source.table, n, is_alive)
    return {
        **collected.to_json(),
        'dials': [
            {
                'score': [round(float(y), 4) for y in x['score']],
                'rank': x['rank'].tolist(),
                'route': x['route'].tolist(),
            }
            for x in self._scored(collected.rows)
        ],
        'is_drawn': self.places is not None,
        'is_graded_once': self.source.is_graded_once,
        'total': len(self.source.problems),
    }


def render(
    content: Mapping[str, Any],
    shown: Shown | None,
    max_bytes: int = page.MAX_BYTES,
) -> str:
  """Returns the page of a report.

  Args:
    content: what the page shows besides dials and answers.
    shown: the router; None = there are no dials and answers to show.
    max_bytes: a page that would be larger has the answers to fewer problems,
      the first ones, and says so.
  """
  if shown is None:
    return page.render('report.html', {**content, 'dials': [], 'answers': None})
  content = {**content, 'dials': shown.dials()}
  num_problems = min(len(shown.records), MAX_PROBLEMS)
  while True:
    answers = shown.answers(num_problems)
    text = page.render('report.html', {**content, 'answers': answers})
    num_bytes = len(text.encode())
    if num_bytes <= max_bytes or not num_problems:
      return text
    # The answers are most of what is over a page without data.
    bare = len(page.render('report.html', {**content, 'answers': None}))
    share = max(max_bytes - bare, 0) / (num_bytes - bare)
    num_problems = int(0.95 * share * num_problems)


def _reached(
    table: table_lib.OutcomeTable, says: Mapping[str, Any], num_positions: int
) -> np.ndarray:
  """Returns the endings that some position of a dial reaches.

  At position j a decision hands over where its rank is above j, which is where
  the rank, taken as a score, reaches the threshold j + 1.
  """
  reached = known.reached(table, says['rank'], says['route'])
  # Of the thresholds in (low, high], only the whole ones are positions.
  first = np.maximum(reached.low + 1, 1)
  return reached.ending[first <= np.minimum(reached.high, num_positions)]


def _as_text(value: Any) -> Any:
  """Returns nested lists of numbers as nested lists of texts."""
  return list(map(_as_text, value)) if isinstance(value, list) else str(value)
