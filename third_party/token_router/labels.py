"""Which tokens of the small model lead away from the large model's answer.

The large model's own answer is the path. At each of its places the small model
says what it would write. Where this is the same token, nothing is to be routed.
Where it differs, the large model goes on from the small model's token: if the
answer is then wrong, although the path's is right, the token is divergent, else
neutral.

Source: R2R, Fu et al. 2025, arXiv 2505.21600, section 3.2.
"""

from collections.abc import Sequence

import numpy as np

from routing import types
from routing.engines import engine as engine_lib
from routing.outcomes import live_answers
from routing.rollout import driver
from routing.rollout import token_answers
from third_party.token_router import decoding


async def of_problem(
    problem: types.Problem,
    engines: Sequence[engine_lib.Engine],
    answering: live_answers.Answering,
) -> tuple[np.ndarray, np.ndarray] | None:
  """Labels the tokens of one problem.

  Args:
    problem: the problem.
    engines: the small and the large model, both embedded.
    answering: limits and grader.

  Returns:
    `decoding.features` of the small model's n tokens at the places of the path,
    and `[n]` bool, True for divergent ones; None if the path is wrong, since
    then no token can be said to lead astray.
  """
  sampling = answering.sampling

  async def is_right(ids: Sequence[int]) -> bool:
    text = large.tokenizer.decode(
        [x for x in ids if x != large.tokenizer.eos_id]
    )
    return await driver.grade_text(answering.grade, text, problem)

  async def go_on(ids: Sequence[int]) -> tuple[int, ...]:
    if large.tokenizer.eos_id in ids or len(ids) >= budget:
      return tuple(ids)
    # Greedy, as the path: one answer stands for what the model would do.
    found = await large.write(
        ids, budget - len(ids), temperature=0, rng=np.random.default_rng(0)
    )
    return (*ids, *found.ids)

  async with token_answers.open_all(engines, problem.question) as sessions:
    small, large = sessions
    budget = large.room(sampling.max_tokens)
    path = await go_on(())
    if not await is_right(path):
      return None
    seen = (await small.read(path[:-1], len(path))).log_probs
    own = seen.argmax(-1)
    labels = np.zeros(len(path), bool)
    for i in np.flatnonzero(own != np.array(path)):
      labels[i] = not await is_right(await go_on((*path[:i], int(own[i]))))
  return decoding.features(own.tolist(), seen), labels
