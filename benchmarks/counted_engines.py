"""Counts what an embedded engine reads and writes, where it does so.

The counts come from its cache and its sampler, not from the usages that it
reports: they can be compared with what these add up to.
"""

import dataclasses

from routing.engines import embedded


@dataclasses.dataclass
class Counts:
  """Tokens of one engine: read anew, found in its cache, and written."""

  read: int = 0
  cached: int = 0
  written: int = 0


def count(engine: embedded.EmbeddedEngine) -> Counts:
  """Returns counts that follow an engine from now on."""
  counts = Counts()
  advance, assign_slot = engine._advance, engine._assign_slot

  def counted_advance(job, row):
    counts.written += len(row['tokens'])
    advance(job, row)

  def counted_assign_slot(job):
    had_slot = job.slot >= 0
    is_assigned = assign_slot(job)
    if is_assigned and not had_slot:
      counts.read += job.read
      counts.cached += job.cached
    return is_assigned

  engine._advance, engine._assign_slot = counted_advance, counted_assign_slot
  return counts
