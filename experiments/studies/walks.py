"""Writes how a router goes through collected ladders, step by step.

Run:    python -m experiments.studies.walks --config=configs/gsm8k_qwen25_coder.py:shipped --workdir=runs/real --point='loss<=0.1@0.9'
Writes: walks.md in --workdir, and walks.json, what documents show of it

Problems of `test` are sorted by what the router's decisions did to the answer,
and of each kind --count are drawn at random. For protocol `escalate` only.
"""  # noqa: E501  Commands stay on one line.

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
import pathlib

from absl import flags
from absl import logging
import ml_collections
import numpy as np

from experiments import command_line
from experiments import records_on_disk
from experiments import split_on_disk
from experiments import train
from routing import costs
from routing import protocols
from routing import types
from routing.features import traces
from routing.rollout import driver
from routing.routers import learned
from routing.shards import manifest as manifest_lib

FILE, FIGURES_FILE = 'walks.md', 'walks.json'
# Kind -> what it means, in the order of the page.
KINDS = {
    'rescued': 'the small model alone is wrong; with the hand-over it is right',
    'needless': 'handed over, although the small model alone is right',
    'spoiled': 'the small model alone is right; with the hand-over it is wrong',
    'too late': 'handed over and wrong; the large model alone is right',
    'missed': 'not handed over and wrong; the large model alone is right',
    'kept': 'not handed over and right',
    'lost': 'wrong, and the large model alone is wrong too',
}
_MAX_TEXT = 400  # Characters of a step that are shown.


@dataclasses.dataclass(frozen=True)
class Walk:
  """How a router goes through one ladder.

  ladder: the ladder.
  decisions: the decisions, up to the hand-over.
  completion: what the larger model then wrote; None = no hand-over.
  cost: of the answer, as a fraction of the large model alone.
  kind: one of `KINDS`.
  """

  ladder: types.Ladder
  decisions: tuple[types.Decision, ...]
  completion: types.Completion | None
  cost: float
  kind: str

  @property
  def is_correct(self) -> bool:
    """Whether the answer is right."""
    answer = self.completion or self.ladder
    return answer.is_correct


def walk(
    ladder: types.Ladder,
    router: driver.Router,
    accounting: costs.Accounting,
    protocol: protocols.Protocol,
) -> Walk:
  """Asks a router at each step of a ladder, until it hands over.

  If a completion was sampled several times, the first sample is the answer.

  Args:
    ladder: the ladder.
    router: is asked.
    accounting: computes what the router sees as spent, and the cost.
    protocol: `escalate`; says whether the router sees drafts.

  Raises:
    ValueError: if the protocol is another one.
  """
  if protocol.name != 'escalate':
    raise ValueError(
        f"protocol.name is {protocol.name!r}; allowed: 'escalate'."
    )
  decisions, previous, taken = [], None, None
  for step in range(ladder.num_decisions):
    trace = traces.of_ladder(ladder, step, accounting, protocol)
    previous = dataclasses.replace(trace, previous=previous)
    decisions.append(router.decide(previous))
    if decisions[-1].route:
      taken = _completion(ladder, step, decisions[-1].route)
      break
  charged = costs.ladder_costs(
      ladder,
      accounting.specs,
      accounting.metric,
      draft_is_paid=protocol.has_draft,
  )
  cost = charged.stay
  if taken is not None:
    cost = charged.handover[taken.step, taken.route - 1]
  return Walk(
      ladder,
      tuple(decisions),
      taken,
      float(cost / charged.all_large),
      _kind(ladder, taken, _completion(ladder, 0, len(accounting.specs) - 1)),
  )


def _completion(
    ladder: types.Ladder, step: int, route: int
) -> types.Completion:
  """Returns the first completion by a route from a step."""
  return next(
      x for x in ladder.completions if (x.step, x.route) == (step, route)
  )


def _kind(
    ladder: types.Ladder,
    taken: types.Completion | None,
    alone: types.Completion,
) -> str:
  """Returns the kind of a walk; `alone` is the large model's whole answer."""
  if taken is None and ladder.is_correct:
    return 'kept'
  if taken is not None and taken.is_correct:
    return 'needless' if ladder.is_correct else 'rescued'
  if taken is not None and ladder.is_correct:
    return 'spoiled'
  if not alone.is_correct:
    return 'lost'
  return 'missed' if taken is None else 'too late'


def drawn(walks: Sequence[Walk], count: int, seed: int) -> Iterator[Walk]:
  """Yields `count` walks of each kind, drawn at random; fewer if there are."""
  rng = np.random.default_rng(seed)
  for kind in KINDS:
    found = [x for x in walks if x.kind == kind]
    for index in sorted(rng.permutation(len(found))[:count]):
      yield found[index]


