"""Answers test problems live at the operating points of a router."""

import pathlib
from typing import Any

from absl import logging
import ml_collections

from experiments import records_on_disk
from routing.evaluation import evaluator
from routing.outcomes import live
from routing.outcomes import live_answers
from routing.outcomes import sources
from routing.routers import families
from routing.routers import learned


def answer(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    router: learned.LearnedRouter,
    test: sources.Source,
) -> list[dict[str, Any]]:
  """Answers the first test problems live at each operating point of a router.

  Args:
    config: of the run; `evaluation.num_live` problems are answered.
    workdir: of the run, where answers are kept.
    router: the router that is served.
    test: its predictions stand beside the figures, so that only a `Known`
      source has live answers; for others a line of the log says so.

  Returns:
    One entry per operating point. Problems that an engine refused are left out
    and counted; a point at which all were refused has no entry.
  """
  size = config.evaluation.num_live
  if not size:
    return []
  if why_not := _why_not(router, test):
    logging.info('No test problem is answered live: %s.', why_not)
    return []
  answering = records_on_disk.answering(config, router.card)
  problems = test.problems[:size]
  metric, policies = router.card.metric, families.policies(router)
  # Answered for all points in one call, so that the engines are loaded once.
  asked = [
      live_answers.Asked(
          router.at(point.name),
          policies[point.policy_index].fingerprint,
          point.threshold,
      )
      for point in router.points
  ]
  folder = pathlib.Path(workdir) / records_on_disk.ANSWERS_FOLDER
  answers = live_answers.answer_under(answering, problems, asked, folder)
  entries = []
  for point, answered in zip(router.points, answers, strict=True):
    if all(isinstance(x, live_answers.Refused) for x in answered):
      logging.warning('%s has no live answer: all were refused.', point.name)
      continue
    thresholds = evaluator.threshold_row(point.threshold)
    predicted = test.evaluate(policies[point.policy_index], thresholds, metric)
    compared = live.compare(
        answered,
        test.table.large_cost[metric][: len(problems)],
        predicted.on(slice(0, len(problems))),
        answering,
    )
    entries.append(
        {'name': point.name, 'seed': config.train_seeds[0]} | compared
    )
  return entries


def _why_not(router: learned.LearnedRouter, test: sources.Source) -> str:
  """Returns why nothing can be answered live; '' if it can."""
  if not router.points:
    return 'the router has no operating points'
  if not isinstance(test, sources.Known):
    return (
        "only evaluation.source 'known' predicts exactly what live answers are "
        'compared with'
    )
  return ''
