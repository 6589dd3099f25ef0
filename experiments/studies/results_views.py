"""Makes the tables of the documents from kept result files, as Markdown.

See `results_page` for how a document names a table.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import textwrap
from typing import Any

from routing.evaluation import budgets
from routing.evaluation import comparison
from routing.evaluation import markdown
from routing.evaluation import results as results_lib
from routing.evaluation import style
from routing.evaluation import tables
from routing.outcomes import token_records

Content = Mapping[str, Any]
METHOD_COLUMNS = (
    'method',
    'area [95 %]',
    'policy minus method',
    'gap recovered',
    'acc @.2',
    'acc @.4',
    'acc @.6',
    'cost @.4',
    'loss @.4',
)
_ROUTER_COLUMNS = (
    'router',
    'problems',
    'trials',
    'area [95 %]',
    '{reference} minus router',
    'gap recovered',
    'acc @.2',
    'acc @.4',
    'acc @.6',
    'decisions/s',
)
# How far a router closes the gap, at which cost, and what it loses and gains.
_EARNING_COLUMNS = (
    'router',
    'cost for 50 %',
    '80 %',
    '95 % of the gap',
    'loss @.4',
    'gain @.4',
)
# What it needs, and takes at the middle one of three budgets.
_SPENDING_COLUMNS = (
    'router',
    'needs',
    'of select',
    *(f'{kind} tokens @.4' for kind in token_records.KINDS),
    's a problem @.4',
)
# Figures of a run of a sweep that tables show, where the sweep has them.
_RUN_COLUMNS = (
    'area',
    'area, fitted Q, trees',
    'area, fitted Q, linear',
    'area, boosting',
    'gap recovered',
    'validation score',
)
# One router of each kind for the README's table: of tokens, ours in two
# protocols, the best learner of the same ladders, of whole questions, and the
# published stepwise router nearest to ours, which needs a process reward model.
_SHOWN_FIRST = (
    'speculative sampling',
    'learned policy, redraft',
    style.REFERENCE,
    'fitted Q, trees',
    'RouteLLM, classifier',
    'TRIM, aggregate',
)
TRANSFERRED = ('kept', 'recalibrated')  # Keys of transfer.json.
_WIDTH = 150  # Of a line of text in the documents.


def methods(content: Content, metric: str) -> str:
  """Returns the table of all methods in one cost metric."""
  results_lib.check(content)
  rows, figures = tables.rows(content, metric), content['cost_metrics'][metric]
  head = budgets.header(figures, METHOD_COLUMNS)
  return _columns(tables.COLUMNS, rows, METHOD_COLUMNS, head)


def areas(content: Content, metric: str) -> str:
  """Returns a table: each method's area, and the policy's minus it."""
  figures = content['cost_metrics'][metric]
  return _areas(figures, tables.order(figures))


def _areas(figures: Content, names: Sequence[str]) -> str:
  columns = ('method', 'area [95 %]', 'policy minus method')
  rows = []
  for name in names:
    label = style.LABELS.get(name, name)
    area = tables.interval(figures['methods'][name]['area'])
    if style.is_policy(name):
      mean, _, rest = area.partition(' ')
      label, area = f'**{label}**', f'**{mean}** {rest}'
    rows.append((label, area, tables.difference(figures, name)))
  return markdown.table(columns, rows)


def points(content: Content) -> str:
  """Returns the table of operating points."""
  return markdown.table(tables.POINT_COLUMNS, tables.point_rows(content))


def transfer(content: Content) -> str:
  """Returns a table of operating points on another task.

  First those with the thresholds of the old task, then with thresholds chosen
  again; see `studies.transfer`.
  """
  rows = [
      [name, *row]
      for name in TRANSFERRED
      for row in tables.point_rows({'operating_points': content[name]})
  ]
  return markdown.table(('thresholds', *tables.POINT_COLUMNS), rows)


def routers(content: Content, metric: str) -> str:
  """Returns a table of all routers of a comparison, in one cost metric."""
  return _of_comparison(content, metric, _ROUTER_COLUMNS)


def router_earnings(content: Content, metric: str) -> str:
  """Returns what each router of a comparison earns at which cost."""
  return _of_comparison(content, metric, _EARNING_COLUMNS)


def router_spending(content: Content, metric: str) -> str:
  """Returns what each router of a comparison needs, and its tokens."""
  return _of_comparison(content, metric, _SPENDING_COLUMNS)


def _of_comparison(
    content: Content, metric: str, columns: Sequence[str]
) -> str:
  rows = comparison.rows(content, metric)
  head = budgets.header(content['cost_metrics'][metric], columns)
  head = [x.format(reference=content['reference']) for x in head]
  return _columns(comparison.COLUMNS, rows, columns, head)


def first_routers(content: Content, metric: str) -> str:
  """Returns a short table of a comparison: one router of each kind."""
  figures = content['cost_metrics'][metric]
  return _areas(figures, [x for x in _SHOWN_FIRST if x in figures['methods']])


def _columns(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    wanted: Sequence[str],
    head: Sequence[str],
) -> str:
  """Returns the wanted columns as a table, whose header is `head`."""
  places = [columns.index(x) for x in wanted]
  return markdown.table(head, [[x[i] for i in places] for x in rows])


def runs(content: Content) -> str:
  """Returns a table of a sweep: what each run changed, and its mean figures."""
  found = content['runs']
  # The fields that were swept stand before the number of runs.
  fields = list(found[0])[: list(found[0]).index('runs')]
  shown = [x for x in _RUN_COLUMNS if f'{x}, mean' in found[0]]
  rows = []
  for run in found:
    changed = [f'{x}: {run[x]}' for x in fields if run[x] is not None]
    rows.append(
        [
            '; '.join(changed),
            *(markdown.number(run[f'{x}, mean']) for x in shown),
        ]
    )
  return markdown.table(['changed', *shown], rows)


def responses(content: Content) -> str:
  """Returns the table of `studies.routellm_responses`."""
  from experiments.studies import routellm_responses  # Loads jax.

  return routellm_responses.page(content)


def kinds(content: Content) -> str:
  """Returns how many ladders of each kind `studies.walks` has found."""
  from experiments.studies import walks  # Loads jax.

  return walks.counts_table(content['counts'])


def walked(content: Content) -> str:
  """Returns some problems and how a router went through them, step by step."""
  return '\n\n'.join(f'#{x}' for x in content['shown'])


def made(said: Mapping[str, str], content: Content) -> str:
  """Returns how a result file was made, as a sentence in italics."""
  sizes = content.get('num_problems', {})
  if isinstance(sizes, Mapping):
    sizes = ', '.join(f'{count:,} {split}' for split, count in sizes.items())
  else:
    sizes = f'{sizes:,} test'
  sizes = f'; problems: {sizes}' if sizes else ''
  seeds = content.get('seeds', [])
  plural = 's' if len(seeds) > 1 else ''
  listed = ', '.join(map(str, seeds))
  listed = f'; training seed{plural} {listed}' if seeds else ''
  return textwrap.fill(
      f'*`{said["command"]}`{sizes}{listed}; commit '
      f'{said["commit"]}; {said["machine"]}.*',
      _WIDTH,
      break_long_words=False,
      break_on_hyphens=False,
  )


# Views of one cost metric, and those of the whole file.
OF_METRIC = {
    'methods': methods,
    'areas': areas,
    'routers': routers,
    'router_earnings': router_earnings,
    'router_spending': router_spending,
    'first_routers': first_routers,
}
OF_FILE = {
    'points': points,
    'transfer': transfer,
    'runs': runs,
    'responses': responses,
    'kinds': kinds,
    'walked': walked,
}
