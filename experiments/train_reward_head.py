"""Trains the embedded pair's reward model.

Run:  python -m experiments.train_reward_head --config=configs/arithmetic_reward.py --workdir=runs/reward
Plan: the same with --dry_run

If it is killed, the same command continues. The model is in `reward/` then, and
`reward_card.json` holds its figures on the test split, which nothing before has
looked at.
"""  # noqa: E501  Commands stay on one line.

import contextlib
import dataclasses
import json
import pathlib

from absl import logging
import jax
import ml_collections
import numpy as np

from experiments import command_line
from experiments import plan_table
from experiments import workdirs
from routing import progress
from routing.engines import model_files
from routing.lm import decoder
from routing.lm import export
from routing.lm import pretrain
from routing.lm import reward_head
from routing.lm import reward_training
from routing.shards import manifest as manifest_lib
from routing.tasks import arithmetic
from routing.tasks import counters
from routing.training import metrics

EXAMPLES_FILE = 'examples.npz'
CARD_FILE = 'reward_card.json'
FOLDER = 'reward'
# Seconds for each answer that is written, or trained on: the full configuration
# works on 20,200 answers in about 10 minutes.
_PER_ANSWER = 600 / 20_200


def _language_model(config: ml_collections.ConfigDict, name: str):
  """Returns shape and parameters of a model of the pair."""
  if name not in export.MODELS:
    raise ValueError(
        f'Unknown model {name!r}; allowed: {", ".join(export.MODELS)}.'
    )
  if config.pair:
    return export.load_pretrained(pathlib.Path(config.pair) / name)
  return export.load_pretrained(export.shipped(name))


def _exercises(
    config: ml_collections.ConfigDict, split: str
) -> list[counters.Exercise]:
  """Returns the exercises of a split."""
  sizes = config.problems.to_dict()
  problems = arithmetic.load(sizes.pop('seed'), **sizes)[split]
  return [counters.to_exercise(problem) for problem in problems]


def _examples(
    config: ml_collections.ConfigDict, directory: pathlib.Path
) -> reward_training.Examples:
  """Returns the training examples, from their file where they are made."""
  path = directory / EXAMPLES_FILE
  if not path.exists():
    tasks = _exercises(config, 'train')
    parts = []
    for index, (name, temperature, count) in enumerate(config.answers):
      shape, params = _language_model(config, name)
      answers = reward_training.sample_answers(
          params,
          shape,
          tasks[:count],
          temperature=temperature,
          # Every run and every kind of answer has samples of its own.
          seed=len(config.answers) * config.seed + index,
      )
      parts.append(reward_training.label(tasks[:count], answers))
      logging.info('%d answers of %s are labelled', len(parts[-1]), name)
    arrays = {
        field.name: np.concatenate([getattr(x, field.name) for x in parts])
        for field in dataclasses.fields(reward_training.Examples)
    }

    def write(partial: pathlib.Path) -> None:
      # Open, since NumPy would add .npz to the name of the partial file.
      with partial.open('wb') as file:
        np.savez_compressed(file, **arrays)

    manifest_lib.replace_file(path, write)
  with np.load(path) as arrays:
    return reward_training.Examples(**arrays)


def _train(
    config: ml_collections.ConfigDict, directory: pathlib.Path
) -> tuple[decoder.DecoderConfig, dict]:
  """Trains the model, or goes on where it was stopped."""
  examples = _examples(config, directory)
  trunk, weights = _language_model(config, 'large')
  shape, params = reward_head.init_params(
      trunk, weights, jax.random.key(config.seed)
  )
  checkpoints = directory / 'checkpoints'
  start = pretrain.latest_step(checkpoints)
  with (
      progress.Progress(
          config.num_steps, 'train reward model', done=start
      ) as bar,
      contextlib.closing(
          # Rows after `start` are of steps that are repeated; they are dropped.
          metrics.MetricWriter(directory / 'reward_metrics.jsonl', start)
      ) as write,
  ):

    def report(step, scalars):
      write(step, scalars)
      logging.info('step %d: %s', step, scalars)

    params = reward_training.train(
        config,
        shape,
        params,
        examples,
        checkpoints,
        write=report,
        on_step=lambda step: bar.update(),
    )
  return shape, params


def examine(
    config: ml_collections.ConfigDict, folder: pathlib.Path, split: str
) -> dict[str, dict[str, float]]:
  """Returns the figures of a trained model on the greedy answers to a split.

  Args:
    config: of the training.
    folder: the reward model.
    split: whose problems are answered.

  Returns:
    For the answers of each model of the pair, see `reward_training.summary`.
  """
  shape, params = reward_head.load(folder)
  tasks = _exercises(config, split)
  found = {}
  for name in export.MODELS:
    model, weights = _language_model(config, name)
    answers = reward_training.sample_answers(
        weights, model, tasks, temperature=0.0, seed=0
    )
    examples = reward_training.label(tasks, answers)
    right = reward_training.probabilities(params, shape, examples)
    found[name] = reward_training.summary(
        right[examples.mask], examples.is_right[examples.mask]
    )
  return found


def main(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Trains the reward model and writes its card."""
  directory = workdirs.claim(workdir, config)
  folder = directory / FOLDER
  if not reward_head.is_reward_model(folder):
    reward_head.save(folder, *_train(config, directory))
  card = {
      'command': command_line.typed('experiments.train_reward_head'),
      'seed': config.seed,
      'parameters': model_files.shape(folder)[0],
      'bytes': (folder / 'model.safetensors').stat().st_size,
      'steps': config.num_steps,
      'answers': len(_examples(config, directory)),
      'test_problems': config.problems.test,
      # By the model of the pair whose greedy answers are scored.
      'test': examine(config, folder, 'test'),
  }
  text = json.dumps(card, indent=2) + '\n'
  manifest_lib.replace_file(
      directory / CARD_FILE, lambda path: path.write_text(text)
  )
  for name in export.MODELS:
    print(f'Steps of {name}: {card["test"][name]}')
  print(f'Reward model: {folder}. Card: {directory / CARD_FILE}')


def show_plan(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Prints what would be trained, its size, and a rough time."""
  directory = pathlib.Path(workdir)
  labelled = sum(count for _, _, count in config.answers)
  learnt = config.num_steps * config.batch_size
  examined = len(export.MODELS) * config.problems.test
  # (what, its size, answers that are worked on, what is there once it is done).
  parts = (
      (
          'answers of the pair, each step labelled',
          f'{labelled:,} answers to at most {config.problems.train:,} problems',
          labelled,
          (directory / EXAMPLES_FILE).exists(),
      ),
      (
          'a reward model that begins as the large model',
          f'{config.num_steps:,} steps of {config.batch_size:,} answers',
          learnt,
          reward_head.is_reward_model(directory / FOLDER),
      ),
      (
          'its figures on greedy answers',
          f'{config.problems.test:,} problems of test, answered by each of '
          f'{len(export.MODELS)} models',
          examined,
          (directory / CARD_FILE).exists(),
      ),
  )
  rows = [
      plan_table.Row(
          'train_reward_head', what, size, 0 if done else count * _PER_ANSWER
      )
      for what, size, count, done in parts
  ]
  plan_table.show(rows, [plan_table.BASIS])


if __name__ == '__main__':
  command_line.run(main, 'config', 'workdir', plan=show_plan)
