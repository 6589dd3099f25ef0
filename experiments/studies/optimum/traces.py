"""Turns histories of a process into traces, observed as a real router observes.

A step of the process is one token, whose log-probability tells the level of
confidence and nothing else. The process has no words and no hidden state, so
the groups `text` and `hidden` are left out. All other features come from
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
# Probability of the token at the lowest level of confidence and at the highest;
# the levels between are evenly spaced.
_CHANCES = (0.5, 0.99)


def observed(
    tree: tree_lib.HistoryTree, config: ml_collections.ConfigDict
) -> tree_lib.HistoryTree:
  """Returns the tree with the features that a real router would observe.

  Args:
    tree: history tree of a process under a protocol.
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
  """Returns, for each level, the trace of each history, in tree order."""
  process, protocol = tree.process, tree.protocol
  costs = process_lib.action_costs(process, protocol)
  steps = _steps(process)
  num_levels = process.num_levels
  drafts = steps[0] if protocol.has_draft else [None]
  # With a draft, the first one is written and paid before any decision.
  paid = float(process.step_costs[0]) if protocol.has_draft else 0.0
  found = [[types.Trace('', (), draft, paid) for draft in drafts]]
  # `action_costs` charges the first draft to step 0, so its running sum starts
  # at 0, not at `paid`.
  spent = [np.zeros(len(drafts))]
  for t, level in enumerate(tree.levels[1:]):
    rows, total = [], spent[-1][level.parent] + costs[t, level.action]
    begins = tree.levels[t].begins[level.parent, level.action]
    # Number of the observation among those that can follow (parent, action).
    seen = np.arange(len(level.parent)) - begins
    for parent, action, seen_now, cost in zip(
        level.parent, level.action, seen, total, strict=True
    ):
      before = found[-1][parent]
      # What is observed is the new step; or, with drafts, the next draft; or,
      # after a hand-over with drafts, the pair (new step, next draft).
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
  """Returns the step of each writer at each level of confidence, `[A][L]`."""
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
