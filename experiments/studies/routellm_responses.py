"""Routers of whole questions on RouteLLM's cached GSM8K responses.

Run:    python -m experiments.studies.routellm_responses --responses=gsm8k_responses.csv.gz --workdir=runs/routellm
Writes: routellm.json and routellm.md

Mixtral-8x7B is the small model and GPT-4 the large one; cost is the share of
calls to GPT-4, as in the paper. Half of the questions are for learning (three
quarters `train`, one quarter `select`), the other half is tested. Responses:
RouteLLM's evals/gsm8k/gsm8k_responses.csv, or a part of its rows.
"""  # noqa: E501  Commands stay on one line.

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
import csv
import dataclasses
import gzip
import json
import pathlib
from typing import Any

from absl import flags
import numpy as np

from experiments import command_line
from routing import costs
from routing import types
from routing.evaluation import arena as arena_lib
from routing.evaluation import bootstrap
from routing.evaluation import harness
from routing.evaluation import markdown
from routing.evaluation import metrics
from routing.evaluation import results as results_lib
from routing.evaluation import tables
from routing.features import embedding
from routing.features import observation
from routing.outcomes import sources
from routing.outcomes import table as table_lib
from routing.routers import registry
from routing.routers import router as router_lib
from routing.shards import manifest as manifest_lib
from routing.tasks import splits

SMALL = 'mistralai/Mixtral-8x7B-Instruct-v0.1'
LARGE = 'gpt-4-1106-preview'
ROUTERS = (
    'RouteLLM, matrix factorisation',
    'RouteLLM, classifier',
    'nearest questions',
)
RANDOM = 'random per question'
NUM_TRIALS = 6
PERCENTS = (50, 80)
# The paper's best on GSM8K, a fine-tuned causal language model: table 3 of Ong
# et al. 2024. CPT is in shares of calls.
PAPER = dict(apgr=0.622, cpt50=0.336, cpt80=0.633)
_FEATURES = observation.FeatureConfig(
    ('progress',), num_routes=2, max_decisions=1
)


@dataclasses.dataclass(frozen=True)
class Row:
  """One question and whether each model answered it rightly."""

  question: str
  small: bool
  large: bool


def read(path: pathlib.Path | str) -> list[Row]:
  """Returns the rows of a file of responses.

  Raises:
    ValueError: if a flag is neither 'True' nor 'False'.
  """
  path = pathlib.Path(path)
  opened = gzip.open if path.suffix == '.gz' else open
  flag = {'True': True, 'False': False}
  with opened(path, 'rt', encoding='utf-8', newline='') as file:
    rows = list(csv.DictReader(file))
  for row in rows:
    for model in (SMALL, LARGE):
      if row[model] not in flag:
        raise ValueError(
            f"{path}: {model} has {row[model]!r}; allowed: 'True', 'False'."
        )
  return [Row(x['prompt'], flag[x[SMALL]], flag[x[LARGE]]) for x in rows]


def divide(rows: Sequence[Row]) -> dict[str, list[Row]]:
  """Returns `train`, `select` and `test`, by a hash of the question."""
  # A hash, so that a question's place does not depend on the other rows.
  found: dict[str, list[Row]] = {'train': [], 'select': [], 'test': []}
  for row in rows:
    place = int(splits.question_hash(row.question), 16) % 8
    name = 'test' if place < 4 else 'select' if place == 4 else 'train'
    found[name].append(row)
  return found


def sample(
    rows: Sequence[Row], embed: embedding.Embedding | None
) -> router_lib.Sample:
  """Returns questions as methods meet them: one decision, one call each."""
  builder = table_lib.TableBuilder(costs.COST_METRICS)
  for row in rows:
    builder.begin_problem(float(row.large))
    features = np.zeros(_FEATURES.size, np.float32)
    here = builder.add_decision(features, (0.0,) * 3, 2)
    # A call to the large model costs 1, one to the small model nothing.
    for route, right in ((1, row.large), (0, row.small)):
      loss = float(row.large and not right)
      builder.add_ending((here, route), float(right), loss, [float(route)] * 4)
  table = builder.table()
  questions = tuple(x.question for x in rows)
  decisions = dataclasses.replace(table.decisions, questions=questions)
  spec = lambda name: costs.spec_by_parameters(name, 1, 1, 1)
  # Costs are calls here, so an embedding adds none; it must have a price.
  informing = () if embed is None or embed.spec is None else (embed.spec,)
  calls = tuple(types.Call(0, 0, 0, 0) for _ in rows)
  return router_lib.Sample(
      source=sources.Known(
          dataclasses.replace(table, decisions=decisions),
          [types.Problem(x, x, '') for x in questions],
      ),
      features=_FEATURES,
      accounting=costs.Accounting((spec('small'), spec('large'), *informing)),
      small_answers=('',) * len(rows),
      small_correct=np.array([float(x.small) for x in rows]),
      small_calls=calls,
      large_calls=calls,
      embed=embed,
  )


