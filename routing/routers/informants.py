"""Informants that several routers share: opinions on a step, and a first token.

A *reader* reads the question and the steps so far, the newest one included, and
gives a number to it: a process reward model, or a model that judges. It writes
no step. Its compute is charged as that of a further route.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Protocol

import numpy as np

from routing import types
from routing.engines import step_scorer
from routing.features import confidence
from routing.rollout import inquiry as inquiry_lib


@dataclasses.dataclass(frozen=True)
class Opinion:
  """What a reader says of an answer so far, and what reading it took.

  scores: in [0, 1]; the last one is that of the newest step. A reader that
    scores every step gives one number for each.
  usage: of this reading.
  """

  scores: tuple[float, ...]
  usage: types.Usage


class Reader(Protocol):
  """Reads answers so far and scores their newest step.

  name: identifies the reader in caches of answers.
  """

  name: str

  async def read(
      self, question: str, steps: tuple[str, ...], num_known: int
  ) -> Opinion:
    """Returns an opinion on the newest step.

    Args:
      question: text of the question.
      steps: texts of the steps so far, the newest last.
      num_known: how many of the first steps the reader has read for this answer
        before, so that its prefix cache may have them.
    """
    ...


class Scorer:
  """A reader that asks a step scorer, all that wait for it in one batch.

  What has been scored once is remembered, as scores are functions of the text.

  Args:
    name: identifies the scorer in caches of answers, e.g. a hash of weights.
    scorer: scores steps; it is called from a thread.
    route: the route by which its tokens are charged.
  """

  def __init__(self, name: str, scorer: step_scorer.StepScorer, route: int):
    self.name, self.route = name, route
    self._scorer = scorer
    self._known: dict[tuple[str, tuple[str, ...]], step_scorer.StepScores] = {}
    self._waiting: dict[tuple[str, tuple[str, ...]], asyncio.Future] = {}
    self._task: asyncio.Task | None = None

  def score_all(
      self, answers: Sequence[tuple[str, tuple[str, ...]]]
  ) -> list[step_scorer.StepScores]:
    """Returns the scores of (question, steps) pairs, e.g. to learn from."""
    unknown = list(dict.fromkeys(x for x in answers if x not in self._known))
    if unknown:
      found = self._scorer.score(unknown)
      self._known.update(zip(unknown, found, strict=True))
    return [self._known[x] for x in answers]

  async def read(
      self, question: str, steps: tuple[str, ...], num_known: int
  ) -> Opinion:
    """Returns the score of each step; see `Reader.read`."""
    found = await self._scored((question, steps))
    read, seconds = found.read, found.seconds
    return Opinion(
        tuple(found.scores.tolist()),
        types.Usage(
            route=self.route,
            read=int(read[num_known:].sum()),
            cached=int(read[:num_known].sum()),
            written=0,
            seconds=float(seconds[num_known:].sum()),
        ),
    )

  async def _scored(self, key) -> step_scorer.StepScores:
    """Returns the scores of one answer, from memory or with the next batch."""
    if key in self._known:
      return self._known[key]
    if key not in self._waiting:
      self._waiting[key] = asyncio.get_running_loop().create_future()
    if self._task is None or self._task.done():
      self._task = asyncio.create_task(self._work())
    # Whoever stops waiting must not cancel the reply for the others.
    return await asyncio.shield(self._waiting[key])

  async def _work(self) -> None:
    """Scores what waits, batch by batch, until nothing does."""
    try:
      while self._waiting:
        # All that is ready to ask asks before the batch is closed.
        await asyncio.sleep(0)
        await self._score_batch(list(self._waiting))
    finally:
      # Only a cancelled event loop leaves something; nobody waits for it.
      self._waiting.clear()

  async def _score_batch(self, batch) -> None:
    """Scores answers together; those who wait get the scores or the error."""
    error = None
    try:
      await asyncio.to_thread(self.score_all, batch)
    except Exception as raised:  # noqa: BLE001  It is passed on.
      error = raised
    for key in batch:
      future = self._waiting.pop(key)
      if error is not None:
        future.set_exception(error)
      else:
        future.set_result(self._known[key])


def texts(trace: types.Trace) -> tuple[str, ...]:
  """Returns the texts of the accepted steps and of the draft, if any."""
  draft = () if trace.draft is None else (trace.draft,)
  return tuple(x.text for x in (*trace.steps, *draft))


def num_known(trace: types.Trace) -> int:
  """Returns how many of the first steps were on view at an earlier decision.

  A discarded draft was on view, but the step that replaced it was not.
  """
  if trace.previous is None:
    return 0
  count = 0
  for old, new in zip(texts(trace.previous), texts(trace), strict=False):
    if old != new:
      break
    count += 1
  return count


@dataclasses.dataclass(frozen=True)
class OfDraft:
  """The informant that has a reader score the draft.

  The evidence is what the reader says, the score of the draft last.

  reader: reads the question, the accepted steps and the draft.
  """

  reader: Reader

  async def ask(
      self, trace: types.Trace, inquiry: inquiry_lib.Inquiry
  ) -> tuple[float, ...]:
    """Returns the reader's scores; charges what it has read.

    Raises:
      ValueError: if there is no draft to score.
    """
    if trace.draft is None:
      raise ValueError(
          'A step score needs a draft; use the protocol redraft, or escalate '
          'with the view peek.'
      )
    opinion = await self.reader.read(
        trace.question, texts(trace), num_known(trace)
    )
    inquiry.charge(opinion.usage)
    return opinion.scores


@dataclasses.dataclass(frozen=True)
class FirstToken:
  """The informant that has a model write the first token of the next step.

  The evidence is the entropy of this token in nats, and the largest
  log-probability. Of the vocabulary outside the top k, which engines do not
  return, the entropy sees one outcome; see `confidence.truncated_entropy`.

  route: the model that is probed, one token for each decision.
  """

  route: int = 0

  async def ask(
      self, trace: types.Trace, inquiry: inquiry_lib.Inquiry
  ) -> tuple[float, ...]:
    """Returns entropy and largest log-probability; the token is charged.

    Raises:
      ValueError: if the engine returns no top log-probabilities.
    """
    del trace  # The model continues the accepted steps.
    first, *_ = await inquiry.write(self.route, 1)
    top = np.asarray(first.top_log_probs, np.float64)
    if top.ndim != 2 or not top.size:
      raise ValueError(
          'A probe of the first token needs top log-probabilities, but the '
          f'engine of route {self.route} returned none.'
      )
    entropy = float(confidence.truncated_entropy(top[:1])[0])
    return entropy, float(top[0, 0])


@dataclasses.dataclass(frozen=True)
class InWords:
  """The informant that asks a model in words, e.g. for a grade of the draft.

  The evidence is one number. What the text has in common with that of the
  decision before, from its beginning on, is charged as cached.

  put: returns what the model is asked about a trace.
  read: returns the number that a reply stands for.
  route: the model that is asked.
  max_tokens: of a reply.
  """

  put: Callable[[types.Trace], str]
  read: Callable[[str], float]
  route: int
  max_tokens: int = 1

  async def ask(
      self, trace: types.Trace, inquiry: inquiry_lib.Inquiry
  ) -> tuple[float, ...]:
    """Returns the number that the reply stands for; the reply is charged."""
    text, before = self.put(trace), trace.previous
    earlier = None if before is None else self.put(before)
    reply = await inquiry.ask(self.route, text, self.max_tokens, earlier)
    return (self.read(reply),)
