"""Opens token sessions, and makes a trajectory of an answer's tokens.

For systems that decide about single tokens. They need the next-token
distributions of every model, which only the embedded engine gives.
"""

from collections.abc import AsyncIterator
from collections.abc import Sequence
import contextlib

import numpy as np

from routing import types
from routing.engines import engine as engine_lib
from routing.engines import token_session
from routing.grading import equivalence
from routing.rollout import driver
from routing.rollout import seeds
from routing.rollout import step_requests
from routing.rollout import steps as steps_lib


@contextlib.asynccontextmanager
async def open_all(
    engines: Sequence[engine_lib.Engine], question: str
) -> AsyncIterator[list[token_session.TokenSession]]:
  """Opens a token session about one question at each engine.

  Yields:
    The sessions, in the order of the engines.

  Raises:
    ValueError: if an engine has no token sessions.
  """
  for engine in engines:
    if not hasattr(engine, 'open_tokens'):
      raise ValueError(
          f'Engine {engine.name!r} (route {engine.route}) gives no next-token '
          "distributions; only engine 'embedded' does."
      )
  async with contextlib.AsyncExitStack() as stack:
    yield [
        await stack.enter_async_context(engine.open_tokens(question))
        for engine in engines
    ]


def rng(
    seed: int, problem: types.Problem, route: int, sample: int = 0
) -> np.random.Generator:
  """Returns the source of randomness of one answer.

  Args:
    seed: of the run.
    problem: the problem that is answered.
    route: the model that draws.
    sample: index among several answers to the same problem.
  """
  return np.random.default_rng(
      seeds.of_request(seed, problem.id, 0, route, sample)
  )


async def trajectory(
    problem: types.Problem,
    ids: Sequence[int],
    log_probs: Sequence[np.ndarray],
    calls: Sequence[types.Call],
    session: token_session.TokenSession,
    *,
    sampling: step_requests.Sampling,
    grade: equivalence.Grader,
) -> types.Trajectory:
  """Returns the graded trajectory of an answer that was written by tokens.

  Args:
    problem: the problem.
    ids: the n tokens of the answer.
    log_probs: `[V]` float64 log-probabilities at each of the n places.
    calls: every model call, in order.
    session: of the model to which the steps are ascribed.
    sampling: its `finders` say where the answer ends.
    grade: the grader of the final answer.
  """
  steps = token_session.to_steps(
      ids, np.asarray(log_probs), session.route, session.tokenizer
  )
  steps = steps_lib.until_answer(steps, '', sampling.finders)
  text = steps_lib.join(steps)
  return types.Trajectory(
      problem=problem,
      steps=steps,
      discarded=(),
      decisions=(),
      calls=tuple(calls),
      is_correct=await driver.grade_text(grade, text, problem),
  )
