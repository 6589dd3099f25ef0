"""Measures how near training comes to what any policy can reach.

Run:    python -m experiments.studies.optimum [--recipe=product] [--quick] [--seeds=3] [--out=runs/optimum.json] [--page=docs/optimum.md]
Resume: the same command; rows of --out that the current code made are kept.
Prints: the table; last, one JSON object.

Policies are trained on simulated processes whose constrained optimum is known
(`routing.simulation`), with several seeds at several budgets. They are evaluated
exactly, not on samples. The share of the optimal gain is

  (accuracy - random) / (optimum - random)

at the cost that each policy really has. `random` is the accuracy of the best
policy that decides at random, without looking at anything. The table has:

  share, spread, worst  of the gain: mean, deviation and minimum over seeds
  least, mean, excess   smallest, mean and largest cost, relative to the budget
  plan                  share of the best plan made beforehand: it knows the
                        process but observes nothing

There are two recipes. `annealed` tests the estimators: the network observes the
exact belief over hidden states, every update has new problems, entropy is
annealed and weights are averaged. `product` tests what a user gets: the
configurations of `configs/` and the observations of a real router.
"""  # noqa: E501  Commands stay on one line.

from collections.abc import Sequence
import dataclasses
import json
import pathlib

from absl import app
from absl import flags
from absl import logging

from experiments.studies import results_page
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
  """Prints the table, then one line of JSON."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  # Log lines about checkpoints would bury the table.
  logging.set_verbosity(logging.WARNING)
  given = flags.FLAGS
  recipe = RECIPES[given.recipe]
  out = pathlib.Path(given.out) if given.out else None
  size = recipe.quick if given.quick else recipe.full
  if given.seeds:
    size = dataclasses.replace(size, num_seeds=given.seeds)
  result = rows_lib.measure(recipe, size, out)
  if given.page:
    page = pathlib.Path(given.page)
    text = page_lib.page(recipe, result)
    manifest_lib.replace_file(page, lambda path: path.write_text(text))
    results_page.write(
        f'optimum_{recipe.name}',
        page_lib.made(recipe),
        result,
        page.parent / 'results',
    )
  print(json.dumps(result))


if __name__ == '__main__':
  flags.DEFINE_enum('recipe', 'annealed', list(RECIPES), 'How to train.')
  flags.DEFINE_bool('quick', False, 'Fewer seeds, problems and updates.')
  flags.DEFINE_integer(
      'seeds', None, 'Runs of each row, 2 or more.', lower_bound=2
  )
  flags.DEFINE_string('out', None, 'JSON file of finished rows.')
  flags.DEFINE_string(
      'page', None, 'Markdown page to write; its figures go into results/.'
  )
  app.run(main)
