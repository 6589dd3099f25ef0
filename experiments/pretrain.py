"""Trains the embedded pair from nothing; see configs/arithmetic_pair.py.

The models are trained side by side, a process and a core each. Killed, the same
command goes on where it was. When both are done, `card.json` says how good they
are on the test split, which nothing before has looked at.
"""

from collections.abc import Sequence
import contextlib
import json
import os
import pathlib
import subprocess
import sys

from absl import app
from absl import flags
from absl import logging
import ml_collections
from ml_collections import config_flags

from experiments import workdirs
from routing import progress
from routing.lm import corpus
from routing.lm import decoder
from routing.lm import examination
from routing.lm import export
from routing.lm import pretrain
from routing.lm import tokenizer
from routing.problems import arithmetic
from routing.problems import splits
from routing.training import metrics

MODELS = ('small', 'large')


def _excluded(config: ml_collections.ConfigDict) -> set[str]:
  """Hashes of the questions that routers are trained and judged on."""
  sizes = config.problems.to_dict()
  loaded = arithmetic.load(sizes.pop('seed'), **sizes)
  return {
      splits.question_hash(problem.question)
      for problems in loaded.values()
      for problem in problems
  }


def train_model(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, name: str
) -> None:
  """Trains one model and exports it to `<workdir>/<name>`."""
  model = config[name]
  seed = 2 * config.seed + MODELS.index(name)
  excluded = _excluded(config)
  tasks = corpus.held_out(
      f'held out/{config.seed}', config.num_held_out, excluded
  )
  excluded |= {
      splits.question_hash(arithmetic.question_text(task)) for task in tasks
  }
  shape = pretrain.decoder_config(model.shape, len(tokenizer.VOCABULARY))
  data = corpus.Corpus(
      f'corpus/{seed}', excluded=excluded, **model.corpus.to_dict()
  )
  checkpoints = workdir / 'checkpoints' / name
  start = pretrain.latest_step(checkpoints)
  with (
      progress.Progress(model.max_steps, f'train {name}', done=start) as bar,
      contextlib.closing(
          metrics.MetricWriter(_curve_path(workdir, name), start)
      ) as write,
  ):

    def report(step, scalars):
      write(step, scalars)
      logging.info('%s step %d: %s', name, step, scalars)

    state = pretrain.train(
        model,
        shape,
        data,
        tasks,
        checkpoints,
        seed=seed,
        write=report,
        on_step=lambda step: bar.update(),
    )
  export.save_pretrained(workdir / name, shape, state.average)


def _curve_path(workdir: pathlib.Path, name: str) -> pathlib.Path:
  """Where the learning curve of a model is."""
  return workdir / f'{name}_metrics.jsonl'


def _curve(workdir: pathlib.Path, name: str) -> list[dict]:
  """The learning curve, thinned to about twenty points and the last."""
  rows = metrics.read_rows(_curve_path(workdir, name))
  stride = max(len(rows) // 20, 1)
  thinned = rows[::-1][::stride][::-1]
  return [{k: round(v, 4) for k, v in row.items()} for row in thinned]


def write_card(
    config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> dict:
  """Examines both models on the test split and writes card.json."""
  sizes = config.problems.to_dict()
  test = arithmetic.load(sizes.pop('seed'), **sizes)['test']
  tasks = [arithmetic.to_task(problem) for problem in test]
  card = {
      'command': _command(),
      'seed': config.seed,
      'test_problems': len(tasks),
  }
  for name in MODELS:
    shape, params = export.load_pretrained(workdir / name)
    curve = _curve(workdir, name)
    card[name] = {
        'parameters': decoder.num_parameters(params),
        'steps': curve[-1]['step'],
        'tokens_at_most': (
            curve[-1]['step'] * config[name].corpus.tokens_per_step
        ),
        'seconds': round(curve[-1]['seconds']),
        'test': examination.summary(examination.examine(params, shape, tasks)),
        'curve': curve,
    }
  card['parameter_ratio'] = round(
      card['large']['parameters'] / card['small']['parameters'], 2
  )
  partial = workdir / '.card.json.partial'
  partial.write_text(json.dumps(card, indent=2) + '\n')
  partial.replace(workdir / 'card.json')
  return card


def _command() -> str:
  """The command as typed, but for the directory."""
  words = [w for w in sys.argv[1:] if not w.startswith('--workdir')]
  return ' '.join(['python -m experiments.pretrain', *words])


def train_pair(workdir: pathlib.Path) -> None:
  """Runs this command once for each model that is not there yet."""
  cores = sorted(os.sched_getaffinity(0))
  running = []
  for i, name in enumerate(MODELS):
    if (workdir / name / 'config.json').exists():
      continue
    command = [sys.executable, '-m', 'experiments.pretrain', *sys.argv[1:]]
    command += [f'--model={name}', f'--core={cores[i % len(cores)]}']
    running.append((name, subprocess.Popen(command)))
  failed = [name for name, process in running if process.wait()]
  if failed:
    raise SystemExit(f'Training failed: {", ".join(failed)}; see above.')


def define_flags() -> None:
  """Defines the flags; only when run."""
  config_flags.DEFINE_config_file('config', lock_config=True)
  flags.DEFINE_string('workdir', None, 'Directory of the pair.')
  flags.DEFINE_enum('model', None, MODELS, 'Train this one only.')
  flags.DEFINE_integer('core', None, 'Processor to keep to.')
  flags.mark_flags_as_required(['config', 'workdir'])


def main(argv: Sequence[str]) -> None:
  """Trains the pair, or with --model one of it."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  logging.set_verbosity(logging.INFO)
  values = flags.FLAGS
  try:
    workdir = workdirs.claim(values.workdir, values.config)
  except ValueError as error:
    sys.exit(f'pretrain: {error}')
  if values.core is not None:
    os.sched_setaffinity(0, {values.core})
  if values.model:
    train_model(values.config, workdir, values.model)
    return
  train_pair(workdir)
  card = write_card(values.config, workdir)
  for name in MODELS:
    print(f'{name}: {card[name]["test"]}')
  print(f'Parameters {card["parameter_ratio"]} to 1. Card: {workdir}/card.json')


if __name__ == '__main__':
  define_flags()
  app.run(main)
