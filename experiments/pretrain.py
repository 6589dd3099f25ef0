"""Trains the embedded pair from scratch.

Run:  python -m experiments.pretrain --config=configs/arithmetic_pair.py --workdir=runs/pair
Plan: the same with --dry_run

The two models are trained side by side, each in a process and on a core of its
own. If it is killed, the same command continues. When both models are done,
`card.json` holds their accuracy on the test split, which nothing before has
looked at.
"""  # noqa: E501  Commands stay on one line.

from collections.abc import Collection
from collections.abc import Sequence
import contextlib
import functools
import json
import os
import pathlib
import subprocess
import sys

from absl import flags
from absl import logging
import jax
import ml_collections

from experiments import command_line
from experiments import plan_table
from experiments import workdirs
from routing import progress
from routing.lm import corpus
from routing.lm import decoder
from routing.lm import examination
from routing.lm import export
from routing.lm import pretrain
from routing.lm import tokenizer
from routing.shards import manifest as manifest_lib
from routing.tasks import arithmetic
from routing.tasks import counters
from routing.tasks import splits
from routing.training import metrics

_MAX_ATTEMPTS = 4
# Seconds for a token of a gradient step, on one core of an AMD EPYC; from the
# times of the two shipped models.
_PER_TOKEN = 2.4e-4
_PER_WEIGHT = 1.25e-10  # In addition, for each weight.
# Attempts of any two seeds below half of it have different random draws.
_SEED_STRIDE = 1_000


def _excluded(config: ml_collections.ConfigDict) -> set[str]:
  """Returns the hashes of all questions that routers are trained and tested on.

  The pair must not be trained on them.
  """
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
  """Trains one model and exports it to `<workdir>/<name>`.

  An attempt whose loss stays too high is marked as stuck and given up. The next
  attempt starts from other weights and other text.

  Args:
    config: of the pair.
    workdir: of the pair.
    name: one of `export.MODELS`.

  Raises:
    ValueError: if all attempts got stuck.
  """
  excluded = _excluded(config)
  tasks = corpus.held_out(
      f'held out/{config.seed}', config.num_held_out, excluded
  )
  # The held-out tasks decide when to stop, so they are not trained on either.
  excluded |= {
      splits.question_hash(counters.question_text(task)) for task in tasks
  }
  shape = pretrain.decoder_config(config[name].shape, len(tokenizer.VOCABULARY))
  # A resumed command starts at the first attempt that is not marked as stuck.
  for attempt in range(_num_stuck(workdir, name), _MAX_ATTEMPTS):
    try:
      state = _train(config, workdir, name, attempt, shape, tasks, excluded)
    except pretrain.StuckError as error:
      logging.warning('%s, attempt %d: %s', name, attempt, error)
      _stuck_path(workdir, name, attempt).write_text(f'{error}\n')
    else:
      # The moving average is the model; the raw weights are only for training.
      export.save_pretrained(workdir / name, shape, state.average)
      return
  raise ValueError(
      f'{name} got stuck in each of {_MAX_ATTEMPTS} attempts; see the *.stuck '
      f'files in {workdir}/checkpoints/{name}, and try another seed.'
  )


def _train(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    name: str,
    attempt: int,
    shape: decoder.DecoderConfig,
    tasks: Sequence[counters.Exercise],
    excluded: Collection[str],
) -> pretrain.PretrainState:
  """Runs one attempt, from its start or from its last checkpoint."""
  model = config[name]
  seed = 2 * config.seed + export.MODELS.index(name) + _SEED_STRIDE * attempt
  data = corpus.Corpus(
      f'corpus/{seed}', excluded=excluded, **model.corpus.to_dict()
  )
  checkpoints = workdir / 'checkpoints' / name / f'attempt{attempt}'
  start = pretrain.latest_step(checkpoints)
  with (
      progress.Progress(model.max_steps, f'train {name}', done=start) as bar,
      contextlib.closing(
          # Rows after `start` are of steps that are repeated; they are dropped.
          metrics.MetricWriter(_curve_path(workdir, name), start)
      ) as write,
  ):

    def report(step, scalars):
      write(step, scalars)
      logging.info('%s step %d: %s', name, step, scalars)

    return pretrain.train(
        model,
        shape,
        data,
        tasks,
        checkpoints,
        seed=seed,
        write=report,
        on_step=lambda step: bar.update(),
    )


def _stuck_path(workdir: pathlib.Path, name: str, attempt: int) -> pathlib.Path:
  """Returns the file that marks an attempt as given up, and says why."""
  return workdir / 'checkpoints' / name / f'attempt{attempt}.stuck'


def _num_stuck(workdir: pathlib.Path, name: str) -> int:
  """Returns how many attempts were given up."""
  attempts = range(_MAX_ATTEMPTS)
  return sum(_stuck_path(workdir, name, i).exists() for i in attempts)


def _curve_path(workdir: pathlib.Path, name: str) -> pathlib.Path:
  """Returns the file of the learning curve of a model."""
  return workdir / f'{name}_metrics.jsonl'


