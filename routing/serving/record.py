"""The record of an answer in service: steps, decisions, costs, our own time."""

import collections
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
import itertools
import time
from typing import Any

from routing import costs
from routing import types
from routing.engines import boundaries
from routing.grading import answers
from routing.rollout import steps as steps_lib
from routing.rollout import watching
from routing.serving import back_ends

_COUNTS = ('read', 'cached', 'written')


@dataclasses.dataclass
class Extra:
  """What was paid at one step besides the step itself.

  score, threshold: of the decision; None = there was none.
  tokens: written for nothing: discarded drafts, and text written ahead.
  usages: the usages of these.
  """

  score: float | None = None
  threshold: float | None = None
  tokens: int = 0
  usages: list[types.Usage] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class _Times:
  """The time of each step: what back ends needed, and what we did.

  since: when the step in progress began.
  ours, theirs: step index -> seconds.
  """

  since: float = 0.0
  waited: float = 0.0
  ours: dict[int, float] = dataclasses.field(
      default_factory=lambda: collections.defaultdict(float)
  )
  theirs: dict[int, float] = dataclasses.field(
      default_factory=lambda: collections.defaultdict(float)
  )

  def split(self, now: float, waited: float, indices: Sequence[int]) -> None:
    """Gives the time since the last call to the steps that it has written.

    Args:
      now: by the clock.
      waited: seconds for which the answer has waited for back ends so far.
      indices: of the steps.
    """
    theirs = waited - self.waited
    ours = now - self.since - theirs
    for index in indices:
      self.ours[index] += ours / len(indices)
      self.theirs[index] += theirs / len(indices)
    self.since, self.waited = now, waited


