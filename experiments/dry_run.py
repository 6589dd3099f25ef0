"""Prints what a collection will take; loads no model and sends no request.

Requests and tokens are forecast by `rollout.forecast`. Dollars follow from the
prices of a configuration, hours from measured speed or from a model's size.
What is not known is shown as unknown.
"""

from collections.abc import Sequence
import dataclasses
import functools
import pathlib
from typing import Any

import ml_collections

from experiments import builders
from experiments import collection_facts
from experiments import plan_table
from experiments import records_on_disk
from routing.engines import route as route_lib
from routing.rollout import forecast

# Hours where no speed was measured: 2 x parameters x tokens over these two. The
# peak is that of an A100 in bfloat16. The share is a guess for writing in large
# batches; small batches reach less.
PEAK_FLOPS = 312e12
UTILISATION = 0.2
ESTIMATES = ('low', 'expected', 'high')
NONE = '-'  # E.g. dollars of a route without prices.


@dataclasses.dataclass(frozen=True)
class Line:
  """One route's part in the collection of one split.

  name: of the collection, e.g. 'ladders train'.
  num_problems: problems that are still to be collected; None = not known.
  route: the route.
  demands: low, expected and high demand, summed over the problems.
  dollars: the same in dollars; None = not known, () = nobody is billed.
  hours: the same in hours of one GPU, or of the machine that was measured; () =
    the model runs elsewhere.
  """

  name: str
  num_problems: int | None
  route: route_lib.Route
  demands: tuple[forecast.Demand, ...]
  dollars: tuple[float | None, ...]
  hours: tuple[float | None, ...]

  def tokens(self, estimate: int) -> float | None:
    """Returns the total number of tokens in one of `ESTIMATES`, by index."""
    demand = self.demands[estimate]
    parts = [demand.read, demand.cached, demand.written]
    if ESTIMATES[estimate] == 'high':
      # The bound on tokens that are read anew supposes that none is cached.
      parts = [demand.read, demand.written]
    return None if None in parts else sum(parts)


@dataclasses.dataclass(frozen=True)
class Plan:
  """The plan of a configuration.

  lines: one for each collection and route.
  notes: what the figures rest on, and what exceeds a limit.
  """

  lines: tuple[Line, ...]
  notes: tuple[str, ...]


def plan(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    split: str | None = None,
    records: Sequence[tuple[str, str]] | None = None,
) -> Plan:
  """Returns the plan of a configuration.

  Args:
    config: of the run.
    workdir: of the run; what it holds already is measured, not counted again.
    split: only this split; None = all.
    records: (kind, split) of all that is collected; None = what the pipeline
      collects, which also answers live.

  Raises:
    ValueError: if a setting is not allowed.
  """
  records_on_disk.check(config)
  builders.check_routes(config)
  limits = builders.limits(config)
  routes = builders.routes(config)
  lines, notes = [], [_bounds_note(config)]
  asked = records_on_disk.needed(config) if records is None else records
  for kind, name in asked:
    if split not in (None, name):
      continue
    if records_on_disk.is_shared(config, kind):
      notes.append(
          f'{kind}: read from {config.data.directory}, and not collected.'
      )
    else:
      found = _Collection(config, workdir, kind, name)
      part = [found.line(index, route) for index, route in enumerate(routes)]
      lines += part
      notes += found.notes()
      notes += _limit_notes(found.name, part, limits)
  notes += [_prompt_note(route) for route in routes]
  notes += [_hours_note()]
  if split is None and records is None and config.evaluation.num_live:
    notes.append(
        f'Not counted: at most {config.evaluation.num_live} test problems that '
        'evaluation answers live at each operating point.'
    )
  return Plan(tuple(lines), tuple(dict.fromkeys(notes)))


