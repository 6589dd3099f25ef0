"""Has models answer problems of `train`, for routers that learn from these."""

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Sequence
from typing import TypeVar

from absl import logging

from routing import types
from routing.outcomes import failures as failures_lib
from routing.outcomes import live_answers
from routing.rollout import collect

Record = TypeVar('Record')


async def of_each(
    problems: Sequence[types.Problem],
    answer: Callable[[types.Problem], Awaitable[Record]],
    answering: live_answers.Answering,
) -> dict[int, Record]:
  """Returns what each problem gave, without the problems that were refused.

  What failed for a reason that may pass is not left out: a router that has
  learned from fewer answers would be kept as the final one.

  Args:
    problems: N problems.
    answer: returns the record of a problem, e.g. a trajectory.
    answering: its concurrency, and how many failures in a row stop the run.

  Returns:
    Index of the problem -> its record, in the order of the problems.

  Raises:
    engine_lib.Stop: if a problem failed for a reason that may pass, or too many
      failed in a row. The same command starts the learning again.
  """
  found: dict[int, Record] = {}

  def refuse(place: int, reason: str) -> None:
    logging.warning(
        'Problem %s of train was refused, and nothing is learned from it: %s',
        problems[place].id,
        reason,
    )

  failures = failures_lib.Failures(refuse, answering.max_failures)

  def take(place: int, record: Record) -> None:
    found[place] = record
    failures.settle()

  await collect.collect_each(
      problems,
      answer,
      take,
      concurrency=answering.concurrency,
      on_failed=failures.add,
  )
  failures.finish(len(problems))
  return {place: found[place] for place in sorted(found)}
