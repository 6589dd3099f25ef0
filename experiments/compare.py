"""Compares any set of routers: same problems, models and cost accounting.

Run:    python -m experiments.compare --config=configs/compare_arithmetic.py --workdir=runs/arithmetic
Resume: the same command, also after Ctrl-C
Writes: in compare/: comparison.json, comparison.md, comparison.png

Collects and trains what is missing. Finished routers, live answers and the
replies of models are kept, so a further router costs its own run only. The
directory may be that of a pipeline with the same settings.
"""  # noqa: E501  Commands stay on one line.

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import json
import pathlib
import re
import signal
import threading
import time
from typing import Any

from absl import logging
import ml_collections
import numpy as np

from experiments import collect
from experiments import command_line
from experiments import compared_problems
from experiments import compared_runs
from experiments import dry_run
from experiments import plan_table
from experiments import settings
from experiments import stage_plans
from experiments import unattended_collection
from routing.engines import engine as engine_lib
from routing.evaluation import arena as arena_lib
from routing.evaluation import code_hash
from routing.evaluation import comparison
from routing.evaluation import comparison_plot
from routing.evaluation import entries as entries_lib
from routing.evaluation import harness
from routing.evaluation import results as results_lib
from routing.evaluation import style
from routing.outcomes import refusal
from routing.routers import registry
from routing.routers import router as router_lib
from routing.shards import lock as lock_lib
from routing.shards import manifest as manifest_lib
from routing.training import memory

FOLDER = 'compare'
# What is collected: kind and split.
_RECORDS = tuple(('ladders', split) for split in compared_problems.SPLITS)
_ARRAYS = ('correct', 'loss', 'gain', 'cut')
_DIGITS = 16  # Of a key's hash, in the names of entries.


def chosen(config: ml_collections.ConfigDict) -> dict[str, router_lib.Method]:
  """Returns the routers to compare, by name; none given = all.

  Those of `compare.trained` come last.

  Raises:
    ValueError: if a name is unknown or occurs twice, the reference is missing,
      or what is collected are no ladders.
  """
  if config.data.kind != 'ladders':
    raise ValueError(
        f"data.kind is {config.data.kind!r}; a comparison needs 'ladders', "
        'from which all routers learn.'
    )
  asked = list(config.compare.routers) or registry.names()
  found = {}
  for name in asked:
    method = registry.load(name)
    if method.name in found:
      raise ValueError(
          f'compare.routers names two routers called {method.name!r}; allowed: '
          'one of each name.'
      )
    found[method.name] = method
  found |= compared_runs.methods(config)
  if _reference(config) not in found:
    raise ValueError(
        f'compare.reference is {_reference(config)!r}, which the others are '
        f'compared with; allowed: one of {", ".join(found)}.'
    )
  return found


def _reference(config: ml_collections.ConfigDict) -> str:
  """Returns the router that all others are compared with."""
  # Configurations from before have no such field.
  return config.compare.get('reference', style.REFERENCE)


def _stem(name: str) -> str:
  """Returns a router's name as part of a file name."""
  return re.sub(r'\W+', '-', name)


def _key(
    problems: compared_problems.Problems, method: router_lib.Method
) -> dict[str, Any]:
  """Returns the settings, data and code that a method's results depend on."""
  key = {
      'schema': comparison.SCHEMA,
      'router': method.name,
      'code': code_hash.of_method(method),
      **problems.key(method),
  }
  return json.loads(json.dumps(key))


def evaluate_seeds(
    name: str,
    method: router_lib.Method,
    arena: arena_lib.Arena,
    seeds: Sequence[int],
    num_trials: int,
) -> list[entries_lib.Entry]:
  """Tunes a method on `select` and evaluates it with every seed.

  Returns:
    One entry per seed; a single one if the seed changes nothing.
  """
  tuned = harness.tune(method, arena, num_trials, seeds[0])
  found, first = [], None
  for seed in seeds:
    families = tuned.families
    if seed != seeds[0]:
      families = harness.fit(method, arena, tuned.setting, seed)
    prints = [x.fingerprint for x in families]
    if prints == first and method.needs.samples == 1:
      break
    first = first or prints
    found.append(
        harness.enter(method, arena, families, tuned.setting, tuned.areas, seed)
    )
    logging.info('%s, seed %d: %d knobs', name, seed, len(found[-1].knobs))
  return found