def counts(walks: Sequence[Walk]) -> dict[str, int]:
  """Returns how many walks there are of each kind."""
  return {kind: sum(x.kind == kind for x in walks) for kind in KINDS}


def counts_table(counted: Mapping[str, int]) -> str:
  """Returns a table in Markdown: how many walks of each kind, its meaning."""
  rows = [f'| {x} | {counted[x]} | {meaning} |' for x, meaning in KINDS.items()]
  return '\n'.join(['| | problems | |', '|---|---:|---|', *rows])


def page(
    walks: Sequence[Walk], chosen: Sequence[Walk], names: Sequence[str]
) -> str:
  """Returns the page, in Markdown.

  Args:
    walks: through all ladders; at least one.
    chosen: those that are shown.
    names: of the models, smallest first.
  """
  parts = [
      f'{len(walks)} problems, {sum(x.is_correct for x in walks)} right.',
      counts_table(counts(walks)),
      *(shown(x, names) for x in chosen),
  ]
  return '\n\n'.join(parts) + '\n'


def shown(found: Walk, names: Sequence[str]) -> str:
  """Returns one walk in Markdown: a heading, the question and its steps."""
  ladder = found.ladder
  verdict = 'right' if found.is_correct else 'wrong'
  lines = [
      f'## {found.kind.capitalize()}: {ladder.problem.id}',
      '',
      f'{_text(ladder.problem.question)}',
      '',
      f'Reference: {_text(ladder.problem.answer)}. The answer is {verdict}, at '
      f'{found.cost:.2f} of the cost of {names[-1]} alone.',
      '',
      '| decision | score | | text |',
      '|---:|---:|---|---|',
  ]
  for index, decision in enumerate(found.decisions):
    step = ladder.steps[index]
    what = f'{names[0]} goes on'
    if decision.route:
      what = f'**hands over to {names[decision.route]}**'
    lines.append(
        f'| {index + 1} | {decision.score:.3f} | {what} | {_text(step.text)} |'
    )
  if found.completion is not None:
    writer = names[found.completion.route]
    lines.append(f'| | | {writer} writes | {_text(found.completion.text)} |')
  for step in ladder.steps[len(found.decisions) :]:
    if found.completion is None:
      lines.append(f'| | | {names[0]} writes | {_text(step.text)} |')
  return '\n'.join(lines)


def _text(text: str) -> str:
  """Returns a text for a cell of a table."""
  text = ' / '.join(line for line in text.split('\n') if line.strip())
  if len(text) > _MAX_TEXT:
    text = text[: _MAX_TEXT - 3] + '...'
  return text.replace('|', '\\|').replace('<', '&lt;').replace('*', '\\*')


def write(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    point: str,
    count: int,
) -> pathlib.Path:
  """Writes the page of a run's first seed and its figures; returns the page.

  Raises:
    ValueError: if the run has no such point, or its records are no ladders.
  """
  router = learned.load(train.run_directory(workdir, config.train_seeds[0]))
  card = router.card
  opened = records_on_disk.open_split(config, workdir, 'test')
  split_on_disk.check_card(card, config, opened)
  if config.data.kind != 'ladders':
    raise ValueError(f"data.kind is {config.data.kind!r}; allowed: 'ladders'.")
  router = router.at(point)
  walks = [
      walk(x, router, card.accounting, card.protocol) for x in opened.records()
  ]
  chosen = list(drawn(walks, count, config.seed))
  names = [spec.name for spec in card.specs]
  figures = {
      'point': point,
      'counts': counts(walks),
      'shown': [shown(x, names) for x in chosen],
  }
  text = f'# Step by step, at `{point}`\n\n' + page(walks, chosen, names)
  path = pathlib.Path(workdir) / FILE
  manifest_lib.replace_file(path, lambda p: p.write_text(text))
  manifest_lib.replace_file(
      path.with_name(FIGURES_FILE),
      lambda p: p.write_text(json.dumps(figures, indent=1) + '\n'),
  )
  logging.info('%s shows %d of %d problems.', path, len(chosen), len(walks))
  return path


def main(
    config: ml_collections.ConfigDict, workdir: str, point: str, count: int
) -> None:
  """Writes the page; see the module's docstring."""
  write(config, workdir, point, count)


if __name__ == '__main__':
  flags.DEFINE_string('point', None, 'Name of an operating point.')
  flags.DEFINE_integer('count', 1, 'Problems of each kind.', lower_bound=0)
  command_line.run(main, 'config', 'workdir', 'point', 'count')
