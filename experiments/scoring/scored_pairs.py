"""The sources of a threshold on step scores, for the evaluation."""

import dataclasses
import pathlib

import ml_collections

from experiments.scoring import score_steps
from routing.evaluation import methods
from routing.outcomes import scored
from routing.routers import card as card_lib


def pairs(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    pair: methods.Pair,
    card: card_lib.Card,
) -> dict[str, methods.Pair]:
  """Returns the pairs of sources in which steps are scored; {} without scorer.

  Args:
    config: of the run.
    workdir: of the run.
    pair: the sources without scores.
    card: of the router.

  Returns:
    Name of the method -> its pair. In the first the scorer's compute is
    charged; in the second it costs nothing.

  Raises:
    ValueError: if the steps are not scored, or by another scorer.
  """
  if not score_steps.is_on(config):
    return {}
  found = {
      split: score_steps.read(config, workdir, split)
      for split in score_steps.SPLITS
  }
  spec = score_steps.spec(config, workdir)

  def scored_source(split, charged):
    source = getattr(pair, split)
    table = scored.scored_table(
        source.table,
        source.problems,
        found[split],
        charged,
        has_draft=card.protocol.has_draft,
    )
    return dataclasses.replace(source, table=table)

  return {
      name: methods.Pair(
          scored_source('select', charged), scored_source('test', charged)
      )
      for name, charged in (('step score', spec), ('step score, free', None))
  }