def save(
    path: pathlib.Path, key: Any, found: Sequence[entries_lib.Entry]
) -> None:
  """Writes the entries of one method, with the key for which they hold."""
  arrays, facts = {}, []
  for i, entry in enumerate(found):
    for split in ('select', 'test'):
      outcomes = getattr(entry, split)
      for field in _ARRAYS:
        arrays[f'{i}/{split}/{field}'] = getattr(outcomes, field)
      for metric, values in outcomes.cost.items():
        arrays[f'{i}/{split}/cost/{metric}'] = values
    facts.append(
        {
            'seed': entry.seed,
            'setting': entry.setting,
            'areas': entry.areas,
            'knobs': [[family, repr(knob)] for family, knob in entry.knobs],
            'decisions_per_second': repr(entry.decisions_per_second),
        }
    )
  arrays['facts'] = np.array(json.dumps({'key': key, 'entries': facts}))

  def write(partial: pathlib.Path) -> None:
    with partial.open('wb') as file:
      np.savez_compressed(file, **arrays)

  manifest_lib.replace_file(path, write)


def load(path: pathlib.Path, key: Any) -> list[entries_lib.Entry] | None:
  """Returns the entries in a file, or None if it has no or another key."""
  if not path.exists():
    return None
  with np.load(path) as arrays:
    facts = json.loads(str(arrays['facts']))
    if facts['key'] != key:
      return None
    return [
        entries_lib.Entry(
            seed=entry['seed'],
            setting=entry['setting'],
            areas=entry['areas'],
            knobs=[(family, float(x)) for family, x in entry['knobs']],
            select=_outcomes(arrays, f'{i}/select/'),
            test=_outcomes(arrays, f'{i}/test/'),
            decisions_per_second=float(entry['decisions_per_second']),
        )
        for i, entry in enumerate(facts['entries'])
    ]


def _outcomes(arrays: Mapping[str, Any], prefix: str) -> entries_lib.Outcomes:
  """Returns the outcomes whose arrays have names with this prefix."""
  return entries_lib.Outcomes(
      **{field: arrays[prefix + field] for field in _ARRAYS},
      cost={name: arrays[f'{prefix}cost/{name}'] for name in entries_lib.ALL},
  )


