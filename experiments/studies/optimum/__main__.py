"""How near training comes to what any policy can do.

Run:    python -m experiments.studies.optimum [--recipe=product] [--quick] [--seeds=3] [--out=runs/optimum.json] [--page=docs/optimum.md]
Resume: the same command; rows of --out that this very code made are kept.
Prints: the table; last, one JSON object.

On made-up processes whose constrained optimum is known (`routing.simulation`),
policies are trained with several seeds at several budgets. They are not sampled
but evaluated exactly. The share of the optimal gain is

  (accuracy - random) / (optimum - random)

at the cost that each really has, `random` being the best of chance. The table:

  share, spread, worst  of the gain: mean, deviation and least over seeds
  least, mean, excess   smallest, mean and largest cost, relative to the budget
  plan                  share of the best plan made beforehand, which knows the
                        process but looks at nothing

Two recipes. `annealed` asks whether the estimators are right: the network is
shown the exact belief over hidden states, problems are made up anew for each
update, entropy is annealed and weights are averaged. `product` asks what a user
gets: the configurations of `configs/`, and the observations that a router
really has.
"""  # noqa: E501  Commands stay on one line.

from collections.abc import Sequence
import dataclasses
import json
import pathlib

from absl import app
from absl import flags
from absl import logging

from experiments.studies.optimum import annealed_recipe
from experiments.studies.optimum import page as page_lib
from experiments.studies.optimum import product_recipe
from experiments.studies.optimum import rows as rows_lib
from routing.shards import manifest as manifest_lib

RECIPES = {
    'annealed': annealed_recipe.RECIPE,
    'product': product_recipe.RECIPE,
}


def main(argv: Sequence[str]) -> None:
  """Prints the table, then the JSON line."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  logging.set_verbosity(logging.WARNING)  # Or checkpoints bury the table.
  given = flags.FLAGS
  recipe = RECIPES[given.recipe]
  out = pathlib.Path(given.out) if given.out else None
  size = recipe.quick if given.quick else recipe.full
  if given.seeds:
    size = dataclasses.replace(size, num_seeds=given.seeds)
  result = rows_lib.measure(recipe, size, out)
  if given.page:
    text = page_lib.page(recipe, result)
    manifest_lib.replace_file(
        pathlib.Path(given.page), lambda path: path.write_text(text)
    )
  print(json.dumps(result))


if __name__ == '__main__':
  flags.DEFINE_enum('recipe', 'annealed', list(RECIPES), 'How is trained.')
  flags.DEFINE_bool('quick', False, 'Fewer seeds, problems and updates.')
  flags.DEFINE_integer(
      'seeds', None, 'Runs of each row, 2 or more.', lower_bound=2
  )
  flags.DEFINE_string('out', None, 'File of finished rows.')
  flags.DEFINE_string('page', None, 'File of the table in Markdown.')
  app.run(main)
