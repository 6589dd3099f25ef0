"""Searches a space of settings with Optuna, where `sweep()` returns a space.

A space is a dict:
  space: field -> dict(low=, high=) and perhaps log=True or step=; whole numbers
    if both ends are. Or field -> dict(choices=(...)).
  trials: how many settings are tried.
  maximize: a figure of `sweep_table.figures`, e.g. 'area on select'.
  sampler: one of `SAMPLERS`. By default 'tpe'.
  pruner: one of `PRUNERS`. By default 'none'. It compares trials by the
    validation scores that they write while they train.
  seed: of the sampler; by default 0.
Each trial is a run of the sweep. The study is kept in the sweep's directory, so
the same command continues it. Another space, or another figure to maximize,
needs another directory: Optuna would take the earlier results for those of the
new values.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import pathlib
from typing import TYPE_CHECKING
from typing import Any

import ml_collections
import numpy as np

from experiments import sweep_runs
from experiments import sweep_table
from routing import progress
from routing.shards import lock
from routing.training import metrics

if TYPE_CHECKING:
  import optuna

SAMPLERS = ('tpe', 'random', 'gp', 'cmaes')
PRUNERS = ('none', 'median', 'halving')
_DEFAULTS = {'sampler': 'tpe', 'pruner': 'none', 'seed': 0}
_FIELDS = ('space', 'trials', 'maximize', *_DEFAULTS)
_STUDY_FILE = 'study.log'


@dataclasses.dataclass(frozen=True)
class Search:
  """A space and how it is searched; see the module for the fields."""

  space: Mapping[str, Mapping[str, Any]]
  trials: int
  maximize: str
  sampler: str
  pruner: str
  seed: int


def make(given: Mapping[str, Any]) -> Search:
  """Returns the search that `sweep()` describes.

  Raises:
    ValueError: if a key, a sampler, a pruner or a range is not allowed.
  """
  for name in given:
    if name not in _FIELDS:
      raise ValueError(
          f'sweep() returns a space with {name!r}; allowed: '
          f'{", ".join(_FIELDS)}.'
      )
  found = Search(**{**_DEFAULTS, **given})
  for name, allowed in (('sampler', SAMPLERS), ('pruner', PRUNERS)):
    if (value := getattr(found, name)) not in allowed:
      raise ValueError(
          f'The {name} of sweep() is {value!r}; allowed: {", ".join(allowed)}.'
      )
  if found.trials < 1:
    raise ValueError(f'trials of sweep() is {found.trials}; allowed: >= 1.')
  for field, options in found.space.items():
    _check_range(field, options)
  return found


def check(
    search: Search, config: ml_collections.ConfigDict, match: str
) -> None:
  """Raises ValueError if a search does not fit a configuration or the flags.

  Args:
    search: the search.
    config: that all trials start from.
    match: the value of --match; a search has no list of runs to choose from.
  """
  if match:
    raise ValueError(
        f'--match={match} chooses among the runs of a list, and sweep() '
        'returns a space. Leave --match out.'
    )
  sweep_table.check_name(search.maximize, config)


def lasting(search: Search) -> dict[str, Any]:
  """Returns what may not change while a search continues, as nested dicts."""
  space: dict[str, Any] = {}
  for field, options in search.space.items():
    *groups, name = field.split('.')
    at = space
    for group in groups:
      at = at.setdefault(group, {})
    at[name] = dict(options)
  return {'space': space, 'maximize': search.maximize}


def _check_range(field: str, options: Mapping[str, Any]) -> None:
  """Raises ValueError unless these are choices, or a range."""
  keys = set(options)
  if keys == {'choices'} and options['choices']:
    return
  if {'low', 'high'} <= keys <= {'low', 'high', 'log', 'step'}:
    if options['low'] < options['high']:
      return
  raise ValueError(
      f'The space of {field} is {dict(options)}; allowed: choices=(...), or '
      'low < high and perhaps log or step.'
  )


def _suggest(
    trial: optuna.Trial, field: str, options: Mapping[str, Any]
) -> Any:
  """Returns a trial's value of a field."""
  if 'choices' in options:
    choices = options['choices']
    # Optuna keeps choices as text or numbers, and fields may be tuples.
    return choices[trial.suggest_categorical(field, range(len(choices)))]
  is_whole = all(isinstance(options[x], int) for x in ('low', 'high'))
  suggest = trial.suggest_int if is_whole else trial.suggest_float
  return suggest(field, **options)


def _study(search: Search, directory: pathlib.Path) -> optuna.Study:
  """Opens the study of a directory; trials of a killed sweep begin again."""
  try:
    import optuna
  except ImportError as error:
    raise ValueError(
        'sweep() returns a space, which Optuna searches. Install it: pip '
        "install 'stepwise-routing[sweep]'."
    ) from error
  from optuna.storages import journal

  optuna.logging.set_verbosity(optuna.logging.WARNING)
  samplers = {
      'tpe': optuna.samplers.TPESampler,
      'random': optuna.samplers.RandomSampler,
      'gp': optuna.samplers.GPSampler,
      'cmaes': optuna.samplers.CmaEsSampler,
  }
  pruners = {
      'none': optuna.pruners.NopPruner,
      # The first trials are never pruned: there is nothing to compare with.
      'median': lambda: optuna.pruners.MedianPruner(n_startup_trials=4),
      'halving': optuna.pruners.SuccessiveHalvingPruner,
  }
  file = journal.JournalFileBackend(str(directory / _STUDY_FILE))
  study = optuna.create_study(
      storage=optuna.storages.JournalStorage(file),
      study_name='sweep',
      pruner=pruners[search.pruner](),
      direction='maximize',
      load_if_exists=True,
  )
  trials = study.get_trials(deepcopy=False)
  # Another seed than before, or the first draws would be those of trial 0.
  study.sampler = samplers[search.sampler](seed=search.seed + len(trials))
  for trial in trials:
    if trial.state == optuna.trial.TrialState.RUNNING:
      study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
      # The same values give the same directory, so that its run continues.
      study.enqueue_trial(trial.params)
  return study