def _evaluate_all(
    config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> tuple[
    dict[str, list[entries_lib.Entry]],
    dict[str, router_lib.Method],
    arena_lib.Arena,
    dict[str, str],
]:
  """Evaluates every chosen router that is not evaluated yet.

  Returns:
    Name -> entries; name -> method; the arena; name -> the reason why a router
    is left out.
  """
  methods = chosen(config)
  base = compared_problems.base(config)
  for kind, split in _RECORDS:
    collect.collect_split(base, workdir, split, kind)
  memory.keep_freed()
  problems = compared_problems.Problems(config, workdir)
  arena = problems.arena()
  # Checked before the other routers, which may take hours.
  compared_runs.check(config, arena, problems.weights_sha256)
  if style.REFERENCE in methods:
    methods[style.REFERENCE] = problems.policy()
  folder = workdir / FOLDER / 'entries'
  folder.mkdir(parents=True, exist_ok=True)
  entries, left_out = {}, {}
  for name, method in methods.items():
    key = _key(problems, method)
    digest = manifest_lib.hash_json(key)[:_DIGITS]
    path = folder / f'{_stem(name)}-{digest}.npz'
    found = load(path, key)
    if found is None:
      start = time.monotonic()
      try:
        found = evaluate_seeds(
            name,
            method,
            arena,
            list(config.train_seeds),
            config.compare.num_trials,
        )
      except refusal.Refusal as error:
        left_out[name] = error.reason
        logging.warning('Left out: %s: %s', name, error.reason)
        continue
      save(path, key, found)
      logging.info('%s took %.0f s', name, time.monotonic() - start)
    entries[name] = found
  methods = {name: methods[name] for name in entries}
  return entries, methods, arena, left_out


def compare(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> list[pathlib.Path]:
  """Compares the routers of a configuration; returns the files written.

  Raises:
    ValueError: if a setting is not allowed, a router is unknown, the directory
      has records of other settings, or another process compares routers in it.
    engine_lib.Stop: if a signal or a failure of a back end ends it. The message
      says how to continue.
  """
  # Before anything is made: a rejected configuration leaves no directory.
  settings.check(config)
  chosen(config)
  workdir = pathlib.Path(workdir).absolute()
  (workdir / FOLDER).mkdir(parents=True, exist_ok=True)
  # Two processes would append to the same files of replies, and one that opens
  # them removes what looks like the unfinished record of a crash.
  lock = lock_lib.Lock(workdir / FOLDER)
  try:
    with _stopped_in_words():
      return _compare(config, workdir)
  finally:
    lock.release()


@contextlib.contextmanager
def _stopped_in_words() -> Iterator[None]:
  """Ends what SIGINT or SIGTERM stops with a line on what is kept.

  Raises:
    engine_lib.Stop: at either signal. Engines are closed first, which writes
      the last replies to their file.
  """
  if threading.current_thread() is not threading.main_thread():
    yield  # Python delivers signals to the main thread only.
    return

  def stop(number: int, frame: Any) -> None:
    del frame
    # As Python itself does at SIGINT, so that both unwind in the same way.
    raise KeyboardInterrupt(signal.Signals(number).name)

  before = signal.signal(signal.SIGTERM, stop)
  try:
    yield
  except KeyboardInterrupt as error:
    name = str(error) or 'SIGINT'  # What Python itself raises has no text.
    raise engine_lib.Stop(
        f'Got {name}. Replies, live answers and finished routers are kept. '
        f'{unattended_collection.RESUME}'
    ) from None
  finally:
    signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _compare(
    config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> list[pathlib.Path]:
  """Compares routers in a directory that no other process writes to."""
  entries, methods, arena, left_out = _evaluate_all(config, workdir)
  content = comparison.figures(
      entries,
      methods,
      arena,
      resamples=config.evaluation.resamples,
      seed=config.seed,
      reference=_reference(config),
  )
  content = results_lib.to_json(content | {'left_out': left_out})
  folder = workdir / FOLDER
  writers = {
      'comparison.json': lambda x: x.write_text(
          json.dumps(content, allow_nan=False) + '\n'
      ),
      'comparison.md': lambda x: x.write_text(comparison.page(content)),
      'comparison.png': lambda x: comparison_plot.plot(content, x),
  }
  for name, write in writers.items():
    manifest_lib.replace_file(folder / name, write)
  logging.info('The table is in %s', folder / 'comparison.md')
  return [folder / name for name in writers]


def show_plan(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str
) -> None:
  """Prints which routers would be evaluated, and which are already."""
  methods = chosen(config)
  base = compared_problems.base(config)
  folder = pathlib.Path(workdir).absolute() / FOLDER / 'entries'
  rows = stage_plans.train_rows(base, workdir)
  for name, method in methods.items():
    choices = method.settings
    if name == style.REFERENCE:
      choices = config.compare.policy_settings
    tried = min(config.compare.num_trials, max(len(choices), 1))
    # Whether an entry still holds is known once the records are read. Only the
    # hash has a fixed length: names of routers may begin with one another.
    is_there = any(folder.glob(f'{_stem(name)}-{"[0-9a-f]" * _DIGITS}.npz'))
    rows.append(
        plan_table.Row(
            'compare',
            name + (', evaluated before' if is_there else ''),
            f'{tried} setting{"s" * (tried > 1)} on select, then '
            f'{len(config.train_seeds)} seeds',
            None,
        )
    )
  dry_run.show(base, workdir, records=_RECORDS)
  notes = [plan_table.BASIS, 'The log gives the time of each router.']
  asked = config.compare.num_live
  if asked.test:
    notes.append(
        'Not counted: what models are asked live, for routers whose outcomes '
        f'the records do not give, on at most {asked.train:,} problems of '
        f'train, {asked.select:,} of select, {asked.test:,} of test.'
    )
  plan_table.show(rows, notes)


if __name__ == '__main__':
  command_line.run(compare, 'config', 'workdir', plan=show_plan)
