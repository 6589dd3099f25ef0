"""Checks collected ladders by an independent reading of their files.

Run: python -m benchmarks.check_ladders --directory=DIR
DIR holds shards/, as the --workdir of a collection does. Every answer is graded
again from its text, and every cost is computed again from the tokens, by the
plain functions below, which share no code with the package. What they find is
compared with the grades in the files and with the outcome table that training
and evaluation use. Prints one line per split and each difference.

Only for tasks whose answers are numbers.
"""

import fractions
import json
import pathlib
import re
import sys

from absl import app
from absl import flags
import numpy as np
import pyarrow.parquet as pq

from routing import costs
from routing import protocols
from routing.features import observation
from routing.outcomes import records
from routing.shards import reader
from routing.shards import schema

# With a fraction bar, as in 1/8, the number is the quotient.
_NUMBER = r'-?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?'


def last_number(text: str) -> fractions.Fraction | None:
  """Returns the number that a text gives as its answer; None if it has none.

  It stands in the first non-empty \\boxed{}, else after the last ####, else it
  is the last number of the text. A box or a #### that the token limit cut has
  none.
  """
  boxed = re.findall(r'\\boxed\{([^{}]*)\}', text)
  if not boxed and re.search(r'\\boxed\{[^{}]*$|####\s*$', text):
    return None
  marked = re.findall(r'####([^\n]*)', text)
  for candidates in (boxed[-1:], marked[:1], [text]):
    for candidate in candidates:
      found = re.findall(_NUMBER, candidate)
      if found:
        above, _, below = re.sub(r'[$,]', '', found[-1]).partition('/')
        if below and not int(below):
          return None
        return fractions.Fraction(above) / int(below or 1)
  return None


def is_right(text: str, reference: str) -> bool:
  """Returns whether a text's number is the reference."""
  found = last_number(text)
  return found is not None and found == last_number(reference)


def price(model: dict[str, float], call: dict[str, float]) -> float:
  """Returns the dollars of a call."""
  return (
      call['read'] * model['price_input']
      + call['cached'] * model['price_cached']
      + call['written'] * model['price_output']
  ) / 1e6


def flops(model: dict[str, float], call: dict[str, float]) -> float:
  """Returns the floating-point operations of a call, token by token."""
  first = call['cached'] + (call.get('held') or 0)
  number = call['read'] + call['written']
  attention = sum(range(first, first + number))
  return 2 * model['parameters'] * number + (
      2 * model['num_layers'] * model['attention_width'] * attention
  )


COSTS = {
    'price': price,
    'flops': flops,
    'decoded_tokens': lambda model, call: model['parameters'] * call['written'],
    'latency': lambda model, call: call['seconds'],
}


def endings(row: dict, models: list[dict], metric: str) -> list[float]:
  """Returns the costs of a hand-over at each step, and of none.

  They are fractions of what the largest model alone costs. A hand-over pays for
  the small model's steps so far, its discarded draft included.
  """
  cost = COSTS[metric]
  small = [cost(models[0], step) for step in row['steps']]
  found, alone = [], None
  for completion in sorted(row['completions'], key=lambda x: x['step']):
    own = cost(models[completion['route']], completion)
    alone = own if alone is None else alone
    found.append(sum(small[: completion['step'] + 1]) + own)
  return [x / alone for x in (*found, sum(small))]


def check(directory: pathlib.Path) -> list[str]:
  """Returns one line per difference; prints how much was compared."""
  manifest = json.loads((directory / 'manifest.json').read_text())
  rows = [
      row
      for shard in manifest['shards']
      for row in pq.read_table(directory / shard['file']).to_pylist()
  ]
  wrong, num_answers = [], 0
  for row in rows:
    texts = [('small', row['steps'], row['small_correct'])]
    texts += [
        (f'step {x["step"]}', [*row['steps'][: x['step']], x], x['is_correct'])
        for x in row['completions']
    ]
    for name, parts, flag in texts:
      num_answers += 1
      text = ''.join(part['text'] for part in parts)
      if is_right(text, row['answer']) != flag:
        wrong.append(
            f'{row["id"]}, {name}: {last_number(text)} for {row["answer"]} is '
            f'graded {"right" if flag else "wrong"}: {text[-60:]!r}'
        )
  num_costs, largest = _check_costs(directory, rows, manifest['settings'])
  print(
      f'{directory}: {len(rows)} ladders; {num_answers} answers graded again, '
      f'{len(wrong)} differ; {num_costs} costs computed again, largest '
      f'relative difference {largest:.1e}.'
  )
  if largest > 1e-9:
    wrong.append(f'{directory}: costs differ')
  return wrong


def _check_costs(directory, rows, settings) -> tuple[int, float]:
  """Compares all costs with the outcome table's, in all four metrics.

  Returns:
    How many were compared, and the largest relative difference.
  """
  models = settings['models']
  specs = tuple(costs.RouteSpec(**model) for model in models)
  decisions = settings['plan']['sampling']['max_decisions']
  table = records.ladder_table(
      _ladders(directory),
      observation.FeatureConfig(('progress',), len(specs), decisions),
      costs.Accounting(specs, reference=1.0),
      protocols.Protocol('escalate', 'peek'),
  )
  number, largest = 0, 0.0
  for metric in COSTS:
    expected = np.concatenate([endings(row, models, metric) for row in rows])
    differ = np.abs(table.ending_cost[metric] - expected) / expected
    number, largest = number + len(expected), max(largest, differ.max())
  return number, float(largest)


def _ladders(directory):
  """Returns the ladders of all finished shards, as the package reads them."""
  shards = reader.read_manifest(directory).shards
  return [
      ladder
      for entry in shards
      for ladder in reader.read_shard(directory, entry, schema.LADDERS)
  ]


def main(argv: list[str]) -> None:
  """Checks the finished shards of all splits."""
  del argv
  found = sorted(
      pathlib.Path(flags.FLAGS.directory).glob('shards/*/manifest.json')
  )
  if not found:
    sys.exit(f'No shards/*/manifest.json in {flags.FLAGS.directory}.')
  wrong = [line for path in found for line in check(path.parent)]
  print('\n'.join(wrong))
  sys.exit(bool(wrong))


if __name__ == '__main__':
  flags.DEFINE_string('directory', None, 'Work directory of a collection.')
  flags.mark_flag_as_required('directory')
  app.run(main)
