"""Runs an experiment once for each set of overrides that its `sweep()` returns.

Run:    python -m experiments.sweep --config=configs/arithmetic_sweep.py --workdir=runs/sweep --jobs=2
Plan:   the same with --dry_run, which lists the runs and runs nothing
Data:   append --data=runs/arithmetic, a work directory that holds all data the runs need; they share it
Slurm:  append --launcher=slurm, which writes an array script, one task a run, and prints how to submit it
Ray:    append --launcher=ray, which runs them on the nodes of a cluster; `ray` of the configuration says where, and what a run needs
Store:  --workdir=s3://bucket/sweep, with or without Ray (extra `remote`); --data may be there, too, if runs need records of `data.kind` only
Search: where `sweep()` returns a space instead of a list, Optuna searches it (extra `sweep`); see experiments/sweep_search.py
Resume: the same command; finished runs are kept, failed and interrupted ones run again.
Writes: runs/<overrides>/, the files of each run; logs/ and finished/; runs.parquet; table.parquet and table.md, mean and spread over seeds; with `track`, rows/
"""  # noqa: E501  Commands stay on one line.

from collections.abc import Mapping
import contextlib
import pathlib
import runpy
import shlex
import sys
from typing import Any

from absl import flags
import ml_collections
from ml_collections import config_flags

from experiments import command_line
from experiments import plan_table
from experiments import ray_collection
from experiments import sweep_elsewhere
from experiments import sweep_ray
from experiments import sweep_runs
from experiments import sweep_search
from experiments import sweep_slurm
from experiments import sweep_table
from experiments import sweep_tracking
from experiments import tracking
from experiments import workdirs
from routing.shards import files
from routing.shards import manifest as manifest_lib

LOCK_FILE = 'tables.lock'  # Held while tables are written.
LAUNCHERS = ('local', 'ray', 'slurm')


def asked_of(config: str) -> list[dict[str, Any]] | sweep_search.Search:
  """Returns what the `sweep()` of a file returns: overrides, or a search.

  Args:
    config: the value of --config: a file and perhaps a variant.

  Raises:
    ValueError: if the file defines no `sweep()`, or its space is not allowed.
  """
  path = config.partition(':')[0]
  module = runpy.run_path(path)
  if 'sweep' not in module:
    raise ValueError(
        f'{path} defines no sweep(); see configs/arithmetic_sweep.py.'
    )
  found = module['sweep']()
  if isinstance(found, Mapping):
    return sweep_search.make(found)
  return [dict(given) for given in found]


def shared(data: pathlib.Path | str) -> tuple[pathlib.Path, ...]:
  """Returns the directories of shards in `data`, such as shards/ and rollouts/.

  Raises:
    ValueError: if there are none, or one is incomplete.
  """
  found = sorted(files.absolute(data).glob('*/*/manifest.json'))
  if not found:
    raise ValueError(
        f'--data={data} holds no shards. Name a work directory in which data '
        'is collected.'
    )
  for path in found:
    # Otherwise several runs would collect the rest at once, in one directory.
    if not manifest_lib.load(path.parent).is_complete:
      raise ValueError(
          f'{path.parent} is not complete. Finish its collection first.'
      )
  return tuple(dict.fromkeys(path.parents[1] for path in found))


def collect(
    config: ml_collections.ConfigDict, sweep: sweep_runs.Sweep
) -> tuple[list[pathlib.Path], list[str]]:
  """Writes the tables of all finished runs, and sends their rows to a tracker.

  Args:
    config: of the sweep; `track` says where rows are sent to.
    sweep: the sweep.

  Returns:
    The paths of the tables, and the names of the rows that were sent.
  """
  # Tasks of an array job end side by side. One at a time: otherwise two would
  # write to one temporary file, and the tables of the one that has seen fewer
  # runs could be the last. An array job has no directory in an object store.
  with (
      sweep_runs.only_one(sweep.workdir / LOCK_FILE)
      if files.is_local(sweep.workdir)
      else contextlib.nullcontext()
  ):
    rows = [
        {
            **{field: _plain(value) for field, value in run.overrides.items()},
            **sweep_table.figures(sweep.directory(run)),
        }
        for run in sweep.runs
        if sweep.mark(run).exists()
    ]
    fields = list(dict.fromkeys(k for run in sweep.runs for k in run.overrides))
    written = sweep_table.write(rows, fields, sweep.workdir)
    return written, sweep_tracking.send(config, sweep.workdir)


def _plain(value: Any) -> Any:
  """Returns a value as a cell of a table."""
  if isinstance(value, list | tuple):
    return value[0] if len(value) == 1 else ', '.join(map(str, value))
  return value


def _open(
    config: ml_collections.ConfigDict,
    workdir: str,
    jobs: int,
    program: str,
    data: str | None,
    match: str,
    launcher: str,
) -> tuple[sweep_runs.Sweep, sweep_search.Search | None]:
  """Returns the sweep of the command line, and the search if it is one.

  Raises:
    ValueError: if a run or a setting of the sweep is not allowed.
  """
  tracking.check(config)
  if jobs < 1:
    raise ValueError(f'--jobs is {jobs}; allowed: >= 1.')
  flag = flags.FLAGS['config']
  path = config_flags.get_config_filename(flag)
  asked = asked_of(path)
  search = asked if isinstance(asked, sweep_search.Search) else None
  if search:
    sweep_search.check(search, config, match)
  where = files.absolute(workdir)
  if not files.is_local(where):
    sweep_elsewhere.check(config, launcher, search is not None)
  overrides = config_flags.get_override_values(flag)
  directories = shared(data) if data else ()
  runs = () if search else sweep_runs.plan(config, asked)
  if data and not files.is_local(files.path(data)):
    for given in [{}] if search else asked:
      sweep_elsewhere.check_data(sweep_runs.changed(config, given), data)
    directories, overrides = (), {**overrides, 'data.directory': data}
  sweep = sweep_runs.Sweep(
      workdir=where,
      program=program,
      config=path,
      overrides=overrides,
      runs=runs,
      shared=directories,
  )
  return sweep, search


