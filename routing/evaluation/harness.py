"""Evaluates methods on the same problems, models and accounting, one by one.

One method and one seed give one `Entry`: settings tried on `select`, then the
outcomes of every value of the knob on `select` and, of those worth it, on
`test`. The outcomes come from records where they follow from them exactly, and
otherwise from live answers. `evaluation.comparison` compares the entries.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import pathlib
import time
from typing import Any

import numpy as np

from routing import costs
from routing import protocols
from routing import types
from routing.evaluation import code_hash
from routing.evaluation import entries as entries_lib
from routing.evaluation import methods as methods_lib
from routing.evaluation import samples
from routing.evaluation import worth_asking
from routing.outcomes import live_answers
from routing.outcomes import refusal
from routing.outcomes import sources
from routing.routers import router as router_lib

_ROUNDS = 3  # Of timing; the fastest counts.


@dataclasses.dataclass(frozen=True)
class Arena:
  """The problems, models and accounting that all methods meet.

  samples: (split, protocol) -> the problems of `train`, `select` or `test` with
    known outcomes in `escalate`, either view. The tables' costs also count
    tokens, under the names `TOKENS`.
  alone: split -> what the models do alone, on `select` and `test`.
  accounting: models and prices; specs beyond the writers only inform.
  informing: name of a need -> the model that only informs whoever declares it;
    the last of the specs of `accounting`, in their order.
  answering: seed -> how engines answer live; None = no engine can be asked.
  num_live: split -> number of problems that are answered live; of `train`, to
    learn from. A split that is not named is answered as a whole.
  folder: where live answers are kept; None = nowhere.
  traces: traces of `escalate`, either view, from records; decisions are timed
    on them.
  num_timed: test problems on whose traces decisions are timed elsewhere.
  grid_size: thresholds per family, for methods that name no knobs.
  """

  samples: Callable[[str, protocols.Protocol], router_lib.Sample]
  alone: Mapping[str, entries_lib.Alone]
  accounting: costs.Accounting
  informing: Mapping[str, costs.RouteSpec] = dataclasses.field(
      default_factory=dict
  )
  answering: Callable[[int], live_answers.Answering] | None = None
  num_live: Mapping[str, int] = dataclasses.field(default_factory=dict)
  folder: pathlib.Path | None = None
  traces: Callable[[protocols.Protocol], Sequence[types.Trace]] = (
      lambda protocol: ()
  )
  num_timed: int = 25
  grid_size: int = methods_lib.GRID_SIZE

  def answering_of(
      self, seed: int, method: router_lib.Method
  ) -> live_answers.Answering:
    """Returns how engines answer a method live; there must be engines."""
    # Greedy answers are the same for all seeds, and are asked for once.
    return dataclasses.replace(
        self.answering(seed if method.needs.samples > 1 else 0),
        accounting=self.accounting,
        priced=self.priced(method.needs),
    )

  def priced(self, needs: router_lib.Needs) -> tuple[costs.RouteSpec, ...]:
    """Returns the models that a method may be charged for: those it declares.

    What is kept of a method depends on these only, so that a further scorer or
    embedding does not invalidate it.
    """
    num_writers = len(self.accounting.specs) - len(self.informing)
    declared = [
        spec for need, spec in self.informing.items() if getattr(needs, need)
    ]
    return (*self.accounting.specs[:num_writers], *declared)


def sample_protocol(method: router_lib.Method) -> protocols.Protocol:
  """Returns the view of `escalate` whose records a method learns from."""
  return router_lib.PEEK if method.needs.draft else router_lib.COMMIT


def is_known(method: router_lib.Method, family: router_lib.Family) -> bool:
  """Returns whether records give the outcomes of a family exactly.

  They do not say what a scorer or a judge would consume at each decision.
  """
  needs = method.needs
  return (
      needs.protocol in (router_lib.PEEK, router_lib.COMMIT)
      and not (needs.step_score or needs.judge)
      and hasattr(family, 'score')
  )


def grid(
    method: router_lib.Method, family: router_lib.Family, arena: Arena
) -> np.ndarray:
  """Returns the knobs to try: the family's own, or quantiles of its scores.

  Raises:
    ValueError: if a family that is answered live names no knobs.
  """
  if hasattr(family, 'knobs'):
    return np.asarray(family.knobs, np.float64)
  if not is_known(method, family):
    raise ValueError(
        f'{method.name} is answered live and names no knobs; give its family '
        'the attribute `knobs`.'
    )
  sample = arena.samples('select', method.needs.protocol)
  return sample.source.grid(family, arena.grid_size)


def outcomes(
    method: router_lib.Method,
    family: router_lib.Family,
    knobs: np.ndarray,
    arena: Arena,
    split: str,
    seed: int,
) -> entries_lib.Outcomes:
  """Returns the outcomes of some knobs of one family on a split."""
  if is_known(method, family):
    return _known(method, family, knobs, arena, split)
  sample = arena.samples(split, sample_protocol(method))
  # With several completions of a prefix, an answer would be right in part.
  if hasattr(family, 'replay') and sample.source.is_graded_once:
    answers = family.replay(sample, knobs.tolist())
    return entries_lib.of_answers(answers, arena.alone[split])
  return _live(method, family, knobs, arena, split, seed)


def _known(
    method: router_lib.Method,
    family: router_lib.Family,
    knobs: np.ndarray,
    arena: Arena,
    split: str,
) -> entries_lib.Outcomes:
  """Looks outcomes up in the table of a split."""
  source = arena.samples(split, method.needs.protocol).source
  scored = sources.Scored(family.score(source.table.decisions))
  points = {
      name: source.evaluate(scored, knobs, name) for name in entries_lib.ALL
  }
  cost = {name: x.cost for name, x in points.items()}
  usage = getattr(family, 'usage', lambda questions: None)(
      tuple(x.question for x in source.problems)
  )
  if usage is not None:  # Paid once per question, whatever is decided.
    spec = arena.accounting.specs[usage.route]
    for metric in costs.COST_METRICS:
      large = arena.alone[split].large_cost[metric]
      cost[metric] = cost[metric] + (
          costs.call_cost(usage, spec, metric) / large
      )
    cost['tokens/scorer'] = cost['tokens/scorer'] + usage.read + usage.written
  first = points['price']
  cut = np.full_like(first.correct, np.nan) if first.cut is None else first.cut
  return entries_lib.Outcomes(first.correct, first.loss, first.gain, cut, cost)


def _live(
    method: router_lib.Method,
    family: router_lib.Family,
    knobs: np.ndarray,
    arena: Arena,
    split: str,
    seed: int,
) -> entries_lib.Outcomes:
  """Answers the first problems of a split at each knob.

  On `select` the first knob that is dearer than any curve shows is the last:
  a family names its knobs from the cheapest to the dearest.

  Raises:
    refusal.Refusal: if no engine can be asked.
  """
  if arena.answering is None:
    raise refusal.Refusal(
        f'{method.name} must answer live, but no model can be asked.',
        None,
        note='',
    )
  answering = arena.answering_of(seed, method)
  alone = arena.alone[split].first(arena.num_live.get(split))
  name = family.fingerprint
  if not getattr(family, 'is_shared', False):
    name = f'{name}/{code_hash.of_method(method)[:12]}'
  asked = [
      live_answers.Asked(family.at(knob), name, knob, method.needs.protocol)
      for knob in knobs
  ]
  answers = live_answers.answer_under(
      answering,
      alone.problems,
      asked,
      arena.folder,
      is_last=functools.partial(worth_asking.is_beyond, alone=alone)
      if split == 'select' and method.forms_hull
      else None,
  )
  return entries_lib.of_answers(answers, alone)


def _all_outcomes(
    method: router_lib.Method,
    families: Sequence[router_lib.Family],
    tried: Sequence[np.ndarray],
    arena: Arena,
    split: str,
    seed: int,
) -> tuple[entries_lib.Outcomes, list[tuple[int, float]]]:
  """Returns the outcomes of the knobs of all families, one after the other.

  Returns:
    The outcomes; and of each knob that was asked the index of its family, and
    its value.
  """
  of_families, asked = [], []
  for i, (family, knobs) in enumerate(zip(families, tried, strict=True)):
    if len(knobs):
      got = outcomes(method, family, knobs, arena, split, seed)
      of_families.append(got)
      # Of knobs that are answered live, the dearest may not have been asked.
      asked += [(i, float(x)) for x in knobs[: len(got.correct)]]
  return entries_lib.joined(of_families), asked


def area_on_select(select: entries_lib.Outcomes, metric: str) -> float:
  """Returns the value of a setting: the area of its hull on `select`."""
  points = select.points(metric)
  return methods_lib.Candidates(points, points).select_area()


def fit(
    method: router_lib.Method,
    arena: Arena,
    setting: Mapping[str, Any],
    seed: int,
) -> list[router_lib.Family]:
  """Fits a method on `train`, the only split that it is given."""
  train = arena.samples('train', sample_protocol(method))
  num_live = arena.num_live.get('train')
  if arena.answering is not None and num_live != 0:
    train = dataclasses.replace(
        train, answering=arena.answering_of(seed, method), num_live=num_live
    )
  families = list(method.fit(train, setting=setting, seed=seed))
  if not families:
    raise ValueError(f'{method.name} returned no family; it must return one.')
  return families


@dataclasses.dataclass(frozen=True)
class Tuned:
  """The best setting of a method on `select`.

  setting: of equal ones the first.
  areas: the area of each setting that was tried.
  families: those of the best setting and the seed of the trials.
  """

  setting: Mapping[str, Any]
  areas: Sequence[float]
  families: Sequence[router_lib.Family]


def tune(
    method: router_lib.Method, arena: Arena, num_trials: int, seed: int
) -> Tuned:
  """Tries the first settings of a method on `select`.

  A method with a single setting has nothing to choose. It is fitted, but not
  tried, so it has no areas.
  """
  settings = list(method.settings[:num_trials])
  if len(settings) == 1:
    return Tuned(settings[0], [], fit(method, arena, settings[0], seed))
  areas, best = [], None
  for setting in settings:
    families = fit(method, arena, setting, seed)
    tried = [grid(method, family, arena) for family in families]
    select, _ = _all_outcomes(method, families, tried, arena, 'select', seed)
    areas.append(area_on_select(select, arena.accounting.metric))
    # The best stay in memory: a fit may take long, or answers of its own.
    if np.argmax(areas) == len(areas) - 1:
      best = families
  return Tuned(settings[int(np.argmax(areas))], areas, best)


def enter(
    method: router_lib.Method,
    arena: Arena,
    families: Sequence[router_lib.Family],
    setting: Mapping[str, Any],
    areas: Sequence[float],
    seed: int,
) -> entries_lib.Entry:
  """Evaluates the knobs of a fitted method.

  Args:
    method: the method.
    arena: where it is evaluated.
    families: what `fit` has returned for the setting and the seed.
    setting, areas, seed: see `Entry`.
  """
  tried = [grid(method, family, arena) for family in families]
  select, knobs = _all_outcomes(method, families, tried, arena, 'select', seed)
  kept = np.arange(len(knobs))
  if method.forms_hull:
    budgets = worth_asking.budgets(
        arena.samples('test', router_lib.COMMIT).source
    )
    kept = worth_asking.worth_testing(select, budgets)
  chosen = [knobs[i] for i in kept]
  by_family = [
      np.array([x for j, x in chosen if j == i]) for i in range(len(families))
  ]
  test, _ = _all_outcomes(method, families, by_family, arena, 'test', seed)
  return entries_lib.Entry(
      seed=seed,
      setting=dict(setting),
      areas=list(areas),
      knobs=chosen,
      select=select.take(kept),
      test=test,
      decisions_per_second=_speed(
          method, families[chosen[-1][0]].at(chosen[-1][1]), arena, seed
      ),
  )


def some_traces(
    method: router_lib.Method, router: Any, arena: Arena, seed: int
) -> Sequence[types.Trace]:
  """Returns what a router of a method might see on a few test problems.

  Records give the traces of `escalate` without an informant, and the driver all
  others, if models can be asked.
  """
  protocol = method.needs.protocol
  informant = getattr(router, 'informant', None)
  if protocol and protocol.name == 'escalate' and informant is None:
    return arena.traces(protocol)
  if protocol is None or arena.answering is None:
    return []
  return samples.driven_traces(
      arena.answering_of(seed, method),
      arena.alone['test'].first(arena.num_timed).problems,
      protocol,
      informant,
  )


def _speed(
    method: router_lib.Method, router: Any, arena: Arena, seed: int
) -> float:
  """Returns decisions per second, one after the other; NaN without any.

  What an informant takes to ask is not counted: that is time of models.
  """
  traces = some_traces(method, router, arena, seed)
  if not traces:
    return float('nan')
  seconds = []
  # The first round may compile; the fastest is the one that other work on the
  # machine disturbed least.
  for _ in range(_ROUNDS):
    start = time.perf_counter()
    for trace in traces:
      router.decide(trace)
    seconds.append(time.perf_counter() - start)
  return len(traces) / max(min(seconds), 1e-9)
