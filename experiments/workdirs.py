"""Work directories: each belongs to one configuration, saved inside it.

Some fields of configurations have been renamed. A saved configuration with an
old name is read under the new name. A command or configuration file with an old
name is rejected, with an error that gives the new name.
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

import ml_collections

from routing.shards import files
from routing.shards import manifest as manifest_lib

# Old name -> current name, both dotted. `upgrade` handles one level of groups;
# it also makes `routes` of the earlier group `engine`.
RENAMED = {
    'ruler': 'cost_metric',
    'calibration.among': 'calibration.num_choices',
    'calibration.both': 'calibration.loss_and_cost',
    'calibration.grid': 'calibration.num_thresholds',
    'calibration.least_effective': 'calibration.min_effective_size',
    'evaluation.coverage': 'evaluation.num_coverage_samples',
    'evaluation.live': 'evaluation.num_live',
    'evaluation.trials': 'evaluation.num_trials',
    'objective.least_effective': 'objective.min_effective_size',
    'objective.num_inner': 'objective.num_inner_steps',
    'problems.source': 'task.name',
    'objective.ratio_bar': 'objective.ratio_clip',
    'objective.reach_bar': 'objective.reach_clip',
    'objective.rescale': 'objective.normalize_advantages',
    'stream.num_held': 'stream.num_shards_in_memory',
    'trust_region.num_shrinks': 'trust_region.max_backtracks',
    'trust_region.shrink': 'trust_region.backtrack_factor',
}
NO_SCORER = {'model': '', 'revision': '', 'spec': {}, 'settings': {}}
# Values of `cost_metric` that were renamed: old -> current.
_COST_METRICS = {'decoded': 'decoded_tokens', 'seconds': 'latency'}


def claim(
    workdir: pathlib.Path | str,
    config: ml_collections.ConfigDict,
    name: str = 'config.json',
    *,
    may_be_elsewhere: bool = False,
) -> pathlib.Path:
  """Makes a work directory for a configuration, or checks that it matches.

  One difference is allowed: a larger `problems.prove` where
  `calibration.procedure` is 'growing'. The saved configuration is then updated.

  Args:
    workdir: directory of the experiment.
    config: the configuration that the experiment runs with.
    name: file name of the saved configuration.
    may_be_elsewhere: whether the directory may be in an object store.

  Returns:
    The absolute path of the directory.

  Raises:
    ValueError: if the directory belongs to another configuration; names the
      first field that differs. Nothing is overwritten. Or if it is in an object
      store, unless it may be.
  """
  if '://' in str(workdir) and not may_be_elsewhere:
    raise ValueError(
        f'--workdir={workdir} is in an object store, where only '
        'experiments.collect and experiments.sweep write. Read it with '
        f'--config.data.directory={workdir}, and use a --workdir here.'
    )
  directory = files.absolute(workdir)
  path = directory / name
  # Through JSON, so that tuples equal the lists that are read from the file.
  current = json.loads(config.to_json_best_effort())
  if path.exists():
    found = upgrade(json.loads(path.read_text()))
    if 'scorer' in current:
      # Directories from before step scorers had none.
      found.setdefault('scorer', dict(NO_SCORER))
    if 'serving' in current:
      # How answers are served changes no result; older ones do not say it.
      found['serving'] = current['serving']
    # Neither does where training metrics are shown, nor who collects.
    for field in ('track', 'launcher', 'ray'):
      if field in current:
        found[field] = current[field]
    if found == current:
      return directory
    if not _only_grows(found, current):
      raise ValueError(
          f'{directory} belongs to another configuration: '
          f'{_difference(found, current)}. Use another --workdir.'
      )
  directory.mkdir(parents=True, exist_ok=True)
  text = json.dumps(current, indent=2) + '\n'
  manifest_lib.replace_file(path, lambda path: path.write_text(text))
  return directory


def _only_grows(found: dict, current: dict) -> bool:
  """Returns whether the only difference is an allowed growth of `prove`.

  Args:
    found: the saved configuration.
    current: the configuration of this run.
  """
  # Other procedures are valid for one fixed sample: testing again after adding
  # problems would raise the probability that a promise is broken.
  if current.get('calibration', {}).get('procedure') != 'growing':
    return False
  sizes = dict(found['problems'], prove=current['problems']['prove'])
  return (
      found | {'problems': sizes} == current
      and found['problems']['prove'] < current['problems']['prove']
  )


def _difference(found: dict, current: dict, prefix: str = '') -> str:
  """Returns a description of the first field that differs."""
  for key in sorted({*found, *current}):
    a, b = found.get(key), current.get(key)
    if isinstance(a, dict) and isinstance(b, dict) and a != b:
      return _difference(a, b, f'{prefix}{key}.')
    if a != b:
      return f'{prefix}{key} is {a!r} there, {b!r} here'
  return 'the fields have other types'  # E.g. a field that is None, or absent.


def upgrade(content: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a saved configuration with its fields under their current names.

  Args:
    content: the content of `config.json`; not changed.
  """
  # A copy of both levels, so that `content` is not changed.
  found = {
      key: dict(value) if isinstance(value, Mapping) else value
      for key, value in content.items()
  }
  for before, now in RENAMED.items():
    *group, old = before.split('.')
    fields = found.get(group[0], {}) if group else found
    if isinstance(fields, dict) and old in fields:
      *other, name = now.split('.')
      target = fields if other == group else found.setdefault(other[0], {})
      # If both names are there, the current one wins.
      target.setdefault(name, fields.pop(old))
  if 'engine' in found and 'routes' not in found:
    engine = found.pop('engine')
    found['routes'] = [_route_of(engine, name) for name in ('small', 'large')]
    if 'environment' in engine:
      found['environment'] = engine['environment']
  # How much vLLM prints changes no result; `builders.set_environment` says it.
  if isinstance(found.get('environment'), dict):
    found['environment'].pop('VLLM_LOGGING_LEVEL', None)
  metric = found.get('cost_metric')
  if metric in _COST_METRICS:
    found['cost_metric'] = _COST_METRICS[metric]
  return found


