"""Measures whether tests notice errors in calibration, objectives and costs.

Run: python -m benchmarks.mutation [--sample=400] [--module=NAME] [--again]
Makes one small error at a time in a module (see `benchmarks.mutants`), runs the
tests that reach the changed line, and counts the errors that no test notices.

Without flags, the errors are a seeded sample. Each module has a share by its
number of errors, but at least `--minimum`. `--module=bounds` tries all errors
of one module, `--again` those that survived the last run. `--unchanged` makes
no error and so checks the script itself. The report is also written to
`--workdir`.

Each error is tried in a fork of one process that has imported jax but computed
nothing. The lines that each test reaches are measured once per test file and
stored in `--workdir`. Tests marked slow are not run, nor are those of commands,
training and engines. `equivalent_mutants.json` lists errors that change no
result, with the reason. One process; about two seconds per error.
"""

import collections
from collections.abc import Sequence
import hashlib
import importlib
import json
import os
import pathlib
import re
import sys
from typing import Any

from absl import app
from absl import flags
from absl import logging
import numpy as np

from benchmarks import forked_tests
from benchmarks import mutants as mutants_lib
from routing import progress

_SAMPLE = flags.DEFINE_integer('sample', 400, 'Number of errors to try.')
_MINIMUM = flags.DEFINE_integer(
    'minimum', 8, 'Fewest errors to try in each module that has them.'
)
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the sample.')
_MODULE = flags.DEFINE_list(
    'module', [], 'Try all errors of these modules, e.g. bounds,vtrace.'
)
_AGAIN = flags.DEFINE_bool(
    'again', False, 'Try the errors that survived the last run.'
)
_UNCHANGED = flags.DEFINE_bool(
    'unchanged',
    False,
    'Make no error, once per module; all must survive.',
)
_BUDGET = flags.DEFINE_float(
    'budget', 20.0, 'Maximum seconds of tests per error.'
)
_WORKDIR = flags.DEFINE_string(
    'workdir', 'runs/mutation', 'Directory for results.'
)

ROOT = forked_tests.ROOT
_EQUIVALENT = ROOT / 'benchmarks/equivalent_mutants.json'
_TARGETS = ('routing/costs.py', 'routing/calibration', 'routing/objectives')
_TESTED = r'from routing\.(calibration|objectives) |from routing import costs'
# Tests of commands, training and engines take minutes each.
_FAR = r'from experiments|from routing\.(training|lm|engines|rollout)'
# Modules that tests import; importing them before the forks saves time.
_WARM = (
    'absl.testing.parameterized',
    'distrax',
    'flax',
    'hypothesis',
    'jax',
    'ml_collections',
    'optax',
    'pandas',
    'pyarrow.parquet',
    'pytest',
    'rlax',
    'scipy.optimize',
    'scipy.stats',
    'sklearn.linear_model',
)
_ENVIRONMENT = {
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PLATFORMS': 'cpu',
    'OMP_NUM_THREADS': '1',
}


def sources() -> dict[str, str]:
  """Returns the text of each module to make errors in, by path."""
  paths = []
  for target in _TARGETS:
    path = ROOT / target
    paths += [path] if path.is_file() else sorted(path.glob('*.py'))
  found = {str(x.relative_to(ROOT)): x.read_text('utf-8') for x in paths}
  return {name: text for name, text in found.items() if 'def ' in text}


def choose(
    all_mutants: dict[str, list[mutants_lib.Mutant]],
    size: int,
    minimum: int,
    seed: int,
) -> list[mutants_lib.Mutant]:
  """Returns a seeded sample of mutants, stratified by module.

  A mutant keeps its rank when other modules change.

  Args:
    all_mutants: by module.
    size: number of mutants in all, about.
    minimum: fewest mutants per module; fewer only if it has fewer.
    seed: of the ranks.
  """
  total, chosen = sum(map(len, all_mutants.values())), []
  for found in all_mutants.values():
    num = max(minimum, round(size * len(found) / total))
    chosen += sorted(found, key=lambda x: x.rank(seed))[:num]
  return chosen


