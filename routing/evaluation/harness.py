"""Evaluates methods on the same problems, models and accounting, one by one.

One method and one seed give one `Entry`: settings tried on `select`, then the
outcomes of every value of the knob on `select` and, of those worth it, on
`test`. The outcomes come from records where they follow from them exactly, and
otherwise from live answers. `evaluation.comparison` compares the entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import functools
from typing import Any

import numpy as np

from routing import costs
from routing.evaluation import arena as arena_lib
from routing.evaluation import code_hash
from routing.evaluation import decision_speed
from routing.evaluation import entries as entries_lib
from routing.evaluation import methods as methods_lib
from routing.evaluation import worth_asking
from routing.outcomes import live_answers
from routing.outcomes import refusal
from routing.outcomes import sources
from routing.routers import parallel_fits
from routing.routers import router as router_lib


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
    method: router_lib.Method, family: router_lib.Family, arena: arena_lib.Arena
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
    arena: arena_lib.Arena,
    split: str,
    seed: int,
) -> entries_lib.Outcomes:
  """Returns the outcomes of some knobs of one family on a split."""
  if is_known(method, family):
    return _known(method, family, knobs, arena, split)
  sample = arena.samples(split, arena_lib.sample_protocol(method))
  # With several completions of a prefix, an answer would be right in part.
  if hasattr(family, 'replay') and sample.source.is_graded_once:
    answers = family.replay(sample, knobs.tolist())
    return entries_lib.of_answers(answers, arena.alone[split])
  return _live(method, family, knobs, arena, split, seed)


def _known(
    method: router_lib.Method,
    family: router_lib.Family,
    knobs: np.ndarray,
    arena: arena_lib.Arena,
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
    arena: arena_lib.Arena,
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
    arena: arena_lib.Arena,
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
    arena: arena_lib.Arena,
    setting: Mapping[str, Any],
    seed: int,
) -> list[router_lib.Family]:
  """Fits a method on `train`, the only split that it is given."""
  train = arena.samples('train', arena_lib.sample_protocol(method))
  num_live = arena.num_live.get('train')
  if arena.answering is not None and num_live != 0:
    train = dataclasses.replace(
        train, answering=arena.answering_of(seed, method), num_live=num_live
    )
  families = list(method.fit(train, setting=setting, seed=seed))
  if not families:
    raise ValueError(f'{method.name} returned no family; it must return one.')
  return families


@contextlib.contextmanager
def fits(
    method: router_lib.Method,
    arena: arena_lib.Arena,
    settings: Sequence[Mapping[str, Any]],
    seed: int,
) -> Iterator[Iterator[list[router_lib.Family]]]:
  """Gives the fit of a method with each setting, in order.

  Several are made at the same time if the method allows it. When the context
  ends no further one begins, and those that have begun are waited for.
  """
  fit_one = lambda setting: fit(method, arena, setting, seed)
  if not method.fits_in_parallel:
    yield map(fit_one, settings)
    return
  # Built before the threads start, lest each of them build it.
  arena.samples('train', arena_lib.sample_protocol(method))
  with contextlib.closing(parallel_fits.in_order(fit_one, settings)) as found:
    yield found


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
    method: router_lib.Method,
    arena: arena_lib.Arena,
    num_trials: int,
    seed: int,
) -> Tuned:
  """Tries the first settings of a method on `select`.

  A method with a single setting has nothing to choose. It is fitted, but not
  tried, so it has no areas.
  """
  settings = list(method.settings[:num_trials])
  if len(settings) == 1:
    return Tuned(settings[0], [], fit(method, arena, settings[0], seed))
  areas, best = [], None
  with fits(method, arena, settings, seed) as found:
    for families in found:
      tried = [grid(method, family, arena) for family in families]
      select, _ = _all_outcomes(method, families, tried, arena, 'select', seed)
      areas.append(area_on_select(select, arena.accounting.metric))
      # The best stay in memory: a fit may take long, or answers of its own.
      if np.argmax(areas) == len(areas) - 1:
        best = families
  return Tuned(settings[int(np.argmax(areas))], areas, best)


def enter(
    method: router_lib.Method,
    arena: arena_lib.Arena,
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
      decisions_per_second=decision_speed.per_second(
          method, families[chosen[-1][0]].at(chosen[-1][1]), arena, seed
      ),
  )