class Record(watching.Watcher):
  """Follows one answer while it is written.

  Args:
    specs: the models, smallest first.
    threshold_at: from the number of a step to the threshold there.
    finders: see `step_requests.Sampling`.
    pay: called with what every call has used, as soon as that is known; also
      after the answer was given up, for what was being written then.
    on_step: called with each step of the answer, once it is sure to be one.
    is_seen: whether a step that was shown cannot be taken back. Otherwise steps
      are shown again, if a back end has to write them again and writes others.
    arrived: when the request came, by the clock; None = now.
    clock: seconds that rise.

  Attributes:
    steps: the steps of the answer so far.
    calls: the calls that have ended.
    text: the answer so far, as far as it was shown.
    decided_routes: the route of each decision.
    in_call: route of the call in progress; None = there is none.
    waited: seconds spent waiting for back ends.
    first_step_after: seconds until the first step was shown, those in the queue
      included; None = not yet.
    seconds: of the whole answer, without the queue; None = it is not closed.
  """

  def __init__(
      self,
      specs: Sequence[costs.RouteSpec],
      threshold_at: Callable[[int], float | None],
      *,
      finders: Sequence[str] = (),
      pay: Callable[[types.Usage], None] = lambda usage: None,
      on_step: Callable[[types.Step], None] = lambda step: None,
      is_seen: bool = False,
      arrived: float | None = None,
      clock: Callable[[], float] = time.perf_counter,
  ):
    self._specs, self._threshold_at = specs, threshold_at
    self._finders, self._pay, self._on_step = finders, pay, on_step
    self._is_seen, self._clock = is_seen, clock
    self.steps: list[types.Step] = []
    self.calls: list[types.Call] = []
    self.text = ''
    self._shown: list[str] = []  # Text of each step that was shown.
    self._extras: dict[int, Extra] = {}
    # What the steps have cost, which is told twice; see `row`.
    self._priced: dict[int, tuple[list[types.Usage], dict[str, float]]] = {}
    self._sums: tuple[int, dict[str, float]] = -1, {}  # Of so many calls.
    self._told: list[types.Usage] = []  # Of the call in progress.
    self._ahead: list[types.Step] = []  # Shown before its call has ended.
    self._place = 0  # Of the next step that the call in progress tells.
    self._kind, self._is_closed, self._has_answer = '', False, False
    self._created = self._start = self._asked_at = clock()
    self._arrived = self._created if arrived is None else arrived
    self._before = self._created - self._arrived
    self._times = _Times(self._created)
    self.decided_routes: list[int] = []
    self.in_call: int | None = None
    self.waited = 0.0
    self.first_step_after: float | None = None
    self.seconds: float | None = None

  @property
  def num_shown(self) -> int:
    """The number of steps that were shown."""
    return len(self._shown)

  @property
  def route(self) -> str:
    """Who wrote how many steps in a row, e.g. 'small:2,large:3'."""
    names = [self._specs[step.route].name for step in self.steps]
    return ','.join(
        f'{name}:{len(list(run))}' for name, run in itertools.groupby(names)
    )

  def begin(self, *, has_waited: bool = True) -> None:
    """Notes that the answer has its turn.

    Args:
      has_waited: whether it has had to wait until now for another answer's end.
        Otherwise all the time since the request came was ours.
    """
    self._start = self._times.since = self._clock()
    understood = self._created if has_waited else self._start
    self._before = understood - self._arrived
    self._times.ours[0] = self._before

  def asked(self, kind: str, route: int) -> None:
    """Notes that a call begins; see `watching.Watcher`."""
    self._kind, self._place, self.in_call = kind, 0, route
    self._told, self._ahead = [], []
    self._asked_at = self._clock()

  def told(self, place: int, step: types.Step) -> None:
    """Pays for a step in progress, and shows it if it is one of the answer."""
    # Of an attempt that failed, or was given up. Where the limit of tokens cuts
    # off the last step of the answer, it comes with the call.
    is_cut = boundaries.is_cut(step)
    if place < self._place and not is_cut:  # The back end begins anew.
      self._waste_told(self._extra(len(self.steps)))
      self._told = []
    self._told.append(step.usage)
    self._pay(step.usage)
    if self._is_closed or is_cut:
      return
    self._place = place + 1
    # A draft may be discarded. After a hand-over, the writer's steps are the
    # answer, up to the first that completes it.
    if self._kind == 'hand_over' and (
        place < len(self._ahead) or not self._has_answer
    ):
      self._ahead[place:] = [step]
      self._show(step, len(self.steps) + place)

  def billed(self, usage: types.Usage) -> None:
    """Pays for an attempt that has failed; see `watching.Watcher`."""
    self._pay(usage)
    extra = self._extra(len(self.steps))
    extra.tokens += int(usage.written)
    extra.usages.append(usage)
    self.calls.append(steps_lib.as_call('wasted', usage))

  def called(self, call: types.Call) -> None:
    """Pays for what the call used and did not tell; see `watching.Watcher`."""
    if call.kind != 'wasted':
      self.in_call = None
      self.waited += self._clock() - self._asked_at
      rest = {
          name: max(
              getattr(call, name) - sum(getattr(x, name) for x in self._told), 0
          )
          for name in (*_COUNTS, 'seconds')
      }
      if any(rest[name] for name in _COUNTS):
        self._pay(types.Usage(call.route, **rest, in_context=call.in_context))
      self._told, self._ahead = [], []
    else:
      self._pay(call)
      extra = self._extra(len(self.steps))
      extra.tokens += int(call.written)
      extra.usages.append(call)
    self.calls.append(call)

  def decided(self, trace: types.Trace, decision: types.Decision) -> None:
    """Notes a decision, and a draft that it discards."""
    index = len(trace.steps)
    self.decided_routes.append(decision.route)
    extra = self._extra(index)
    extra.threshold = self._threshold_at(index)
    # A model alone compares nothing.
    extra.score = None if extra.threshold is None else decision.score
    if trace.draft is not None and decision.route:
      extra.tokens += int(trace.draft.usage.written)
      extra.usages.append(trace.draft.usage)

  def accepted(self, steps: Sequence[types.Step]) -> None:
    """Shows the steps that were not shown yet; see `watching.Watcher`."""
    first = len(self.steps)
    self.steps.extend(steps)
    for index, step in enumerate(steps, first):
      self._show(step, index)
    self._times.split(self._clock(), self.waited, range(first, len(self.steps)))

  def restart(self, threshold_at: Callable[[int], float | None]) -> None:
    """Forgets the answer, which another model now writes; not what it cost."""
    # All that it cost so far stands at the first step of the new answer.
    kept = Extra()
    for extra in self._extras.values():
      kept.tokens += extra.tokens
      kept.usages += extra.usages
    self._extras = {0: kept}
    for step in self.steps:
      kept.tokens += int(step.usage.written)
      kept.usages.append(step.usage)
    self._waste_told(kept)  # Of the call that failed.
    self._told, self._ahead, self.steps, self._shown = [], [], [], []
    self.text, self._has_answer = '', False
    self._threshold_at = threshold_at
    self._times = _Times(self._start)
    self._times.ours[0] = self._before

  def close(self) -> None:
    """Ends the answer, finished or given up; what comes later is only paid."""
    if self._is_closed:
      return
    self._is_closed = True
    now, first = self._clock(), len(self.steps)
    self.seconds = now - self._start
    if self.in_call is not None:
      self.waited += now - self._asked_at
    # A call that was given up: what it has shown is part of the answer.
    for step in self._ahead:
      self.steps.append(step)
      if step.usage in self._told:
        self.calls.append(steps_lib.as_call('hand_over', step.usage))
        self._told.remove(step.usage)
    self._waste_told(self._extra(len(self.steps)))
    self._told, self._ahead = [], []
    # What is left of the time belongs to the last step.
    last = range(min(first, max(len(self.steps) - 1, 0)), len(self.steps))
    self._times.split(now, self.waited, last)

  @contextlib.contextmanager
  def writing(self, indices: Sequence[int]) -> Iterator[None]:
    """Adds the time of the context to what we needed for some steps, equally.

    Args:
      indices: of the steps.
    """
    start = self._clock()
    try:
      yield
    finally:
      seconds = self._clock() - start
      for index in indices:
        self._times.ours[index] += seconds / len(indices)

  @property
  def overhead(self) -> float:
    """Seconds that the answer took besides its back ends and the queue.

    That is the time to understand the request, to decide, to account for the
    steps and to write them to the client; complete once the answer is closed.
    """
    return max(sum(self._times.ours.values()), 0.0)

  @property
  def wasted_tokens(self) -> int:
    """The tokens that were written for nothing."""
    return sum(extra.tokens for extra in self._extras.values())

  @property
  def prompt_tokens(self) -> int:
    """The tokens of the first prompt, which holds the question."""
    if not self.calls:
      return 0
    return int(self.calls[0].read + self.calls[0].cached)

  @property
  def completion_tokens(self) -> int:
    """The length of the answer in tokens, each step under its writer."""
    return steps_lib.count_tokens(self.steps)

  def cost(self) -> dict[str, float]:
    """Returns cost metric -> cost of all calls that have ended."""
    if self._sums[0] != len(self.calls):  # Asked for by several.
      self._sums = len(self.calls), self._cost(self.calls)
    return dict(self._sums[1])

  def rows(self) -> list[dict[str, Any]]:
    """Returns one JSON-like mapping per step of the answer, with its times.

    `seconds` is what the back ends needed for the step, drafts included, and
    `overhead_ms` what we did. Steps of one request share both equally.
    """
    rows = [
        self.row(i, step)
        | {
            'seconds': round(self._times.theirs[i], 6),
            'overhead_ms': round(1_000 * self._times.ours[i], 3),
        }
        for i, step in enumerate(self.steps)
    ]
    # Text that was written ahead of the last step, for a step that never came.
    late = self._extras.get(len(self.steps))
    if late is not None and rows:
      rows[-1]['wasted_tokens'] += late.tokens
      for metric, value in self._cost(late.usages).items():
        rows[-1]['cost'][metric] += value
    return rows

  def row(self, index: int, step: types.Step) -> dict[str, Any]:
    """Returns a step of the answer as a JSON-like mapping."""
    extra = self._extras.get(index, Extra())
    usages = [step.usage, *extra.usages]
    if index not in self._priced or self._priced[index][0] != usages:
      self._priced[index] = usages, self._cost(usages)
    return {
        'step': index,
        'model': self._specs[step.route].name,
        'tokens': step.num_tokens,
        'score': extra.score,
        'threshold': extra.threshold,
        'cost': dict(self._priced[index][1]),
        'wasted_tokens': extra.tokens,
    }

  def _waste_told(self, extra: Extra) -> None:
    """Counts what the call in progress has told as written for nothing."""
    for usage in self._told:
      extra.tokens += int(usage.written)
      extra.usages.append(usage)
      self.calls.append(steps_lib.as_call('wasted', usage))

  def _show(self, step: types.Step, index: int) -> None:
    """Shows a step, unless it was shown before.

    Raises:
      back_ends.BackEndDown: if another one was seen at this index.
    """
    if index < len(self._shown):
      if self._shown[index] == step.text:
        return
      if self._is_seen:
        raise back_ends.BackEndDown(step.route, self._specs[step.route].name)
      del self._shown[index:]
    if self.first_step_after is None:
      self.first_step_after = self._clock() - self._created
    self._shown.append(step.text)
    self.text = ''.join(self._shown)
    self._has_answer = bool(self._finders) and (
        answers.end(self.text, self._finders) is not None
    )
    self._on_step(step)

  def _extra(self, index: int) -> Extra:
    return self._extras.setdefault(index, Extra())

  def _cost(self, usages: Sequence[types.Usage]) -> dict[str, float]:
    """Returns cost metric -> cost of these usages, in the metric's own unit."""
    return {
        metric: costs.total_cost(usages, self._specs, metric)
        for metric in costs.COST_METRICS
    }