def _claim(config, workdir, program, data, search=None) -> None:
  """Makes the directory of the sweep, or checks that it is this sweep's."""
  workdirs.claim(workdir, config, may_be_elsewhere=True)
  # A sweep of another program or other data needs another directory.
  given = {'program': program, 'data': data}
  if search:
    given['search'] = sweep_search.lasting(search)
  workdirs.claim(
      workdir,
      ml_collections.ConfigDict(given),
      'sweep.json',
      may_be_elsewhere=True,
  )


def main(
    config: ml_collections.ConfigDict,
    workdir: str,
    jobs: int,
    program: str,
    data: str | None,
    match: str,
    launcher: str,
    slurm: str,
) -> None:
  """Executes the sweep, writes the tables, and lists the runs that failed."""
  sweep, search = _open(config, workdir, jobs, program, data, match, launcher)
  if launcher == 'slurm':
    _write_job(
        sweep, search, (config, workdir, program, data), jobs, match, slurm
    )
    return
  where = (sweep_elsewhere.attempt,)
  if launcher == 'ray':
    _refuse(search, 'ray')
    executor = sweep_ray.Executor(ray_collection.cluster(config))
    where = executor.execute, executor.cancel
  _claim(config, workdir, program, data, search)
  if search:
    sweep, wrong = sweep_search.run_all(sweep, config, search, jobs)
  else:
    wrong = sweep_runs.run_all(sweep, jobs, match, *where)
  written, sent = collect(config, sweep)
  for path in written:
    print(path)
  if sent:
    print(f'{len(sent)} rows are sent to {tracking.kind_of(config)}.')
  if wrong:
    lines = (f'  {k}: {v} (see logs/{k}.txt)' for k, v in wrong.items())
    total = search.trials if search else len(sweep.runs)
    sys.exit('\n'.join([f'{len(wrong)} of {total} runs failed:', *lines]))
  print((sweep.workdir / sweep_table.MARKDOWN_FILE).read_text())
  if search and (run := sweep_search.best(sweep, search)):
    print(f'Best by {search.maximize}: {run.name}')


def _refuse(search: sweep_search.Search | None, launcher: str) -> None:
  """Raises ValueError if a sweep is a search, which cannot run elsewhere."""
  if search:
    raise ValueError(
        f'--launcher={launcher} needs a list of runs, and sweep() returns a '
        'space, whose next trial depends on the results of others. Run the '
        'sweep itself as a job, with --jobs.'
    )


def _write_job(sweep, search, claimed, jobs, match, options) -> None:
  """Writes a Slurm array job of the unfinished runs; says how to submit it."""
  _refuse(search, 'slurm')
  runs = sweep_runs.chosen(sweep, match)
  left = [run for run in runs if not sweep.mark(run).exists()]
  if not left:
    print(f'All {len(runs)} runs are finished.')
    return
  _claim(*claimed)
  script = sweep_slurm.write(
      sweep, left, sys.argv[1:], jobs=jobs, options=options
  )
  said = shlex.quote(str(script))
  print(f'{len(left)} tasks, {jobs} at a time. Submit: sbatch {said}')


def show_plan(
    config: ml_collections.ConfigDict,
    workdir: str,
    jobs: int,
    program: str,
    data: str | None,
    match: str,
    launcher: str,
    slurm: str,
) -> None:
  """Prints which runs would be executed, and how long they take."""
  del slurm
  sweep, search = _open(config, workdir, jobs, program, data, match, launcher)
  runs = sweep_runs.chosen(sweep, match)
  rows = [
      plan_table.Row(
          program,
          run.name,
          'a run',
          0
          if sweep.mark(run).exists()
          else sweep_runs.seconds_left(sweep, [run], 1),
      )
      for run in runs
  ]
  if search:
    rows.append(
        plan_table.Row(
            program,
            f'{search.sampler} over {", ".join(search.space)}',
            f'at most {search.trials} trials',
            None,
        )
    )
  left = None if search else sweep_runs.seconds_left(sweep, runs, jobs)
  plan_table.show(
      rows,
      [
          f'In all, {jobs} at a time: {plan_table.in_words(left)}, as the '
          'finished runs took. One run in detail: the same with '
          f'python -m {program}.'
      ],
  )


if __name__ == '__main__':
  flags.DEFINE_integer('jobs', 1, 'Runs at a time.')
  flags.DEFINE_string('program', 'experiments.pipeline', 'Module of each run.')
  flags.DEFINE_string('data', None, 'Directory whose shards all runs share.')
  flags.DEFINE_string('match', '', 'Regular expression: only these runs.')
  flags.DEFINE_enum(
      'launcher',
      'local',
      LAUNCHERS,
      'Runs here, on a cluster of Ray, or as an array job of Slurm.',
  )
  flags.DEFINE_string(
      'slurm', '', "Options of sbatch, e.g. '--time=02:00:00 --gres=gpu:1'."
  )
  command_line.run(
      main,
      *('config', 'workdir', 'jobs', 'program', 'data', 'match'),
      *('launcher', 'slurm'),
      plan=show_plan,
  )