def _curve(workdir: pathlib.Path, name: str) -> list[dict]:
  """Returns about twenty points of the learning curve, the last included."""
  rows = metrics.read_rows(_curve_path(workdir, name))
  stride = max(len(rows) // 20, 1)
  # Thinned backwards, so that the last row is always kept.
  thinned = rows[::-1][::stride][::-1]
  return [{k: round(v, 4) for k, v in row.items()} for row in thinned]


def write_card(
    config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> dict:
  """Examines both models on the test split, writes and returns card.json."""
  # The first and only look at the test split.
  sizes = config.problems.to_dict()
  test = arithmetic.load(sizes.pop('seed'), **sizes)['test']
  tasks = [counters.to_exercise(problem) for problem in test]
  card = {
      'command': command_line.typed('experiments.pretrain'),
      'seed': config.seed,
      'test_problems': len(tasks),
  }
  for name in export.MODELS:
    shape, params = export.load_pretrained(workdir / name)
    curve = _curve(workdir, name)
    card[name] = {
        'parameters': decoder.num_parameters(params),
        'steps': curve[-1]['step'],
        # A batch holds whole rows, so up to one row less than this per step.
        'tokens_at_most': (
            curve[-1]['step'] * config[name].corpus.tokens_per_step
        ),
        'attempts': 1 + _num_stuck(workdir, name),
        'seconds': round(curve[-1]['seconds']),  # Of the last attempt.
        'test': examination.summary(examination.examine(params, shape, tasks)),
        'curve': curve,
    }
  card['parameter_ratio'] = round(
      card['large']['parameters'] / card['small']['parameters'], 2
  )
  text = json.dumps(card, indent=2) + '\n'
  manifest_lib.replace_file(
      workdir / 'card.json', lambda path: path.write_text(text)
  )
  return card


def train_pair(workdir: pathlib.Path) -> None:
  """Runs this command once for each model that is not trained yet, in parallel.

  Raises:
    SystemExit: if one of the processes failed.
  """
  cores = sorted(os.sched_getaffinity(0))
  running = []
  for i, name in enumerate(export.MODELS):
    if (workdir / name / 'config.json').exists():
      continue
    command = [sys.executable, '-m', 'experiments.pretrain', *sys.argv[1:]]
    # Each model on a core of its own: unpinned, XLA's threads of both models
    # compete for all cores.
    command += [f'--model={name}', f'--core={cores[i % len(cores)]}']
    running.append((name, subprocess.Popen(command)))
  failed = [name for name, process in running if process.wait()]
  if failed:
    raise SystemExit(
        f'Training failed: {", ".join(failed)}. The messages are above; the '
        'same command continues.'
    )


def main(
    config: ml_collections.ConfigDict,
    workdir: str,
    model: str | None,
    core: int | None,
) -> None:
  """Trains the pair and writes its card; or trains only `model`, on `core`."""
  directory = workdirs.claim(workdir, config)
  if core is not None:
    # Before jax is used: its thread pool is sized by the cores it may use.
    os.sched_setaffinity(0, {core})
  if model:
    train_model(config, directory, model)
    return
  train_pair(directory)
  card = write_card(config, directory)
  for name in export.MODELS:
    print(f'{name}: {card[name]["test"]}')
  print(
      f'Parameters {card["parameter_ratio"]} to 1. Card: {directory}/card.json'
  )


def show_plan(
    config: ml_collections.ConfigDict,
    workdir: str,
    model: str | None,
    core: int | None,
) -> None:
  """Prints what would be trained, its size, and a rough time."""
  del core
  rows = []
  for name in [model] if model else export.MODELS:
    shape = pretrain.decoder_config(
        config[name].shape, len(tokenizer.VOCABULARY)
    )
    params = jax.eval_shape(
        functools.partial(decoder.init_params, shape), jax.random.key(0)
    )
    weights = decoder.num_parameters(params)
    steps, tokens = (
        config[name].max_steps,
        config[name].corpus.tokens_per_step,
    )
    is_done = (pathlib.Path(workdir) / name / 'config.json').exists()
    seconds = steps * tokens * (_PER_TOKEN + weights * _PER_WEIGHT)
    rows.append(
        plan_table.Row(
            'pretrain',
            f'{name}: {weights:,} weights',
            f'at most {steps:,} steps of {tokens:,} tokens',
            0 if is_done else seconds,
        )
    )
  plan_table.show(
      rows,
      [
          'Side by side, each on a core. It ends earlier at target_accuracy, '
          f'and begins again, at most {_MAX_ATTEMPTS} times, if it is stuck.',
          plan_table.BASIS,
      ],
  )


if __name__ == '__main__':
  flags.DEFINE_enum('model', None, export.MODELS, 'Train this model only.')
  flags.DEFINE_integer('core', None, 'Processor core to run on.')
  command_line.run(main, 'config', 'workdir', 'model', 'core', plan=show_plan)
