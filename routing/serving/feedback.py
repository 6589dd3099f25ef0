"""Learns from feedback in service: the online threshold, the drift alarms.

**Which loss.** A promise is about the relative loss: the largest model alone
would have been right, and this answer is wrong. Feedback says whether the
answer was right. So the loss of an answer is

- 0 if it was right, or if the largest model wrote all of it;
- known if the largest model answered in the background as well (a *shadow*): 0
  if its final answer is the same, and with the right answer at hand, graded;
- otherwise at most 1, and counted as 1.

**The online threshold** counts every loss as above. Its guarantee (`online`)
holds for what is counted, and so for the relative loss, which is not more.
Grades that come late, after other answers were routed, slow it down by as many
answers as are in between.

**The drift alarm** of a point tests its promise, and would be raised falsely if
errors counted in full that the largest model makes too. Let e be its share of
errors, `large_errors`. Without shadows every answer is counted, and the alarm
tests alpha + e in place of alpha. With shadows only answers are counted that
were chosen, at random beforehand, to have one. A loss that is known counts as
it is. One that is not, since the feedback came before the shadow, or does not
give the right answer, counts as alpha / (alpha + e): its expectation is then
again at most alpha.

**The relative loss in service** is estimated from answers whose feedback gave
the right answer when the shadow was there. Feedback that says `correct` would
make only losses of 0 known, and the estimate too low.
"""

import asyncio
from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import hashlib
from typing import Any

from absl import logging
import flax.serialization

from routing.calibration import drift
from routing.calibration import online
from routing.grading import equivalence
from routing.routers import learned
from routing.serving import points as points_lib
from routing.serving import refusals
from routing.serving import settings as settings_lib
from routing.serving import store as store_lib


@dataclasses.dataclass(frozen=True)
class Loss:
  """The relative loss of an answer, as far as it is known.

  value: 0 or 1.
  is_known: False if it is an upper bound.
  is_graded: whether both answers were graded, so that the loss would be known
    whatever it is.
  """

  value: float
  is_known: bool
  is_graded: bool = False