def _watch(trial: optuna.Trial, directory: pathlib.Path) -> Callable[[], bool]:
  """Returns a function that reports validation scores; True = prune."""
  seen = {0}

  def is_hopeless() -> bool:
    # The first seed speaks for all: the others are trained after it.
    for path in sorted(directory.glob('runs/seed*/metrics.jsonl'))[:1]:
      for row in metrics.read_rows(path):
        score = np.mean(row.get('validation_score', -np.inf))
        if row['step'] not in seen and np.isfinite(score):
          seen.add(row['step'])
          trial.report(float(score), row['step'])
    return len(seen) > 1 and trial.should_prune()

  return is_hopeless


class _Trials:
  """Runs trials, and keeps what went wrong.

  Args:
    sweep: without runs.
    config: that all runs start from.
    search: the space and how it is searched.
    bar: moves with each trial.
  """

  def __init__(
      self,
      sweep: sweep_runs.Sweep,
      config: ml_collections.ConfigDict,
      search: Search,
      bar: progress.Progress,
  ):
    self._sweep, self._config, self._search = sweep, config, search
    self._bar = bar
    self.wrong: dict[str, str] = {}

  def __call__(self, trial: optuna.Trial) -> float:
    """Runs a trial; returns the figure that is maximised."""
    import optuna

    values = {
        field: _suggest(trial, field, options)
        for field, options in self._search.space.items()
    }
    (run,) = sweep_runs.plan(self._config, [values])
    self._bar.begin()
    watch = _watch(trial, self._sweep.directory(run))
    is_watched = self._search.pruner != 'none'
    problem = sweep_runs.attempt(
        self._sweep, run, watch if is_watched else None
    )
    self._bar.say(f'{problem or "done"}: {run.name}')
    self._bar.update()
    if problem == sweep_runs.PRUNED:
      raise optuna.TrialPruned
    if problem:
      self.wrong[run.name] = problem
      raise RuntimeError(problem)
    return _value(self._sweep, run, self._search)


def run_all(
    sweep: sweep_runs.Sweep,
    config: ml_collections.ConfigDict,
    search: Search,
    jobs: int,
) -> tuple[sweep_runs.Sweep, dict[str, str]]:
  """Runs the trials that are left, `jobs` at a time.

  Args:
    sweep: without runs.
    config: that all runs start from.
    search: the space and how it is searched.
    jobs: trials at a time, >= 1.

  Returns:
    The sweep with the runs of all trials; name of each failed run -> what went
    wrong. Pruned runs are not among the wrong ones.

  Raises:
    ValueError: if Optuna is missing, the space has a field that does not exist,
      or another process runs the search.
  """
  sweep.workdir.mkdir(parents=True, exist_ok=True)
  # Two searches in one directory would each begin the other's trials again.
  held = lock.Lock(sweep.workdir)
  try:
    return _run_all(sweep, config, search, jobs)
  finally:
    held.release()


def _run_all(
    sweep: sweep_runs.Sweep,
    config: ml_collections.ConfigDict,
    search: Search,
    jobs: int,
) -> tuple[sweep_runs.Sweep, dict[str, str]]:
  """Does what `run_all` does, in a directory that is locked."""
  study = _study(search, sweep.workdir)
  trials = study.get_trials(deepcopy=False)
  done = sum(x.state.name in ('COMPLETE', 'PRUNED') for x in trials)
  left = max(search.trials - done, 0)
  print(f'{search.trials} trials of {sweep.program}; {done} are done.')
  with progress.Progress(left + done, 'sweep', unit='trial', done=done) as bar:
    run = _Trials(sweep, config, search, bar)
    # A failed trial does not stop the others.
    study.optimize(run, n_trials=left, n_jobs=jobs, catch=(RuntimeError,))
  sweep = dataclasses.replace(sweep, runs=_all_runs(study, config, search))
  return sweep, run.wrong


def _value(
    sweep: sweep_runs.Sweep, run: sweep_runs.Run, search: Search
) -> float:
  """Returns the figure of a run that is maximised."""
  figures = sweep_table.figures(sweep.directory(run))
  if search.maximize not in figures:
    raise ValueError(
        f'maximize of sweep() is {search.maximize!r}; allowed: '
        f'{", ".join(figures)}.'
    )
  return figures[search.maximize]


def _all_runs(
    study: optuna.Study, config: ml_collections.ConfigDict, search: Search
) -> tuple[sweep_runs.Run, ...]:
  """Returns the runs of all trials, those of earlier commands too."""
  found = {}
  for trial in study.get_trials(deepcopy=False):
    if set(trial.params) == set(search.space):
      values = {
          field: options['choices'][trial.params[field]]
          if 'choices' in options
          else trial.params[field]
          for field, options in search.space.items()
      }
      (run,) = sweep_runs.plan(config, [values])
      found[run.name] = run
  return tuple(found.values())


def best(sweep: sweep_runs.Sweep, search: Search) -> sweep_runs.Run | None:
  """Returns the finished run with the highest figure; None if there is none."""
  finished = [run for run in sweep.runs if sweep.mark(run).exists()]
  return max(finished, key=lambda x: _value(sweep, x, search), default=None)
