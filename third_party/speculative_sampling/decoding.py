"""Speculative sampling of whole answers.

The small model drafts g tokens. The large model reads them in one pass, keeps
each with probability min(1, p/q), replaces the first that it does not keep by a
draw from the residual (p - q)+, and adds a token of its own if it keeps all. So
the answer has exactly the law of the large model alone.

Sources: Leviathan, Kalman, Matias 2023, arXiv 2211.17192, algorithm 1; Chen et
al. 2023, arXiv 2302.01318, algorithm 2.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from routing import types
from routing.engines import engine as engine_lib
from routing.engines import token_session
from routing.grading import equivalence
from routing.lm import draws
from routing.rollout import driver
from routing.rollout import step_requests
from routing.rollout import steps as steps_lib
from routing.rollout import token_answers


def verify(
    drafts: Sequence[int],
    small: np.ndarray,
    large: np.ndarray,
    rng: np.random.Generator,
) -> tuple[tuple[int, ...], bool]:
  """Returns the tokens that replace the drafts, and who wrote the last one.

  Args:
    drafts: the g drafted tokens, token i drawn from `small[i]`; g may be 0.
    small: `[g, V]` float64, probabilities q from which they were drawn.
    large: `[g, V]` or `[g + 1, V]` float64, probabilities p of the large model
      at the same places, and after the last draft if the answer may go on.
    rng: the source of randomness.

  Returns:
    The kept drafts, followed by one token of the large model, unless all are
    kept and `large` has no row for it; and whether there is such a token.
  """
  for i, token in enumerate(drafts):
    # random() < p / q, without a division.
    if rng.random() * small[i, token] < large[i, token]:
      continue
    residual = np.maximum(large[i] - small[i], 0.0)
    if not residual.any():  # The laws differ by rounding only.
      residual = large[i]
    return (*drafts[:i], draws.pick(residual, rng)), True
  if len(large) == len(drafts):
    return tuple(drafts), False
  return (*drafts, draws.pick(large[-1], rng)), True


async def answer(
    problem: types.Problem,
    engines: Sequence[engine_lib.Engine],
    *,
    seed: int,
    sampling: step_requests.Sampling,
    grade: equivalence.Grader,
    num_drafts: int = 4,
    sample: int = 0,
) -> types.Trajectory:
  """Answers one problem by speculative sampling.

  Args:
    problem: the problem.
    engines: the small and the large model, both embedded.
    seed: of the run.
    sampling: temperatures and the limit of tokens. At temperature 0 the answer
      is that of the large model.
    grade: the grader of the final answer.
    num_drafts: g, tokens that the small model drafts at a time; 0 = the large
      model alone.
    sample: index among several answers to the same problem.

  Returns:
    The trajectory. Its calls are the drafts of the small model (kind 'draft')
    and the verifications of the large one (kind 'step'): drafted tokens are
    read, the token of the large model is written.

  Raises:
    ValueError: if `num_drafts` is negative, there are not two models, or an
      engine gives no next-token distributions.
  """
  if num_drafts < 0:
    raise ValueError(f'num_drafts is {num_drafts}; allowed: >= 0.')
  if len(engines) != 2:
    raise ValueError(f'Got {len(engines)} engines; allowed: 2.')
  driver.check_routes(engines)
  rng = token_answers.rng(seed, problem, 1, sample)
  text = _Text([], [], [])
  async with token_answers.open_all(engines, problem.question) as sessions:
    small, large = sessions
    budget = large.room(sampling.max_tokens)
    while len(text.ids) < budget and large.tokenizer.eos_id not in text.ids:
      # One token is left for the large model.
      count = min(num_drafts, budget - len(text.ids) - 1)
      await _round(text, small, large, count, sampling, rng)
    return await token_answers.trajectory(
        problem,
        text.ids,
        text.log_probs,
        text.calls,
        large,
        sampling=sampling,
        grade=grade,
    )


@dataclasses.dataclass
class _Text:
  """An answer in progress.

  ids: its tokens.
  log_probs: `[V]` log-probabilities of the large model at each of them.
  calls: all calls so far.
  """

  ids: list[int]
  log_probs: list[np.ndarray]
  calls: list[types.Call]


async def _round(
    text: _Text,
    small: token_session.TokenSession,
    large: token_session.TokenSession,
    num_drafts: int,
    sampling: step_requests.Sampling,
    rng: np.random.Generator,
) -> None:
  """Drafts and verifies tokens, and adds what is kept to the text."""
  drafted = await small.write(
      text.ids, num_drafts, temperature=sampling.temperature_of(0), rng=rng
  )
  if drafted.ids:
    text.calls.append(steps_lib.as_call('draft', drafted.usage))
  # Nothing follows the end of an answer, so the large model need not read the
  # token that ends it.
  has_end = large.tokenizer.eos_id in drafted.ids
  read = [*text.ids, *drafted.ids[: len(drafted.ids) - has_end]]
  found = await large.read(read, len(drafted.ids) + (not has_end))
  new, is_own = verify(
      drafted.ids,
      draws.tempered(drafted.log_probs, sampling.temperature_of(0)),
      draws.tempered(found.log_probs, sampling.temperature_of(1)),
      rng,
  )
  text.ids += new
  text.log_probs += list(found.log_probs[: len(new)])
  if is_own:
    large.wrote(text.ids)
  usage = dataclasses.replace(found.usage, written=int(is_own))
  text.calls.append(steps_lib.as_call('step', usage))


def acceptance_rate(trajectories: Sequence[types.Trajectory]) -> float:
  """Returns the share of drafted tokens that were kept, in [0, 1].

  Tokens after an answer that `Sampling.finders` ends early count as not kept.

  Raises:
    ValueError: if no token was drafted.
  """
  drafted = kept = 0
  for trajectory in trajectories:
    length = sum(step.num_tokens for step in trajectory.steps)
    drafted += sum(c.written for c in trajectory.calls if c.kind == 'draft')
    # What the large model did not write itself was drafted.
    kept += length - sum(c.written for c in trajectory.calls if c.route == 1)
  if not drafted:
    raise ValueError('No token was drafted; num_drafts must be at least 1.')
  return kept / drafted
