"""Token-level routing of whole answers.

The small model writes. After each token a classifier scores how likely it is to
lead away from the large model's answer; where the score reaches the threshold,
the large model writes this token in its place, and the small one goes on.

Source: R2R, Fu et al. 2025, arXiv 2505.21600, section 3.3.
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
from routing.routers import logistic

TOP_K = 5  # Largest log-probabilities that the classifier sees.
_FLOOR = -20.0  # Log-probabilities below say no more.


def features(ids: Sequence[int], log_probs: np.ndarray) -> np.ndarray:
  """Returns what the classifier sees of each token, `[n, V + TOP_K + 2]`.

  These are the token itself, the largest log-probabilities, that of the token,
  and the entropy in nats.

  Args:
    ids: the n tokens that the small model wrote.
    log_probs: `[n, V]` log-probabilities of the small model at their places.
  """
  clipped = np.maximum(log_probs, _FLOOR)
  token = np.eye(log_probs.shape[-1])[list(ids)]
  top = -np.sort(-clipped)[:, :TOP_K]
  own = clipped[np.arange(len(ids)), list(ids)][:, None]
  entropy = -np.sum(np.exp(clipped) * clipped, axis=-1, keepdims=True)
  return np.concatenate([token, top, own, entropy], axis=1)


@dataclasses.dataclass
class _Text:
  """An answer in progress.

  ids: its tokens.
  log_probs: `[V]` log-probabilities of the small model at each of them.
  calls: all calls so far.
  """

  ids: list[int]
  log_probs: list[np.ndarray]
  calls: list[types.Call]


async def answer(
    problem: types.Problem,
    engines: Sequence[engine_lib.Engine],
    *,
    seed: int,
    sampling: step_requests.Sampling,
    grade: equivalence.Grader,
    threshold: float,
    weights: Sequence[float],
    constant: float,
    chunk: int = 8,
    sample: int = 0,
) -> types.Trajectory:
  """Answers one problem by routing single tokens.

  Args:
    problem: the problem.
    engines: the small and the large model, both embedded.
    seed: of the run.
    sampling: temperatures and the limit of tokens.
    grade: the grader of the final answer.
    threshold: the large model writes a token whose score reaches it; inf = the
      small model alone, -inf = every token.
    weights, constant: the classifier, a logistic one on `features`.
    chunk: tokens that are computed before they are scored. It does not change
      what is charged, nor a greedy answer: both are as if each token were
      scored at once, so that no token follows one that is replaced.
    sample: index among several answers to the same problem.

  Returns:
    The trajectory. Its calls are the stretches of the small model, of which
    the last token may have been replaced (kind 'draft' then, and 'step' where
    all tokens were kept), and the single tokens of the large one.

  Raises:
    ValueError: if there are not two models, `chunk` is below 1, or an engine
      gives no next-token distributions.
  """
  if chunk < 1:
    raise ValueError(f'chunk is {chunk}; allowed: 1 or more.')
  if len(engines) != 2:
    raise ValueError(f'Got {len(engines)} engines; allowed: 2.')
  driver.check_routes(engines)
  classifier = logistic.Linear(np.asarray(weights, np.float64), constant)
  rng = token_answers.rng(seed, problem, 1, sample)
  async with token_answers.open_all(engines, problem.question) as sessions:
    small, large = sessions
    text = await _write(
        small, large, classifier, threshold, chunk, sampling, rng
    )
    return await token_answers.trajectory(
        problem,
        text.ids,
        text.log_probs,
        text.calls,
        small,
        sampling=sampling,
        grade=grade,
    )


async def _write(
    small: token_session.TokenSession,
    large: token_session.TokenSession,
    classifier: logistic.Linear,
    threshold: float,
    chunk: int,
    sampling: step_requests.Sampling,
    rng: np.random.Generator,
) -> _Text:
  """Returns the whole text; the arguments are those of `answer`."""
  text = _Text([], [], [])
  budget = large.room(sampling.max_tokens)
  while len(text.ids) < budget and small.tokenizer.eos_id not in text.ids:
    is_replaced = await _draft(
        text,
        small,
        classifier,
        threshold,
        min(chunk, budget - len(text.ids)),
        sampling.temperature_of(0),
        rng,
    )
    if is_replaced:
      await _replace(text, large, sampling.temperature_of(1), rng)
  return text


async def _draft(
    text: _Text,
    small: token_session.TokenSession,
    classifier: logistic.Linear,
    threshold: float,
    count: int,
    temperature: float,
    rng: np.random.Generator,
) -> bool:
  """Has the small model write on, up to the first doubtful token.

  The doubtful token stands in the text afterwards, to be replaced.

  Args:
    text: the answer so far.
    small: the session of the small model.
    classifier: scores the tokens.
    threshold: the score from which a token is doubtful.
    count: the largest number of new tokens.
    temperature: of the small model.
    rng: the source of randomness.

  Returns:
    Whether the last token of the text is doubtful.
  """
  found = await small.write(text.ids, count, temperature=temperature, rng=rng)
  scores = classifier.probability(features(found.ids, found.log_probs))
  doubtful = np.flatnonzero(scores >= threshold)
  kept = int(doubtful[0]) + 1 if doubtful.size else len(found.ids)
  text.ids += found.ids[:kept]
  text.log_probs += list(found.log_probs[:kept])
  usage = dataclasses.replace(found.usage, written=kept)
  kind = 'draft' if doubtful.size else 'step'
  text.calls.append(steps_lib.as_call(kind, usage))
  return bool(doubtful.size)


async def _replace(
    text: _Text,
    large: token_session.TokenSession,
    temperature: float,
    rng: np.random.Generator,
) -> None:
  """Has the large model write the last token of the text."""
  before = text.ids[:-1]
  found = await large.read(before)
  text.ids[-1] = draws.draw(found.log_probs[-1], temperature, rng)
  large.wrote(text.ids)
  usage = dataclasses.replace(found.usage, written=1)
  text.calls.append(steps_lib.as_call('step', usage))