class Feedback:
  """Takes feedback, and keeps what follows from it.

  Args:
    router: the router that is served.
    settings: of the service.
    store: keeps answers and states.
    grade: the task's grader, for feedback that gives the right answer.
    on_alarm: called with the name of a point when its alarm is raised.
    on_loss: called with the model and the loss of each answer with a shadow,
      if both were graded.
  """

  def __init__(
      self,
      router: learned.LearnedRouter,
      settings: settings_lib.Settings,
      store: store_lib.Store,
      grade: equivalence.Grader,
      on_alarm: Callable[[str], None] = lambda point: None,
      on_loss: Callable[[str, float], None] = lambda model, loss: None,
  ):
    self._settings, self._store, self._grade = settings, store, grade
    self._on_alarm, self._on_loss = on_alarm, on_loss
    allowed = 0.0 if settings.shadow_share else settings.large_errors
    # What is not known counts otherwise with other `large_errors`.
    kind = (
        f'alarm{settings.large_errors:g}' if settings.shadow_share else 'alarm'
    )
    self._alarms = {
        point.name: (
            self._state_name(kind, router, allowed, point),
            drift.init(min(point.promise['level'] + allowed, 0.999)),
        )
        for point in router.points
        if _promises_loss(point)
    }
    self._policy_index, start = _start_of(router, settings.online_alpha)
    self._online = None
    if settings.online_alpha:
      self._online = (
          self._state_name('online', router, settings.online_alpha),
          online.init(start, alpha=settings.online_alpha),
      )
    self._restore()

  @property
  def threshold(self) -> Callable[[], tuple[int, float]] | None:
    """Returns policy and threshold of the online point; None = no such one"""
    if self._online is None:
      return None
    return lambda: (self._policy_index, float(self._online[1].kappa))

  def alarms(self) -> dict[str, bool]:
    """Returns for each point with a promise of loss if its alarm was raised."""
    delta = self._settings.alarm_delta
    return {
        name: bool(drift.is_alarm(state, delta))
        for name, (_, state) in self._alarms.items()
    }

  async def take(
      self,
      id_: str,
      owner: str,
      *,
      correct: bool | None = None,
      answer: str | None = None,
  ) -> dict[str, Any]:
    """Takes the feedback to an answer.

    Args:
      id_: of the answer.
      owner: name of the key, which must be the one that the answer is for.
      correct: whether the answer was right.
      answer: the right answer, in place of `correct`.

    Returns:
      What was understood, JSON-like.

    Raises:
      refusals.Refusal: if there is no such answer, or it was graded before, or
        not exactly one of `correct` and `answer` is given.
    """
    if (correct is None) == (answer is None):
      raise refusals.invalid('correct', 'Give correct or answer, one of them.')
    kept = self._store.answer(id_)
    # Whoever has another key must not learn which ids there are.
    if kept is None or kept['owner'] != owner:
      raise refusals.Refusal(
          404,
          f'There is no answer with the id {id_[:100]!r}.',
          param='id',
          code='answer_not_found',
      )
    if kept['graded']:  # Else it would be compared for nothing.
      raise _already_graded()
    loss, correct = await self._loss(kept, correct, answer)
    states = self._updated(kept, loss)
    blobs = {
        name: flax.serialization.to_bytes(state)
        for name, state in states.items()
    }
    if not self._store.grade(id_, blobs):  # By another request, meanwhile.
      raise _already_graded()
    self._adopt(states)
    if loss.is_graded:
      self._on_loss(kept['model'], loss.value)
    return {
        'id': id_,
        'object': 'feedback',
        'correct': correct,
        'loss': loss.value,
        'is_loss_known': loss.is_known,
    }

  async def _loss(
      self, kept: Mapping[str, Any], correct: bool | None, answer: str | None
  ) -> tuple[Loss, bool]:
    """Returns the loss of an answer, and whether it was right."""
    shadow = kept['shadow']
    is_graded = answer is not None and shadow is not None
    if answer is not None:
      correct = await self._is_right(kept['text'], answer)
    if correct or kept['is_all_large']:
      return Loss(0.0, True, is_graded), correct
    if shadow is None:
      return Loss(1.0, False), correct
    if answer is not None:
      is_lost = await self._is_right(shadow, answer)
      return Loss(float(is_lost), True, is_graded), correct
    # Both are wrong if the final answers are the same.
    final = (await self._verdict(shadow, '')).answer
    is_same = bool(final) and await self._is_right(kept['text'], final)
    return Loss(0.0, True) if is_same else Loss(1.0, False), correct

  async def _is_right(self, text: str, reference: str) -> bool:
    return (await self._verdict(text, reference)).is_correct

  async def _verdict(self, text: str, reference: str):
    """Returns the grader's verdict; in a thread, since it may take long."""
    return await asyncio.to_thread(self._grade, text, reference, None)

  def _updated(self, kept: Mapping[str, Any], loss: Loss) -> dict[str, Any]:
    """Returns name -> state of what this loss changes."""
    states = {}
    head, _, point = kept['model'].partition('@')
    if kept['model'] == points_lib.ONLINE and self._online is not None:
      name, state = self._online
      states[name] = online.update(state, loss.value)
    counts = kept['is_shadowed'] or not self._settings.shadow_share
    if head == points_lib.ROUTER and point in self._alarms and counts:
      name, state = self._alarms[point]
      states[name] = drift.update(state, self._counted(loss, state))
    return states

  def _counted(self, loss: Loss, state: drift.State) -> float:
    """Returns a loss as an alarm counts it; see the module."""
    if loss.is_known or not self._settings.shadow_share:
      return loss.value
    # In expectation it is at most (alpha + e) times this factor, hence alpha.
    alpha = float(state.alpha)
    return loss.value * alpha / (alpha + self._settings.large_errors)

  def _adopt(self, states: Mapping[str, Any]) -> None:
    """Makes saved states the present ones; says so where an alarm is new."""
    before = self.alarms()
    if self._online is not None and self._online[0] in states:
      self._online = self._online[0], states[self._online[0]]
    self._alarms = {
        point: (name, states.get(name, state))
        for point, (name, state) in self._alarms.items()
    }
    for point, is_raised in self.alarms().items():
      if is_raised and not before[point]:
        self._on_alarm(point)

  def _state_name(
      self, kind: str, router: learned.LearnedRouter, alpha: float, point=None
  ) -> str:
    """Returns the name of a state, which begins anew where its meaning does."""
    # A new calibration, or another target, is another promise.
    parts = [router.checkpoint_hash, f'{alpha:g}']
    if point is not None:
      parts += [point.name, repr(point.threshold), point.shards_hash]
    digest = hashlib.sha256('\0'.join(parts).encode()).hexdigest()
    return f'{kind}/{point.name if point else ""}/{digest[:16]}'

  def _restore(self) -> None:
    """Takes over the states that were saved before a restart."""

    def restored(name, state):
      content = self._store.state(name)
      if content is None:
        return name, state
      logging.info('Continues with the saved state of %s.', name)
      return name, flax.serialization.from_bytes(state, content)

    self._alarms = {
        point: restored(*pair) for point, pair in self._alarms.items()
    }
    if self._online is not None:
      self._online = restored(*self._online)


def _already_graded() -> refusals.Refusal:
  return refusals.Refusal(
      409,
      'This answer has had its feedback already.',
      param='id',
      code='already_graded',
  )


def _promises_loss(point) -> bool:
  """Returns whether the first promise of a point is about all losses."""
  promise = point.promise
  return (
      promise['what'] == 'loss'
      and promise.get('delta') is not None
      and 'group' not in promise
  )


def _start_of(router: learned.LearnedRouter, alpha: float) -> tuple[int, float]:
  """Returns policy and threshold at which the online threshold starts.

  They are those of the promised point whose loss is nearest to `alpha`; else
  the policy of the last level, always handing over.
  """
  found = [
      point
      for point in router.points
      if _promises_loss(point) and not isinstance(point.threshold, tuple)
  ]
  if not found:
    return router.num_policies - 1, 0.0
  best = min(found, key=lambda x: abs(x.promise['level'] - alpha))
  return best.policy_index, min(max(best.threshold, 0.0), 1.0)
