"""The histories of a process as traces, observed as a real router's traces are.

A step of the process is one token, whose log-probability tells the level of
confidence and nothing else. It has no words and no hidden state, so the groups
`text` and `hidden` are left out; all other columns come from
`routing.features.observation`, running minimum and mean included.
"""

from collections.abc import Sequence
import dataclasses

import ml_collections
import numpy as np

from routing import types
from routing.features import observation
from routing.simulation import history_tree as tree_lib
from routing.simulation import process as process_lib

GROUPS = ('confidence', 'progress', 'cost')
# Of the token of the lowest level and of the highest; the others between them.
_CHANCES = (0.5, 0.99)


def observed(
    tree: tree_lib.HistoryTree, config: ml_collections.ConfigDict
) -> tree_lib.HistoryTree:
  """The same tree, its features those that the product would be shown.

  Args:
    tree: of a process under a protocol.
    config: `features` and `protocol.max_decisions` are read.
  """
  features = observation.FeatureConfig(
      groups=tuple(x for x in config.features.groups if x in GROUPS),
      num_routes=tree.process.num_routes,
      max_decisions=config.protocol.max_decisions,
  )
  levels = tuple(
      dataclasses.replace(
          level,
          features=np.stack([observation.observe(x, features) for x in traces]),
      )
      for level, traces in zip(tree.levels, histories(tree), strict=True)
  )
  return dataclasses.replace(tree, levels=levels)


def histories(tree: tree_lib.HistoryTree) -> list[list[types.Trace]]:
  """For each level, the trace of each history, in the order of the tree."""
  process, protocol = tree.process, tree.protocol
  costs = process_lib.action_costs(process, protocol)
  steps = _steps(process)
  num_levels = process.num_levels
  drafts = steps[0] if protocol.has_draft else [None]
  # The first draft is paid when it is shown, before any decision.
  paid = float(process.step_costs[0]) if protocol.has_draft else 0.0
  found = [[types.Trace('', (), draft, paid) for draft in drafts]]
  # What `action_costs` counts from: the first draft belongs to step 0 there.
  spent = [np.zeros(len(drafts))]
  for t, level in enumerate(tree.levels[1:]):
    rows, total = [], spent[-1][level.parent] + costs[t, level.action]
    begins = tree.levels[t].begins[level.parent, level.action]
    seen = np.arange(len(level.parent)) - begins
    for parent, action, seen_now, cost in zip(
        level.parent, level.action, seen, total, strict=True
    ):
      before = found[-1][parent]
      if not protocol.has_draft:
        step, draft = steps[action][seen_now], None
      elif action == 0:
        step, draft = before.draft, steps[0][seen_now]
      else:
        new, drafted = divmod(int(seen_now), num_levels)
        step, draft = steps[action][new], steps[0][drafted]
      rows.append(types.Trace('', (*before.steps, step), draft, float(cost)))
    found.append(rows)
    spent.append(total)
  return found


def _steps(process: process_lib.Process) -> Sequence[Sequence[types.Step]]:
  """By writer, then by level of confidence."""
  probabilities = np.linspace(*_CHANCES, process.num_levels)
  return [
      [
          types.Step(
              text='',
              token_ids=(0,),
              log_probs=np.array([np.log(chance)], np.float32),
              top_log_probs=np.zeros((1, 0), np.float32),
              is_final=False,
              usage=types.Usage(route=route, read=0, cached=0, written=1),
          )
          for chance in probabilities
      ]
      for route in range(process.num_routes)
  ]
