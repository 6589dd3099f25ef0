"""Compares the entries of many methods: figures, and a table of them.

All methods are resampled with the same draws, so each difference to the
reference is paired, problem by problem. A method that answers live on the first
n problems only is compared with the reference on these.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from routing import costs
from routing.evaluation import arena as arena_lib
from routing.evaluation import bootstrap
from routing.evaluation import budgets as budgets_lib
from routing.evaluation import entries as entries_lib
from routing.evaluation import markdown
from routing.evaluation import methods as methods_lib
from routing.evaluation import results as results_lib
from routing.evaluation import style
from routing.evaluation import tables
from routing.evaluation import worth_asking
from routing.outcomes import points as points_lib
from routing.outcomes import token_records
from routing.routers import router as router_lib

SCHEMA = 1  # Increase when keys change.
Entries = Mapping[str, Sequence[entries_lib.Entry]]


def figures(
    entries: Entries,
    methods: Mapping[str, router_lib.Method],
    arena: arena_lib.Arena,
    *,
    resamples: int,
    seed: int,
    reference: str = style.REFERENCE,
) -> dict[str, Any]:
  """Returns the content of `comparison.json`.

  Args:
    entries: name -> one entry per seed; a method that no seed changes has one.
    methods: name -> the method.
    arena: where they were evaluated.
    resamples: number of bootstrap draws.
    seed: of the draws.
    reference: the method that the others are compared with.

  Raises:
    ValueError: if the reference has no entry.
  """
  if reference not in entries:
    raise ValueError(
        f'The reference is {reference!r}; the entries are {list(entries)}.'
    )
  metric = arena.accounting.metric
  budgets = _budgets(arena)[metric]
  return {
      'schema': SCHEMA,
      'cost_metric': arena.accounting.metric,
      'num_problems': len(arena.alone['test'].problems),
      'resamples': resamples,
      'reference': reference,
      'routers': {
          name: _facts(methods[name], of_method, arena, budgets)
          for name, of_method in entries.items()
      },
      'cost_metrics': {
          metric: _in_metric(
              entries, methods, arena, metric, resamples, seed, reference
          )
          for metric in costs.COST_METRICS
      },
  }


def _budgets(arena: arena_lib.Arena) -> dict[str, tuple[float, ...]]:
  """Returns the costs at which accuracies are reported, in each metric."""
  return worth_asking.budgets(arena.samples('test', router_lib.COMMIT).source)


def _num_problems(entries: Sequence[entries_lib.Entry]) -> int:
  """Returns how many test problems a method was evaluated on."""
  return entries[0].test.correct.shape[1]


def _facts(
    method: router_lib.Method,
    entries: Sequence[entries_lib.Entry],
    arena: arena_lib.Arena,
    budgets: Sequence[float],
) -> dict[str, Any]:
  """Returns what is known of a method besides its curves."""
  num = _num_problems(entries)
  seconds = arena.alone['test'].first(num).large_cost['latency']
  at_budgets = {}
  for budget in budgets:
    tokens, spent = [], []
    for entry in entries:
      k = entry.at_budget(arena.accounting.metric, budget)
      cost = entry.test.cost
      tokens.append([cost[x][k].mean() for x in entries_lib.TOKENS])
      spent.append(np.mean(cost['latency'][k] * seconds))
    means = np.mean(tokens, axis=0).tolist()
    at_budgets[f'{budget:g}'] = {
        'tokens': dict(zip(token_records.KINDS, means, strict=True)),
        'seconds': float(np.mean(spent)),
    }
  protocol = method.needs.protocol
  return {
      'protocol': (
          'whole answers'
          if protocol is None
          else f'{protocol.name}, {protocol.view}'
      ),
      'needs': method.needs.in_words(),
      'need_names': method.needs.names(),
      'num_trials': len(entries[0].areas),
      'setting': entries[0].setting,
      'areas_on_select': entries[0].areas,
      'num_problems': num,
      'num_select': entries[0].select.correct.shape[1],
      'num_seeds': len(entries),
      'decisions_per_second': float(
          np.median([x.decisions_per_second for x in entries])
      ),
      'at_budget': at_budgets,
  }


def _first(entry: entries_lib.Entry, num: int) -> entries_lib.Entry:
  """Returns an entry on the first test problems only."""
  test = entry.test
  cut = {
      field.name: getattr(test, field.name)[:, :num]
      for field in dataclasses.fields(test)
      if field.name != 'cost'
  }
  cost = {name: x[:, :num] for name, x in test.cost.items()}
  return dataclasses.replace(entry, test=entries_lib.Outcomes(**cut, cost=cost))


def _in_metric(
    entries: Entries,
    methods: Mapping[str, router_lib.Method],
    arena: arena_lib.Arena,
    metric: str,
    resamples: int,
    seed: int,
    reference: str,
) -> dict[str, Any]:
  """Returns the figures of all methods in one cost metric."""
  merged: dict[str, Any] = {'methods': {}, 'differences': {}}
  sizes = sorted({_num_problems(x) for x in entries.values()})
  # The same for all, although some are compared on the first problems only.
  budgets = _budgets(arena)[metric]
  for num in sizes:
    group = {
        name: [_first(entry, num) for entry in of_method]
        for name, of_method in entries.items()
        if name == reference or _num_problems(of_method) == num
    }
    small, large, oracle = _anchor_points(arena, metric, num)
    draws = bootstrap.draw(
        num, [1, *(len(x) for x in group.values())], resamples, seed=seed
    )
    result = results_lib.of_metric(
        {
            name: [
                entry.candidates(metric, methods[name].forms_hull)
                for entry in of_method
            ]
            for name, of_method in group.items()
        },
        oracle,
        results_lib.anchors_of(small, large),
        draws,
        reference,
        budgets,
    )
    # The largest group comes last: the reference, the oracle and the anchors
    # are those on all problems.
    merged['methods'] |= result['methods']
    merged['differences'] |= result['differences']
    merged['anchors'] = result['anchors']
    merged['budgets'] = result['budgets']
  return merged


def _anchor_points(
    arena: arena_lib.Arena, metric: str, num: int
) -> tuple[points_lib.Points, points_lib.Points, points_lib.Points]:
  """Returns small alone, large alone, and the oracle, on the first problems.

  Under `commit`: no draft is paid, so the oracle is that of the cheaper view.
  """
  source = arena.samples('test', router_lib.COMMIT).source
  first = slice(0, num)
  return (
      source.at_rates([0.0], metric).on(first),
      source.largest_alone().on(first),
      source.oracle(methods_lib.PRICES, metric).on(first),
  )


COLUMNS = (
    'router',
    'needs',
    'problems',
    'of select',
    'trials',
    'area [95 %]',
    '{reference} minus router',
    'gap recovered',
    'cost for 50 %',
    '80 %',
    '95 % of the gap',
    'acc @.2',
    'acc @.4',
    'acc @.6',
    'loss @.4',
    'gain @.4',
    *(f'{kind} tokens @.4' for kind in token_records.KINDS),
    's a problem @.4',
    'decisions/s',
)


def rows(content: Mapping[str, Any], metric: str) -> list[list[str]]:
  """Returns a row of cells per router, the best area first, then the oracle."""
  in_metric = content['cost_metrics'][metric]
  area = lambda x: in_metric['methods'][x]['area'] or {}
  names = sorted(
      content['routers'], key=lambda x: -(area(x).get('mean') or 0.0)
  )
  return [_row(content, in_metric, x) for x in (*names, 'oracle')]


def _row(
    content: Mapping[str, Any], in_metric: Mapping[str, Any], name: str
) -> list[str]:
  """Returns the cells of one router, or of the oracle."""
  method = in_metric['methods'][name]
  facts = content['routers'].get(name)
  keys = budgets_lib.keys(in_metric)
  loss = gain = markdown.MISSING
  measured = [markdown.MISSING] * (len(token_records.KINDS) + 2)
  if facts is not None:
    chosen = method['at_budget'][keys[1]]
    loss, gain = (
        markdown.number(float(np.mean([x['mean'] for x in chosen[what]])))
        for what in ('loss', 'gain')
    )
    # Tokens and seconds are those of the budget in the configured metric.
    spent = list(facts['at_budget'].values())[1]
    speed = facts['decisions_per_second']
    measured = [
        *(f'{spent["tokens"][kind]:.1f}' for kind in token_records.KINDS),
        f'{spent["seconds"]:.3g}',
        markdown.MISSING if speed is None else f'{speed:,.0f}',
    ]
  reach = method['cost_to_recover']
  return [
      style.LABELS.get(name, name),
      facts['needs'] if facts else markdown.MISSING,
      f'{facts["num_problems"]:,}' if facts else markdown.MISSING,
      _of_select(facts),
      str(facts['num_trials'] or 1) if facts else markdown.MISSING,
      tables.interval(method['area']),
      tables.difference(in_metric, name),
      markdown.number(method['mean_gap_recovered']),
      *(markdown.number(reach[x]) for x in ('50', '80', '95')),
      *(markdown.number(method['accuracy_at'][x]) for x in keys),
      loss,
      gain,
      *measured,
  ]


def _of_select(facts: Mapping[str, Any] | None) -> str:
  """Returns on how many problems of `select` a router was chosen."""
  # Files from before this figure do not have it.
  if facts is None or 'num_select' not in facts:
    return markdown.MISSING
  return f'{facts["num_select"]:,}'


def table(content: Mapping[str, Any], metric: str) -> str:
  """Returns the table of one cost metric in Markdown."""
  columns = [x.format(reference=content['reference']) for x in COLUMNS]
  head = budgets_lib.header(content['cost_metrics'][metric], columns)
  return markdown.table(head, rows(content, metric), num_text=2)


def page(content: Mapping[str, Any]) -> str:
  """Returns `comparison.md`: one table for each cost metric."""
  tried = max(x['num_trials'] for x in content['routers'].values())
  parts = [
      '# Routers compared',
      f'{content["num_problems"]:,} test problems; intervals are 95 % over '
      f'{content["resamples"]:,} resamples of problems and seeds, paired for '
      f'differences. Every router was tried with {max(tried, 1)} settings on '
      '`select`, or with all that it has; a row says how many. Costs count '
      'every token of every model, scorers included, as a fraction of the '
      'largest model alone. Tokens are means per problem. Routers that answer '
      'live do so on the first problems of `test` and `select`; a row says on '
      'how many.',
      *tables.left_out_lines(content.get('left_out', {})),
  ]
  metrics_of = [
      content['cost_metric'],
      *(x for x in content['cost_metrics'] if x != content['cost_metric']),
  ]
  for metric in metrics_of:
    parts += [f'## Cost metric: {metric}', table(content, metric)]
  return '\n\n'.join(parts) + '\n'