def share_curves(
    scores: np.ndarray, rows: Sequence[Row], weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns curves of accuracy against the share of calls to GPT-4.

  Args:
    scores: `[N]`, higher = GPT-4; equal scores are routed together.
    rows: the N questions.
    weights: `[R, N]`, how often each question counts; rows sum to 1.

  Returns:
    `[R, K]` shares from 0 to 1, and `[R, K]` accuracies.
  """
  order = np.argsort(-scores, kind='stable')
  small, large = (
      np.array([getattr(x, model) for x in rows], float)[order]
      for model in ('small', 'large')
  )
  weights = weights[:, order]
  zeros = np.zeros((len(weights), 1))
  add = lambda x: np.concatenate([zeros, np.cumsum(x, axis=1)], axis=1)
  accuracy = (weights @ small)[:, None] + add(weights * (large - small))
  # Between equal scores there is no threshold.
  ends = np.append(np.diff(scores[order]) != 0, True)
  kept = np.append(True, ends)
  return add(weights)[:, kept], accuracy[:, kept]


def figures_of(
    scores: Sequence[np.ndarray], rows: Sequence[Row], weights: np.ndarray
) -> np.ndarray:
  """Returns APGR, CPT(50 %) and CPT(80 %) of R resamples, `[R, 3]`.

  Args:
    scores: one `[N]` array per seed; figures are means over seeds.
    rows: the N questions.
    weights: `[R, N]` weights of each resample.
  """
  of_seeds = []
  for one in scores:
    found = []
    for share, accuracy in zip(*share_curves(one, rows, weights), strict=True):
      # At share 0 the small model answers all questions, at 1 the large one.
      anchors = metrics.Anchors(accuracy[0], 0.0, accuracy[-1])
      targets = [
          anchors.small_accuracy + x / 100 * anchors.gap for x in PERCENTS
      ]
      found.append(
          [
              metrics.mean_gap_recovered(share, accuracy, anchors),
              *(metrics.cost_to_reach(share, accuracy, x) for x in targets),
          ]
      )
    of_seeds.append(found)
  return np.mean(of_seeds, axis=0)


def _scores(name, parts, embed) -> tuple[list[np.ndarray], Any, list[float]]:
  """Returns test scores per seed, the setting chosen, and the trials' areas."""
  method = registry.load(name)
  arena = arena_lib.Arena(
      samples=lambda split, protocol: parts[split],
      alone={},
      accounting=parts['train'].accounting,
  )
  areas = []
  for setting in method.settings[:NUM_TRIALS]:
    (family,) = harness.fit(method, arena, setting, 0)
    source = parts['select'].source
    knobs = harness.grid(method, family, arena)
    points = source.evaluate(family, knobs, 'price')
    areas.append(metrics.area(points.mean_cost, points.accuracy))
  setting = method.settings[int(np.argmax(areas))]
  scores = []
  for seed in range(20 if name == RANDOM else 3):
    (family,) = harness.fit(method, arena, setting, seed)
    scores.append(family.score(parts['test'].source.table.decisions)[0])
  return scores, dict(setting), areas


def study(
    path: pathlib.Path | str,
    embed: embedding.Embedding | None = None,
    resamples: int = 500,
) -> dict[str, Any]:
  """Returns the figures of all routers on the tested half."""
  rows = divide(read(path))
  parts = {name: sample(x, embed) for name, x in rows.items()}
  draws = bootstrap.draw(len(rows['test']), [1], resamples, seed=0)
  content = {
      'num_questions': {name: len(x) for name, x in rows.items()},
      'small_accuracy': float(np.mean([x.small for x in rows['test']])),
      'large_accuracy': float(np.mean([x.large for x in rows['test']])),
      'embedding': 'hashed n-grams' if embed is None else 'sentence model',
      'model': None if embed is None else embed.name,
      'routers': {},
  }
  for name in (RANDOM, *ROUTERS):
    scores, setting, areas = _scores(name, parts, embed)
    found = figures_of(scores, rows['test'], draws.problems)
    content['routers'][name] = {
        'setting': setting,
        'num_trials': len(areas),
        **{
            figure: dataclasses.asdict(bootstrap.interval(column))
            for figure, column in zip(
                ('apgr', *(f'cpt{x}' for x in PERCENTS)), found.T, strict=True
            )
        },
    }
  return results_lib.to_json(content)


def page(content: Mapping[str, Any]) -> str:
  """Returns the figures as a table in Markdown."""
  figures = ('apgr', *(f'cpt{x}' for x in PERCENTS))
  rows = [
      [
          name,
          'none' if name == RANDOM else content['embedding'],
          *(tables.interval(found[x]) for x in figures),
          str(found['num_trials']),
      ]
      for name, found in content['routers'].items()
  ]
  paper = [markdown.number(PAPER[x]) for x in figures]
  rows.append(["the paper's best (causal LM)", '', *paper, ''])
  columns = ('APGR', *(f'CPT({x} %)' for x in PERCENTS))
  return markdown.table(('router', 'embedding', *columns, 'trials'), rows)


def main(responses: str, directory: str, workdir: str) -> None:
  """Runs the study and writes its files."""
  if not responses:
    raise ValueError('Give --responses, the CSV file of the responses.')
  embed = embedding.SentenceModel(directory) if directory else None
  content = study(responses, embed)
  folder = pathlib.Path(workdir)
  folder.mkdir(parents=True, exist_ok=True)
  for name, text in (
      ('routellm.json', json.dumps(content, indent=1)),
      ('routellm.md', page(content)),
  ):
    manifest_lib.replace_file(
        folder / name, lambda path, x=text: path.write_text(f'{x}\n')
    )
  print(page(content))


if __name__ == '__main__':
  flags.DEFINE_string(
      'responses', None, 'CSV file of the responses, may be compressed.'
  )
  flags.DEFINE_string(
      'embedding',
      '',
      'Directory of a sentence encoder; empty = hashed n-grams.',
  )
  command_line.run(main, 'responses', 'embedding', 'workdir')
