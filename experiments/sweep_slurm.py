"""Writes the runs of a sweep as an array job of Slurm, one task a run."""

from collections.abc import Sequence
import hashlib
import json
import pathlib
import re
import shlex
import sys

from experiments import sweep_runs
from routing.shards import manifest as manifest_lib

# Flags of the sweep that a task does not have; the second kind has no value.
_OWN = ('launcher', 'jobs', 'match', 'slurm')
_OWN_SWITCHES = ('dry_run', 'nodry_run')
_SCRIPT = """#!/bin/bash
# Submit: sbatch {script}
# One task by hand: SLURM_ARRAY_TASK_ID=0 bash {script}
#SBATCH --job-name={name}
#SBATCH --array=0-{last}%{jobs}
#SBATCH {output}
{options}set -euo pipefail
# Task i runs line i + 1. It is a sweep of this run alone, so that the run is
# marked as finished, continues after an end, and never runs twice at a time.
command=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {commands})
if [ -z "$command" ]; then
  echo "There is no task $SLURM_ARRAY_TASK_ID; allowed: 0 to {last}." >&2
  exit 1
fi
cd {here}
eval "exec $command"
"""


def command(run: sweep_runs.Run, words: Sequence[str]) -> list[str]:
  """Returns the command of one task.

  Args:
    run: the run that the task executes.
    words: of the command line of the sweep, without the name of the program.
  """
  kept, rest = [], iter(words)
  for word in rest:
    name, equals, _ = word.lstrip('-').partition('=')
    is_flag = word.startswith('-')
    if is_flag and name in _OWN:
      if not equals:
        next(rest, None)  # Its value is the next word, as in `--jobs 4`.
    elif not (is_flag and name in _OWN_SWITCHES):
      kept.append(word)
  only = f'--match=^{re.escape(run.name)}$'
  return [sys.executable, '-m', 'experiments.sweep', *kept, only]


def write(
    sweep: sweep_runs.Sweep,
    runs: Sequence[sweep_runs.Run],
    words: Sequence[str],
    *,
    jobs: int,
    options: str = '',
) -> pathlib.Path:
  """Writes the script and the list of commands; returns the script.

  Both are named after what they say, so that files of a job that still waits in
  the queue are never replaced by those of another.

  Args:
    sweep: the sweep.
    runs: those that are not finished, at least one.
    words: of the command line of the sweep, without the name of the program.
    jobs: tasks at a time, >= 1.
    options: of sbatch, e.g. '--time=02:00:00 --gres=gpu:1'.

  Raises:
    ValueError: if an option does not begin with '-'.
  """
  folder = sweep.workdir / 'slurm'
  folder.mkdir(parents=True, exist_ok=True)
  given = shlex.split(options)
  for word in given:
    if not word.startswith('-'):
      raise ValueError(
          f"--slurm has {word!r}; allowed: options with '=', e.g. "
          "'--time=02:00:00 --partition=gpu'."
      )
  lines = [shlex.join(command(run, words)) + '\n' for run in runs]
  here = pathlib.Path.cwd()
  said = json.dumps([lines, given, jobs, str(here)])
  digest = hashlib.sha256(said.encode()).hexdigest()[:8]
  commands = folder / f'commands-{digest}.txt'
  script = folder / f'array-{digest}.sh'
  # sbatch reads quotes as a shell does, and replaces what follows a '%'. %A is
  # the number of the job, so that jobs do not write over each other's output.
  output = str(folder).replace('%', '%%') + '/%A_%a.txt'
  text = _SCRIPT.format(
      name=shlex.quote(sweep.workdir.name),
      last=len(runs) - 1,
      jobs=jobs,
      output=shlex.quote(f'--output={output}'),
      options=''.join(f'#SBATCH {shlex.quote(word)}\n' for word in given),
      commands=shlex.quote(str(commands)),
      here=shlex.quote(str(here)),
      script=shlex.quote(str(script)),
  )
  for path, content in ((commands, ''.join(lines)), (script, text)):
    manifest_lib.replace_file(path, lambda p, x=content: p.write_text(x))
  return script
