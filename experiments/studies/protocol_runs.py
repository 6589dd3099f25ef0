"""Compares estimators, networks, features and protocols of the embedded pair.

Run:    python -m experiments.studies.protocol_runs --config=configs/arithmetic_redraft.py --workdir=runs/protocols
Some:   append --runs=redraft_exact,redraft_vtrace
Resume: the same command; finished runs are kept.
Writes: replies/, which all runs share; <run>/, the files of its pipeline; protocols.md, the table of all finished runs
"""  # noqa: E501  Commands stay on one line.

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
import pathlib
from typing import Any

from absl import flags
from absl import logging
import ml_collections

from experiments import builders
from experiments import collect
from experiments import command_line
from experiments import evaluate
from experiments import pipeline
from experiments.studies import protocol_table
from routing.shards import manifest as manifest_lib

TABLE_FILE = 'protocols.md'


@dataclasses.dataclass(frozen=True)
class Run:
  """One row of the table.

  name: of its directory.
  changes: dotted field of the configuration -> value.
  """

  name: str
  changes: Mapping[str, Any]


# The same as in configs/arithmetic_redraft.py:vtrace.
_VTRACE = {
    'objective.estimator': 'vtrace',
    'objective.entropy_weight': 1e-3,
    'batch_size': 64,
    'num_steps': 600,
}
_RELIABILITY = {
    'objective.form': 'reliability',
    'objective.levels': (0.05, 0.1, 0.2, 0.35),
}
# Features that any engine provides and that are not learned from text.
_OBSERVED = ('confidence', 'progress', 'cost')
RUNS = (
    Run('redraft_exact', {}),
    Run('redraft_vtrace', _VTRACE),
    Run(
        'redraft_trust_region',
        {**_VTRACE, 'objective.policy_update': 'trust_region'},
    ),
    Run('redraft_on_policy', {**_VTRACE, 'objective.estimator': 'on_policy'}),
    Run('redraft_gru', {**_VTRACE, 'network.kind': 'gru'}),
    Run('redraft_attention', {**_VTRACE, 'network.kind': 'attention'}),
    Run(
        'redraft_vtrace_no_text',
        {**_VTRACE, 'features.groups': (*_OBSERVED, 'hidden')},
    ),
    Run('redraft_no_text', {'features.groups': (*_OBSERVED, 'hidden')}),
    Run('redraft_no_hidden', {'features.groups': (*_OBSERVED, 'text')}),
    Run('redraft_confidence', {'features.groups': _OBSERVED}),
    Run('redraft_reliability', _RELIABILITY),
    Run(
        'redraft_behind_kappa', {**_RELIABILITY, 'soft_threshold.is_used': True}
    ),
    Run('switch_exact', {'protocol.name': 'switch'}),
    Run('switch_vtrace', {**_VTRACE, 'protocol.name': 'switch'}),
)


def configured(
    config: ml_collections.ConfigDict, run: Run
) -> ml_collections.ConfigDict:
  """Returns the configuration of one run."""
  config = config.copy_and_resolve_references()
  config.update_from_flattened_dict(dict(run.changes))
  return config


def named(names: Sequence[str] | None) -> list[Run]:
  """Returns the runs with these names, in the order of `RUNS`; None = all.

  Raises:
    ValueError: if a name is unknown.
  """
  known = [run.name for run in RUNS]
  unknown = [name for name in names or () if name not in known]
  if unknown:
    raise ValueError(f'Unknown runs {unknown}; allowed: {", ".join(known)}.')
  return [run for run in RUNS if not names or run.name in names]


def finish(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, run: Run
) -> None:
  """Executes the pipeline of one run, unless it is finished.

  Raises:
    ValueError: if its directory belongs to another configuration.
  """
  config = configured(config, run)
  # Greedy replies depend on neither protocol nor policy; all runs share them.
  config.data.directory = str(workdir / 'replies')
  logging.info('Run %s', run.name)
  pipeline.run(config, workdir / run.name, logging.info)


def finished(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the results of all evaluated runs, in the order of `RUNS`."""
  paths = [workdir / run.name / evaluate.RESULTS_FILE for run in RUNS]
  return [json.loads(path.read_text()) for path in paths if path.exists()]


def main(
    config: ml_collections.ConfigDict,
    workdir: str,
    names: Sequence[str] | None = None,
) -> pathlib.Path:
  """Executes all runs, rewrites the table after each, and returns its path."""
  folder = pathlib.Path(workdir).absolute()
  path = folder / TABLE_FILE
  for split in builders.SPLITS:
    collect.collect_split(config, folder / 'replies', split)
  for run in named(names):
    finish(config, folder, run)
    # After each run: the whole study takes hours.
    text = protocol_table.table(finished(folder)) + '\n'
    manifest_lib.replace_file(path, lambda p, t=text: p.write_text(t))
    logging.info('%s\n%s', path, text)
  return path


if __name__ == '__main__':
  flags.DEFINE_list('runs', None, 'Names of runs; default: all.')
  command_line.run(main, 'config', 'workdir', 'runs')