def _route_of(engine: Mapping[str, Any], name: str) -> dict[str, Any]:
  """Returns the entry of `routes` for one model of the earlier group `engine`.

  Args:
    engine: a saved group `engine`, in which a list has one value per model.
    name: 'small' or 'large'.
  """
  index = ('small', 'large').index(name)
  given = {
      key: value[index] if isinstance(value, list) else value
      for key, value in engine.items()
  }
  # Some of these are not in every configuration of before.
  taken = 'kind', 'pair', 'specs', 'user', 'system', 'model', 'environment'
  settings = {k: v for k, v in given.items() if k not in taken}
  if 'runs_on' in settings:
    settings['speculates'] = settings.pop('runs_on')
  kind, pair = given.get('kind', 'embedded'), engine['pair']
  weights = given['pair'] if isinstance(pair, list) else f'{pair}/{name}'
  if weights == 'shipped':
    weights = f'shipped/{name}'
  route = dict(name=name, engine=kind)
  if given.get('user'):
    route['prompt'] = {key: given[key] for key in ('system', 'user')}
  if kind != 'openai':
    return route | dict(model=weights, settings=settings)
  key = settings.pop('api_key_variable', '')
  return route | dict(
      model=given['model'],
      weights=weights,
      api_key_variable=key,
      spec=dict(engine.get('specs', {}).get(name, {})),
      settings=settings,
  )


def first_old_name(content: Mapping[str, Any]) -> str | None:
  """Returns the first field under an old name, dotted; None if there is none.

  Args:
    content: a configuration as nested mappings.
  """
  for before in RENAMED:
    *group, old = before.split('.')
    fields = content.get(group[0], {}) if group else content
    if isinstance(fields, Mapping) and old in fields:
      return before
  return None
