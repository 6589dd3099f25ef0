"""Objectives, networks, features and protocols of the embedded pair, in one table.

Run:    python -m experiments.protocols --config=configs/arithmetic_trees.py --workdir=runs/protocols --replies=runs/replies
Some:   append --runs=redraft_exact,redraft_vtrace
Resume: the same command; what is finished is kept.
Writes: <workdir>/<run>/{runs/, results.json, results.md}, and protocols.md, the table of all that are finished.

Replies of all three splits come first (see `experiments.replies`); everything
here then needs no model.
"""  # noqa: E501  Commands stay on one line.

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
import os
import pathlib
from typing import Any

from absl import flags
from absl import logging
import ml_collections

from experiments import behave
from experiments import evaluate
from experiments import evaluate_rollouts
from experiments import launch
from experiments import protocol_table
from experiments import train
from experiments import train_trees
from experiments import workdirs
from routing.shards import manifest as manifest_lib

TABLE_FILE = 'protocols.md'


@dataclasses.dataclass(frozen=True)
class Run:
  """One row of the table.

  name: of its directory.
  changes: dotted field of the configuration = its value.
  """

  name: str
  changes: Mapping[str, Any]


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
  """The configuration of one run."""
  config = config.copy_and_resolve_references()
  config.update_from_flattened_dict(dict(run.changes))
  return config


def named(names: Sequence[str] | None) -> list[Run]:
  """The runs of these names, in the order of `RUNS`; None = all.

  Raises:
    ValueError: if there is no such run.
  """
  known = [run.name for run in RUNS]
  unknown = [name for name in names or () if name not in known]
  if unknown:
    raise ValueError(f'Unknown runs {unknown}; allowed: {", ".join(known)}.')
  return [run for run in RUNS if not names or run.name in names]


def finish(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    run: Run,
    directory: str,
) -> None:
  """Trains and evaluates one run, or finds it done.

  Raises:
    ValueError: if what is there is of another configuration.
  """
  config = configured(config, run)
  folder = workdirs.claim(workdir / run.name, config)
  if (folder / evaluate.RESULTS_FILE).exists():
    return
  logging.info('Run %s', run.name)
  if config.objective.estimator == 'exact':
    train_trees.train_all(config, folder, directory)
  else:
    _share_rollouts(config, workdir, folder, directory)
    train.train_all(config, folder, directory)
  evaluate_rollouts.run(config, str(folder), directory)


def finished(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """The results of all runs that have some, in the order of `RUNS`."""
  paths = [workdir / run.name / evaluate.RESULTS_FILE for run in RUNS]
  return [json.loads(path.read_text()) for path in paths if path.exists()]


def _share_rollouts(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    folder: pathlib.Path,
    directory: str,
) -> None:
  """Collects behaviour once a protocol, for all runs that learn from it."""
  source = workdir / f'{config.protocol.name}_behaviour'
  for split in ('train', 'validation'):
    behave.collect_split(config, source, split, directory)
  link = behave.shard_directory(folder, 'train').parent
  if not link.is_symlink():
    shared = behave.shard_directory(source, 'train').parent
    # Relative, so that the whole may be moved.
    link.symlink_to(
        os.path.relpath(shared, link.parent), target_is_directory=True
    )


def main(
    config: ml_collections.ConfigDict,
    workdir: str,
    directory: str,
    names: Sequence[str] | None = None,
) -> pathlib.Path:
  """Finishes all runs, the table anew after each; returns its path."""
  folder = pathlib.Path(workdir).absolute()
  path = folder / TABLE_FILE
  for run in named(names):
    finish(config, folder, run, directory)
    text = protocol_table.table(finished(folder)) + '\n'
    manifest_lib.replace_file(path, lambda p, t=text: p.write_text(t))
    logging.info('%s\n%s', path, text)
  return path


if __name__ == '__main__':
  flags.DEFINE_string('replies', None, 'Directory of the replies.')
  flags.DEFINE_list('runs', None, 'Names; all by default.')
  flags.mark_flag_as_required('replies')
  launch.run(main, 'config', 'workdir', 'replies', 'runs')