def measure(modules: dict[str, str], workdir: pathlib.Path) -> dict[str, Any]:
  """Returns by test file its tests and the lines they reach.

  Results are stored in `workdir` and measured again only for test files that
  changed, or that reach a changed module.
  """
  file = workdir / 'reached.json'
  known = json.loads(file.read_text()) if file.exists() else {}
  texts = {
      str(path.relative_to(ROOT)): path.read_text('utf-8')
      for path in sorted((ROOT / 'tests').glob('*_test.py'))
  }
  own = {f'tests/{pathlib.Path(x).stem}_test.py' for x in modules}
  texts = {
      name: x
      for name, x in texts.items()
      if name in own or re.search(_TESTED, x) and not re.search(_FAR, x)
  }

  def digest(name):
    # Of the test file and of the modules that it reached last time.
    used = known.get(name, {}).get('lines', {})
    text = texts[name] + ''.join(modules.get(x, '') for x in sorted(used))
    return hashlib.sha256(text.encode()).hexdigest()

  stale = [x for x in texts if known.get(x, {}).get('digest') != digest(x)]
  with progress.Progress(len(stale), 'reach', unit='file', interval=10) as bar:
    for name in stale:
      out = workdir / 'one.json'

      def one(name=name, out=out):
        plugin = forked_tests.Reached(list(modules))
        plugin.start()
        status = forked_tests.run_tests([name], plugin)
        sys.settrace(None)
        out.write_text(json.dumps(plugin.to_json()))
        return status

      out.unlink(missing_ok=True)
      status = forked_tests.in_fork(one, 300, str(workdir / 'log.txt'))
      found = json.loads(out.read_text()) if out.exists() else {}
      if status not in (0, 5):  # 5: every test of the file is slow.
        logging.warning(
            'The tests of %s are not used: exit status %s', name, status
        )
        found = {}
      known[name] = {'tests': {}, 'lines': {}} | found
      known[name]['digest'] = digest(name)
      file.write_text(json.dumps(known))
      bar.update()
  return {name: known[name] for name in texts}


def tests_of(
    mutant: mutants_lib.Mutant, reached: dict[str, Any], budget: float
) -> list[tuple[list[str], float]]:
  """Returns lists of tests to run for a mutant, with their seconds.

  The first list is from the module's own test file, the second from others. The
  own file runs all its tests, since one may cache what another computes. Other
  files run the tests that reach the line; if none does, those that reach the
  module.
  """
  own = f'tests/{pathlib.Path(mutant.module).stem}_test.py'
  times, at_line, anywhere = {}, set(), set()
  for found in reached.values():
    times |= found['tests']
    lines = found['lines'].get(mutant.module, {})
    at_line |= set(lines.get(str(mutant.line), ()))
    anywhere |= {x for tests in lines.values() for x in tests}
  if not at_line:
    at_line = anywhere
  order = sorted(anywhere, key=lambda x: (x not in at_line, times[x]))
  stages = [
      [x for x in order if x.startswith(own + '::')],
      [x for x in order if not x.startswith(own + '::') and x in at_line],
  ]
  result = []
  for stage in stages:
    seconds = np.cumsum([times[x] for x in stage])
    stage = stage[: int(np.sum(seconds <= budget))]
    if stage:
      result.append((stage, float(seconds[len(stage) - 1])))
  return result


def try_one(
    mutant: mutants_lib.Mutant,
    source: str,
    reached: dict[str, Any],
    workdir: pathlib.Path,
) -> str:
  """Returns 'killed', 'survived' or 'timed out'."""
  for tests, seconds in tests_of(mutant, reached, _BUDGET.value):

    def one(tests=tests):
      sys.meta_path.insert(
          0, forked_tests.Loader(mutant.module, mutant.apply(source))
      )
      files = list(dict.fromkeys(x.partition('::')[0] for x in tests))
      return forked_tests.run_tests(files, forked_tests.Chosen(tests))

    status = forked_tests.in_fork(
        one, 20 + 5 * seconds, str(workdir / 'log.txt')
    )
    if status is None:
      return 'timed out'
    if status:
      return 'killed'
  return 'survived'