class _Collection:
  """One kind of records of one split.

  Args:
    config, workdir: of the run.
    kind: of the records.
    split: name of the split.
  """

  def __init__(self, config, workdir, kind, split):
    self.name = f'{kind} {split}'
    self._config, self._kind = config, kind
    self._scheme = _scheme(config, kind)
    # Replies that were collected are not asked again, in no known number.
    self._is_memoized = kind == 'rollouts' and config.data.kind == 'replies'
    where = functools.partial(records_on_disk.directory, config, workdir)
    own = collection_facts.read(where(split, kind), kind, len(config.routes))
    others = (where(x, kind) for x in builders.SPLITS if x != split)
    self._base = own
    for directory in others:
      if not self._base.measured.num_problems:
        self._base = collection_facts.read(directory, kind, len(config.routes))
    self._problems, self._why = collection_facts.problems(config, split)
    if self._problems is None:
      self.num_missing = collection_facts.configured_size(config, split)
    else:
      self._problems = [x for x in self._problems if x.id not in own.ids]
      self.num_missing = len(self._problems)

  def line(self, index: int, route: route_lib.Route) -> Line:
    """Returns the line of a route."""
    demands = self._demands(index, route)
    measured = self._base.measured
    speed = measured.tokens_a_second(index)
    return Line(
        self.name,
        self.num_missing,
        route,
        demands,
        _dollars(route, demands),
        _hours(route, demands, speed),
    )

  def _demands(self, index, route) -> tuple[forecast.Demand, ...]:
    """Returns the low, expected and high demand of a route."""
    if self.num_missing is None:
      return (forecast.Demand(),) * 3
    if not self.num_missing:
      return (forecast.NOTHING,) * 3
    counted = collection_facts.count_tokens(route, self._problems or ())
    if counted is None:
      low, high = forecast.bounds(self._scheme, index, None)
      low, high = low.times(self.num_missing), high.times(self.num_missing)
    else:
      pairs = [forecast.bounds(self._scheme, index, x) for x in counted]
      low, high = (sum(x, forecast.NOTHING) for x in zip(*pairs, strict=True))
    expected = self._base.measured.mean(index).times(self.num_missing)
    if self._is_memoized:
      low, expected = forecast.NOTHING, forecast.Demand()
    return low, expected, high

  def notes(self) -> list[str]:
    """Returns what the estimates of this collection rest on."""
    notes = [f'{self.name}: {self._why}'] if self._why else []
    base = self._base
    if not base.measured.num_problems:
      return [
          *notes,
          f'{self.name}: expected is unknown before the first record.',
      ]
    size = base.num_bytes / base.measured.num_problems
    disk = plan_table.UNKNOWN
    if self.num_missing is not None:
      disk = f'{self.num_missing * size / 1e6:,.1f} MB'
    return [
        *notes,
        f'{self.name}: expected is the mean of {base.measured.num_problems:,} '
        f'problems in {base.directory}, where larger models read each prompt '
        f'anew; disk {disk}, at {size / 1e3:,.1f} kB a problem.',
    ]


def _scheme(config: ml_collections.ConfigDict, kind: str) -> forecast.Scheme:
  """Returns what a collection asks of its models."""
  routes = builders.routes(config)
  samples = config.collect.samples
  if kind == 'rollouts':
    samples = config.behaviour.trajectories
  return forecast.Scheme(
      kind,
      builders.protocol(config),
      builders.sampling(config),
      len(routes),
      samples,
      builders.MAX_REPLIES,
      tuple(bool(x.settings.get('shares_prefix')) for x in routes),
  )


def _dollars(route, demands) -> tuple[float | None, ...]:
  """Returns the dollars of low, expected and high; () if nobody is billed."""
  if not builders.is_billed(route):
    return ()
  spec = route.spec
  if not {'price_input', 'price_cached', 'price_output'} <= spec.keys():
    return (None,) * 3
  low, expected, high = (
      None
      if None in (x.read, x.cached, x.written)
      else (
          x.read * spec['price_input']
          + x.cached * spec['price_cached']
          + x.written * spec['price_output']
      )
      / 1e6
      for x in (*demands[:2], dataclasses.replace(demands[2], cached=0))
  )
  return low, expected, high


def _hours(route, demands, speed: float | None) -> tuple[float | None, ...]:
  """Returns the hours of low, expected and high; () if run elsewhere."""
  if route.engine == 'openai' and builders.is_billed(route):
    return ()
  if speed:
    return tuple(
        None if x.written is None else x.written / speed / 3_600
        for x in demands
    )
  parameters = collection_facts.parameters(route)
  if parameters is None:
    return (None,) * 3
  return tuple(
      None
      if None in (x.read, x.written)
      else 2
      * parameters
      * (x.read + x.written)
      / PEAK_FLOPS
      / UTILISATION
      / 3_600
      for x in demands
  )


