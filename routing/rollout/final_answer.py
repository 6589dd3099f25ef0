"""Has one model write the final answer, whoever wrote the steps before it.

Reasoning models end their thoughts by a mark, after which the answer follows; a
router may leave the thoughts to any model and the answer to one. Models without
such a mark have the answer in their last step. So if another model has written
the last step, the step is discarded, and charged, and the chosen one ends the
answer from there.
"""

from typing import Any


async def rewrite(walk: Any, router: Any) -> None:
  """Discards the last step and has the router's `final_route` write the end.

  Does nothing if the router has no such route, or if it wrote the last step.

  Args:
    walk: the finished trajectory of the driver.
    router: may have an attribute `final_route`, the index of a model or None.
  """
  route = getattr(router, 'final_route', None)
  if route is None or walk.steps[-1].route == route:
    return
  *kept, last = walk.steps
  # What the last step took is room enough for another. An empty step took none,
  # and at the token limit none may be left.
  if not last.num_tokens:
    return
  walk.steps[:] = kept
  walk.discarded.append(last)
  walk.steps.extend(await walk.write(route, to_end=True))