def report(rows: list[dict[str, Any]], exist: dict[str, int]) -> str:
  """Returns a table by module, followed by the change of each survivor."""
  head = ['exist', 'tried', 'killed', 'timed out', 'survived', 'equivalent']
  lines = [f'{"module":38}' + ''.join(f'{x:>11}' for x in head)]
  names = list(exist)
  for name in [*names, 'all']:
    mine = [x for x in rows if name in (x['module'], 'all')]
    count = collections.Counter(x['result'] for x in mine)
    number = exist[name] if name in exist else sum(exist.values())
    cells = [number, len(mine), *(count[x] for x in head[2:])]
    lines.append(f'{name:38}' + ''.join(f'{x:>11}' for x in cells))
  count = collections.Counter(x['result'] for x in rows)
  noticed = count['killed'] + count['timed out']
  share = noticed / max(1, noticed + count['survived'])
  lines.append(f'noticed: {share:.1%}')
  for x in rows:
    if x['result'] == 'survived':
      lines.append(f'\n{x["module"]}:{x["line"]} {x["function"]}')
      lines += [f'- {y}' for y in x['from']] + [f'+ {y}' for y in x['to']]
  return '\n'.join(lines)


def warm_up(workdir: pathlib.Path) -> None:
  """Imports what tests import; raises RuntimeError if JAX has computed."""
  os.environ.update(_ENVIRONMENT)
  os.environ['JAX_COMPILATION_CACHE_DIR'] = str(workdir / 'compiled')
  os.environ['HYPOTHESIS_STORAGE_DIRECTORY'] = str(workdir / 'hypothesis')
  for name in _WARM:
    importlib.import_module(name)
  from jax._src import xla_bridge

  if xla_bridge.backends_are_initialized():
    raise RuntimeError(
        'JAX is initialized, so this process cannot be forked. Import no '
        'module that computes before the forks.'
    )


def try_all(
    chosen: Sequence[mutants_lib.Mutant],
    modules: dict[str, str],
    workdir: pathlib.Path,
) -> list[dict[str, Any]]:
  """Returns the result of each mutant; skips those listed as equivalent."""
  listed = json.loads(_EQUIVALENT.read_text())
  equivalent = {identity(x) for x in listed}
  reached = measure(modules, workdir)
  rows = []
  with progress.Progress(len(chosen), 'try', unit='mutant', interval=20) as bar:
    for mutant in chosen:
      source = modules[mutant.module]
      row = describe(mutant, source)
      row['result'] = 'equivalent'
      if identity(row) not in equivalent:
        row['result'] = try_one(mutant, source, reached, workdir)
      rows.append(row)
      if row['result'] == 'survived':
        logging.info('survived: %s', row)
      bar.update()
  return rows


def describe(mutant: mutants_lib.Mutant, source: str) -> dict[str, Any]:
  """Returns the place and the change of a mutant as JSON values."""
  old, new = mutant.changed_lines(source)
  return {
      'module': mutant.module,
      'function': mutant.function,
      'line': mutant.line,
      'from': old,
      'to': new,
  }


def identity(row: dict[str, Any]) -> tuple[str, ...]:
  """Returns a key of a mutant that does not depend on line numbers."""
  return (row['module'], row['function'], *row['from'], '->', *row['to'])


def main(_) -> None:
  os.chdir(ROOT)
  logging.set_verbosity(logging.INFO)
  workdir = ROOT / _WORKDIR.value
  workdir.mkdir(parents=True, exist_ok=True)
  results = workdir / 'results.json'
  modules = sources()
  by_module = {name: mutants_lib.make(name, x) for name, x in modules.items()}
  every = [x for found in by_module.values() for x in found]
  if _AGAIN.value:
    last = json.loads(results.read_text())
    survived = {identity(x) for x in last if x['result'] == 'survived'}
    chosen = [
        x for x in every if identity(describe(x, modules[x.module])) in survived
    ]
  elif _UNCHANGED.value:
    unchanged = lambda name: mutants_lib.Mutant(name, '', 1, 'none', 0, 0, '')
    chosen = [unchanged(name) for name in modules]
  elif _MODULE.value:
    names = _MODULE.value
    chosen = [x for x in every if pathlib.Path(x.module).stem in names]
  else:
    chosen = choose(by_module, _SAMPLE.value, _MINIMUM.value, _SEED.value)
  warm_up(workdir)
  rows = try_all(chosen, modules, workdir)
  results.write_text(json.dumps(rows, indent=1))
  text = report(rows, {name: len(x) for name, x in by_module.items()})
  (workdir / 'report.txt').write_text(text + '\n')
  print(text)


if __name__ == '__main__':
  app.run(main)