def _bounds_note(config: ml_collections.ConfigDict) -> str:
  """Returns what low and high rest on."""
  sampling = builders.sampling(config)
  dropped = ''
  if not sampling.delimiter.is_text:
    dropped = ' Tokens dropped at the end of a step are not counted.'
  return (
      f'low and high: from max_tokens {sampling.max_tokens}, max_decisions '
      f'{sampling.max_decisions} and the lengths of the prompts. high supposes '
      'that no answer ends by itself and that nothing is found in a cache. '
      f'Repeated requests are not counted.{dropped}'
  )


def _prompt_note(route: route_lib.Route) -> str:
  """Returns where the prompt lengths of a route come from."""
  if collection_facts.counter(route) is not None:
    return f'{route.name}: prompts are counted by the tokenizer of its model.'
  if route.settings.get('mode') == 'instruct':
    return f'{route.name}: prompts of mode instruct are of unknown length.'
  return (
      f'{route.name}: its tokenizer is not on this machine, so the lengths of '
      'its prompts are unknown.'
  )


def _hours_note() -> str:
  """Returns what hours rest on."""
  return (
      'hours: at the speed of the records that expected rests on, on the '
      'machine that wrote them; without records 2 x parameters x tokens at '
      f'{UTILISATION:.0%} of {PEAK_FLOPS / 1e12:.0f} TFLOP/s (an A100).'
  )


def _limit_notes(name: str, lines: Sequence[Line], limits) -> list[str]:
  """Returns whether a collection may exceed or exceeds a spending limit."""
  asked = {
      'tokens': (
          limits.tokens,
          [[x.tokens(i) for x in lines] for i in range(3)],
      ),
      'dollars': (
          limits.dollars,
          [[x.dollars[i] for x in lines if x.dollars] for i in range(3)],
      ),
  }
  notes = []
  for unit, (limit, values) in asked.items():
    if not limit:
      continue
    sums = [None if None in x else sum(x) for x in values]
    above = [
        estimate
        for estimate, total in zip(ESTIMATES, sums, strict=True)
        if total is not None and total > limit
    ]
    text = f'{name}: collect.limits.{unit} is {limit:,g}; '
    if above:
      text += f'the plan exceeds it ({", ".join(above)}).'
    elif None in sums:
      text += 'whether the plan stays below is unknown.'
    else:
      text += 'the plan stays below.'
    notes.append(text)
  return notes


def _number(value: float | None, digits: int = 0) -> str:
  """Formats a number; None as `UNKNOWN`, and never a small one as 0."""
  if value is None:
    return plan_table.UNKNOWN
  text = f'{value:,.{digits}f}'
  return text if not value or float(text.replace(',', '')) else f'{value:.1g}'


def table(found: Plan) -> Any:
  """Returns the table of a plan for a `rich` console."""
  from rich import table as table_lib

  shown = table_lib.Table(title='What is still to be collected')
  names = ('records', 'problems', 'route', '', *forecast.QUANTITIES)
  for name in (*names, 'dollars', 'hours'):
    is_text = name in ('records', 'route', '')
    shown.add_column(name, justify='left' if is_text else 'right', no_wrap=True)
  for line in found.lines:
    for index, estimate in enumerate(ESTIMATES):
      first = [line.name, _number(line.num_problems), line.route.name]
      demand = line.demands[index]
      shown.add_row(
          *(first if not index else [''] * 3),
          estimate,
          *(_number(getattr(demand, x)) for x in forecast.QUANTITIES),
          _number(line.dollars[index], 2) if line.dollars else NONE,
          _number(line.hours[index], 2) if line.hours else NONE,
          end_section=index == len(ESTIMATES) - 1,
      )
  return shown


def show(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | str,
    split: str | None = None,
    records: Sequence[tuple[str, str]] | None = None,
) -> None:
  """Prints the plan of a configuration; arguments and errors as in `plan`."""
  found = plan(config, workdir, split, records)
  plan_table.show_notes(table(found), found.notes)
