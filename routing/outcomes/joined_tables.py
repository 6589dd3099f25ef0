"""Joins the outcome tables of consecutive problems, e.g. of single shards."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from routing.features import feature_rows
from routing.outcomes import table as table_lib

# Fields of a table with an entry per ending or per problem.
_JOINED = (
    'ending_correct',
    'ending_loss',
    'ending_cost',
    'large_correct',
    'large_cost',
    'ending_cut',
    'large_cut',
)


def joined(
    tables: Iterable[table_lib.OutcomeTable],
    features: feature_rows.Writer | None = None,
) -> table_lib.OutcomeTable:
  """Returns one outcome table of the problems of all tables, in order.

  Args:
    tables: one or more; each is read once, and its features are not kept.
    features: where the features go; None = `feature_rows.Writer()`, which
      writes them to a file where they are large.

  Raises:
    ValueError: if there is no table.
  """
  features = features or feature_rows.Writer()
  parts: dict[str, list[Any]] = {}
  num_decisions = num_endings = num_problems = 0
  for table in tables:
    features.add(table.decisions.features)
    children, parents = table.children, table.decisions.parents
    moved = {
        'uncertainty': table.decisions.uncertainty,
        'depth': table.decisions.depth,
        # Decisions count up from 0, endings down from -1.
        'parents': np.where(parents < 0, -1, parents + num_decisions),
        'children': children
        + np.where(children < 0, -num_endings, num_decisions),
        'roots': table.roots + num_decisions,
        'ending_problem': table.ending_problem + num_problems,
        **{name: getattr(table, name) for name in _JOINED},
    }
    for name, value in moved.items():
      parts.setdefault(name, []).append(value)
    num_decisions += len(parents)
    num_endings += len(table.ending_problem)
    num_problems += table.num_problems
  if not parts:
    raise ValueError('There is no outcome table to join; at least 1 is needed.')
  # One field after the other, so that memory holds no field twice for long.
  found = {name: _concatenated(parts.pop(name)) for name in list(parts)}
  indices = 'depth', 'parents', 'children', 'roots', 'ending_problem'
  found |= {name: found[name].astype(np.int32, copy=False) for name in indices}
  return table_lib.OutcomeTable(
      decisions=table_lib.Decisions(
          features=features.rows(),
          **{x: found.pop(x) for x in ('uncertainty', 'depth', 'parents')},
      ),
      **found,
  )


def _concatenated(values: Sequence[Any]) -> Any:
  """Concatenates arrays, or each array of mappings; None if one is None."""
  if any(x is None for x in values):
    return None
  if isinstance(values[0], Mapping):
    names = values[0].keys()
    return {name: np.concatenate([x[name] for x in values]) for name in names}
  return np.concatenate(values)
