"""Opens what reads steps in a comparison: a step scorer, and a judge."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools

import ml_collections

from experiments import builders
from experiments.scoring import score_steps
from routing import costs
from routing.engines import embedded_likelihood
from routing.engines import scorers
from routing.engines import step_scorer
from routing.routers import informants

_WORDLESS = 'embedded'  # The engine whose models know only one task.


class OnDemand:
  """A step scorer whose weights are loaded when something is to be scored.

  Args:
    load: loads the scorer.
  """

  def __init__(self, load: Callable[[], step_scorer.StepScorer]):
    self._load = functools.cache(load)

  def score(
      self, answers: Sequence[tuple[str, Sequence[str]]]
  ) -> list[step_scorer.StepScores]:
    """See `step_scorer.StepScorer.score`."""
    return self._load().score(answers)


def follows_words(config: ml_collections.ConfigDict) -> bool:
  """Returns whether the models reply to questions outside the task."""
  return all(x.engine != _WORDLESS for x in builders.routes(config))


def judges_by_likelihood(config: ml_collections.ConfigDict) -> bool:
  """Returns whether the largest model's judgement is a step's likelihood.

  It cannot judge in words.
  """
  return builders.routes(config)[-1].engine == _WORDLESS


def with_scorer(
    config: ml_collections.ConfigDict, compared: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
  """Returns the configuration with the step scorer of the comparison.

  The comparison's own is no part of what the policy is trained under, so it may
  be named in the work directory of a finished run.

  Args:
    config: of the pipeline; its scorer is taken if `compared` names none.
    compared: the part `compare`.
  """
  if not compared.scorer.model:
    return config
  found = config.copy_and_resolve_references()
  with found.unlocked():
    found.scorer = compared.scorer
  return found


def specs(
    config: ml_collections.ConfigDict, largest: costs.RouteSpec
) -> dict[str, costs.RouteSpec]:
  """Returns the prices of the scorer and the judge, those that there are.

  Args:
    config: of the pipeline.
    largest: the prices of the largest model, whose weights need not be here.

  Returns:
    The field of `router.Needs` that asks for a reader -> its prices.
  """
  found = {}
  if score_steps.is_on(config):
    found['step_score'] = score_steps.route(config).cost_spec()
  if judges_by_likelihood(config):
    # A route of its own: it reads, in a session of its own, and writes nothing.
    name = f'{largest.name}, as judge'
    found['judge'] = dataclasses.replace(largest, name=name)
  return found


def gives_tokens(config: ml_collections.ConfigDict) -> bool:
  """Returns whether all models give next-token distributions."""
  return all(route.engine == 'embedded' for route in builders.routes(config))


def scorer(
    config: ml_collections.ConfigDict, first_route: int
) -> informants.Scorer | None:
  """Returns the step scorer of the configuration; None if it names none.

  Args:
    config: of the pipeline.
    first_route: the route of the first of `specs`.
  """
  if not score_steps.is_on(config):
    return None
  found = score_steps.route(config)
  made = score_steps.settings(config)
  return informants.Scorer(
      # The same weights give other scores under another instruction.
      f'{found.identity}/{made.system}/{made.dtype}',
      OnDemand(
          lambda: scorers.load(found.folder, score_steps.settings(config))
      ),
      first_route,
  )


def judge(
    config: ml_collections.ConfigDict, first_route: int
) -> informants.Scorer | None:
  """Returns the largest model as a scorer, where it cannot judge in words.

  Args:
    config, first_route: as in `scorer`.
  """
  if not judges_by_likelihood(config):
    return None
  large = builders.routes(config)[-1]
  return informants.Scorer(
      f'likelihood/{large.identity}',
      OnDemand(lambda: embedded_likelihood.EmbeddedLikelihood(large.folder)),
      first_route + score_steps.is_on(config),
  )
