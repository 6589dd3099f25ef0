"""Power sampling: answers from the sharpened distribution p^alpha of one model.

The answer grows by blocks of tokens. After each block, Metropolis-Hastings
moves rewrite the text from a random place on: the proposal is the model itself
at temperature 1/alpha, and the acceptance corrects it, so that the moves leave
p(x)^alpha of whole texts unchanged. At temperature 1/alpha alone every token
would be sharpened by itself, which is another law.

Source: Karan and Du 2025, arXiv 2510.14901, algorithm 1.
"""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np

from routing import types
from routing.engines import engine as engine_lib
from routing.engines import token_session
from routing.grading import equivalence
from routing.rollout import driver
from routing.rollout import step_requests
from routing.rollout import steps as steps_lib
from routing.rollout import token_answers


@dataclasses.dataclass(frozen=True)
class Text:
  """The tokens of an answer, and the distributions that they were drawn from.

  ids: the n tokens, n >= 1.
  log_probs: `[n, V]` float64, log-probabilities at temperature 1.
  """

  ids: tuple[int, ...]
  log_probs: np.ndarray

  def log_probability(self, start: int, temperature: float) -> float:
    """Returns the log-probability of the tokens from `start` on.

    Args:
      start: index of the first token that counts.
      temperature: at which the tokens are drawn, above 0.
    """
    rows = self.log_probs[start:] / temperature
    norm = np.logaddexp.reduce(rows, axis=-1)
    return float(
        (rows[np.arange(len(rows)), list(self.ids[start:])] - norm).sum()
    )


def log_acceptance(
    current: Text, proposal: Text, start: int, alpha: float
) -> float:
  """Returns the logarithm of the acceptance ratio of a proposal.

  With the proposal's law q (the model at temperature 1/alpha) and a start that
  is uniform over the tokens of the text, the ratio is
    p(x')^alpha q(x | x') |x| / (p(x)^alpha q(x' | x) |x'|).

  Args:
    current: x, the text before the move.
    proposal: x', which equals x before `start`.
    start: index of the first token that was written anew.
    alpha: the power, above 0.
  """

  def weight(text):
    return (
        alpha * text.log_probability(start, 1.0)
        - text.log_probability(start, 1.0 / alpha)
        # A start is drawn among all tokens, and texts that end are shorter.
        - math.log(len(text.ids))
    )

  return weight(proposal) - weight(current)


async def move(
    session: token_session.TokenSession,
    current: Text,
    *,
    limit: int,
    alpha: float,
    rng: np.random.Generator,
) -> tuple[Text, types.Call]:
  """Makes one Metropolis-Hastings move; returns the text after it and the call.

  Args:
    session: of the model.
    current: the text before the move.
    limit: maximum number of tokens of a text.
    alpha: the power.
    rng: the source of randomness.
  """
  start = int(rng.integers(len(current.ids)))
  kept = current.ids[:start]
  written = await session.write(
      kept, limit - start, temperature=1.0 / alpha, rng=rng
  )
  proposal = Text(
      (*kept, *written.ids),
      np.concatenate([current.log_probs[:start], written.log_probs]),
  )
  ratio = log_acceptance(current, proposal, start, alpha)
  # 1 - random() is in (0, 1], so that its logarithm is finite.
  is_accepted = math.log(1.0 - rng.random()) <= ratio
  call = steps_lib.as_call('draft', written.usage)
  return (proposal if is_accepted else current), call


async def _extend(session, text, limit, alpha, rng) -> tuple[Text, types.Call]:
  """Writes on to `limit` tokens; returns the text and the call."""
  written = await session.write(
      text.ids, limit - len(text.ids), temperature=1.0 / alpha, rng=rng
  )
  longer = Text(
      (*text.ids, *written.ids),
      np.concatenate([text.log_probs, written.log_probs]),
  )
  return longer, steps_lib.as_call('step', written.usage)


async def answer(
    problem: types.Problem,
    engines: Sequence[engine_lib.Engine],
    *,
    seed: int,
    sampling: step_requests.Sampling,
    grade: equivalence.Grader,
    alpha: float = 4.0,
    block_size: int = 44,
    num_moves: int = 2,
    route: int = 0,
    sample: int = 0,
) -> types.Trajectory:
  """Answers one problem by power sampling with one model.

  Args:
    problem: the problem.
    engines: A engines, with `engines[m].route == m`; that of `route` must be
      embedded.
    seed: of the run.
    sampling: its `max_tokens` limits the answer; its temperature is not used.
    grade: the grader of the final answer.
    alpha: the power, above 0; 1 = the model's own distribution.
    block_size: number of tokens by which the answer grows between moves, >= 1.
    num_moves: moves after each block, >= 0; 0 = sampling at temperature
      1/alpha.
    route: the model that is sampled.
    sample: index among several answers to the same problem.

  Returns:
    The trajectory. Its calls are the first writing of each block (kind 'step')
    and every proposal, accepted or not (kind 'draft').

  Raises:
    ValueError: if a number is out of range, there is no such route, or its
      engine gives no next-token distributions.
  """
  _check(alpha, block_size, num_moves)
  driver.check_routes(engines)
  if not 0 <= route < len(engines):
    raise ValueError(f'The route is {route}; allowed: 0 to {len(engines) - 1}.')
  rng = token_answers.rng(seed, problem, route, sample)
  async with token_answers.open_all([engines[route]], problem.question) as (
      session,
  ):
    text, calls = await _walk(
        session,
        session.room(sampling.max_tokens),
        *(alpha, block_size, num_moves, rng),
    )
    return await token_answers.trajectory(
        problem,
        text.ids,
        text.log_probs,
        calls,
        session,
        sampling=sampling,
        grade=grade,
    )


async def _walk(
    session, budget, alpha, block_size, num_moves, rng
) -> tuple[Text, list[types.Call]]:
  """Returns the text at the end of the chain, and all calls."""
  text, calls = Text((), np.zeros((0, len(session.tokenizer)))), []
  for limit in (*range(block_size, budget, block_size), budget):
    # The moves go on after the answer has ended, because a proposal may end
    # later. To stop here would favour answers that end early.
    if session.tokenizer.eos_id not in text.ids:
      text, call = await _extend(session, text, limit, alpha, rng)
      calls.append(call)
    for _ in range(num_moves):
      text, call = await move(session, text, limit=limit, alpha=alpha, rng=rng)
      calls.append(call)
  return text, calls


def _check(alpha: float, block_size: int, num_moves: int) -> None:
  """Raises ValueError if a number is out of range."""
  if not 0 < alpha < math.inf:
    raise ValueError(f'alpha is {alpha}; allowed: above 0 and finite.')
  if block_size < 1 or num_moves < 0:
    raise ValueError(
        f'block_size is {block_size} and num_moves is {num_moves}; allowed: '
        '>= 1 and >= 0.'
    )
