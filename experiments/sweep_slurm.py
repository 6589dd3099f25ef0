"""Writes the runs of a sweep as an array job of Slurm, one task a run."""

from collections.abc import Sequence
import pathlib
import re
import shlex
import sys

from experiments import sweep_runs

COMMANDS_FILE = 'commands.txt'
SCRIPT_FILE = 'array.sh'
_SCRIPT = """#!/bin/bash
# Submit: sbatch {script}
# One task by hand: SLURM_ARRAY_TASK_ID=0 bash {script}
#SBATCH --job-name={name}
#SBATCH --array=0-{last}%{jobs}
#SBATCH --output={folder}/%a.txt
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
  own = ('launcher', 'jobs', 'match', 'slurm', 'dry_run')
  kept = [x for x in words if x.lstrip('-').partition('=')[0] not in own]
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
  (folder / COMMANDS_FILE).write_text(''.join(lines))
  script = folder / SCRIPT_FILE
  script.write_text(
      _SCRIPT.format(
          name=shlex.quote(sweep.workdir.name),
          last=len(runs) - 1,
          jobs=jobs,
          folder=folder,
          options=''.join(f'#SBATCH {word}\n' for word in given),
          commands=shlex.quote(str(folder / COMMANDS_FILE)),
          here=shlex.quote(str(pathlib.Path.cwd())),
          script=script,
      )
  )
  return script
