"""Writes the table of one recipe as a page of the documentation."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import os
import pathlib
import platform
import subprocess
import time
from typing import Any

from experiments.studies.optimum import differences as differences_lib
from experiments.studies.optimum import recipe as recipe_lib

_PAGE = """# {title}

{text}

Made by `{command}`; its help
explains the columns. Commit {commit}, {date}, {num_seeds} seeds, {machine},
{seconds} seconds in all. The smallest share of the optimal gain is
{worst_share_of_optimal_gain:.4f}. The largest excess of a cost over its budget,
relative to the budget, is {worst_excess:+.4f} for one seed and
{worst_mean_excess:+.4f} for the mean over seeds.

{rows}
"""
_COLUMNS = ('share', 'spread', 'worst', 'least', 'mean', 'excess', 'plan')
_WORDS = ('estimator', 'source', 'process', 'protocol')


def rows_table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns the rows as a table in Markdown."""
  head = [*_WORDS, 'budget', *_COLUMNS]
  lines = [head, ['---'] * len(head)]
  lines += [
      [
          *(row[name] for name in _WORDS),
          f'{row["budget"]:g}',
          *(f'{100 * row[name]:.1f} %' for name in _COLUMNS),
      ]
      for row in rows
  ]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def made(recipe: recipe_lib.Recipe) -> dict[str, str]:
  """Returns how the study is run: command, machine and commit."""
  commit = subprocess.run(
      ['git', 'rev-parse', '--short', 'HEAD'],
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      text=True,
      check=False,
  ).stdout.strip()
  return {
      'command': (
          f'python -m experiments.studies.optimum --recipe={recipe.name}'
      ),
      'machine': f'{os.cpu_count()} cores, {platform.machine()}',
      'commit': commit or 'unknown',
  }


def page(recipe: recipe_lib.Recipe, result: dict[str, Any]) -> str:
  """Returns the page in Markdown: the table, and how it was made."""
  sizes = {x.name: result[x.name] for x in dataclasses.fields(recipe_lib.Size)}
  differences = differences_lib.table(recipe_lib.Size(**sizes))
  return _PAGE.format(
      **result,
      **made(recipe),
      title=recipe.title,
      text=recipe.text.format(**result, differences=differences),
      date=time.strftime('%Y-%m-%d'),
      rows=rows_table(result['table']),
  )
