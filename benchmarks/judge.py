"""How far a model as judge agrees with the graders' rules and published pairs.

Run: python -m benchmarks.judge --base_url=http://127.0.0.1:8000/v1 --model=NAME [--pairs=60] [--data=DIR]
The server speaks OpenAI's protocol. The judge sees published pairs of answers;
pairs of the same text are left out, since they need no judge. Prints the counts
and the pairs on which judge and rules differ. docs/grading.md has the numbers.
"""  # noqa: E501  The command stays on one line.

import asyncio
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
import os
import pathlib
import random
import time
from typing import Any

from absl import app
from absl import flags

from benchmarks import grading
from routing import progress as progress_lib
from routing.engines import endpoint as endpoint_lib
from routing.engines import engine as engine_lib
from routing.engines import openai
from routing.grading import equivalence
from routing.grading import judge as judge_lib
from routing.grading import verdicts
from routing.rollout import steps as steps_lib

_FINDERS = ('boxed',)
_MAX_TOKENS = 16  # The judge is asked for one word.


@dataclasses.dataclass(frozen=True)
class Judged:
  """One pair with three opinions.

  row: the published pair.
  judge, rules: the verdicts.
  """

  row: dict[str, Any]
  judge: verdicts.Verdict
  rules: verdicts.Verdict


def sample(
    rows: Sequence[dict[str, Any]], num: int, seed: int = 0
) -> list[dict[str, Any]]:
  """Draws pairs of different texts, without those known to be wrong.

  Raises:
    ValueError: if there are fewer than `num`.
  """
  kept = [
      row
      for row in rows
      if row['gold'].split() != row['pred'].split()
      and row['id'] not in grading.WRONG_PAIRS
  ]
  if not 1 <= num <= len(kept):
    raise ValueError(f'--pairs is {num}; allowed: 1 to {len(kept)}.')
  return random.Random(seed).sample(kept, num)


def judged(
    rows: Sequence[dict[str, Any]],
    ask: Callable[[str], str],
    rules: equivalence.MathVerify,
) -> list[Judged]:
  """Returns what judge and rules say of each pair.

  Args:
    rows: published pairs.
    ask: sends a prompt to the judging model and returns its reply.
    rules: the grader to compare with.
  """
  judge = judge_lib.Judge(ask, _FINDERS)
  found = []
  with progress_lib.Progress(len(rows), 'judging', unit='pair') as progress:
    for row in rows:
      found.append(
          Judged(
              row,
              judge(row['pred'], row['gold']),
              rules.compare(row['pred'], row['gold']),
          )
      )
      progress.update()
  return found


@contextlib.contextmanager
def asking(engine: engine_lib.Engine) -> Iterator[Callable[[str], str]]:
  """Yields a function that asks the model of a route, greedily.

  The engine is closed afterwards.
  """

  async def write(prompt: str) -> str:
    request = engine_lib.Request(
        trace='', to_end=True, max_tokens=_MAX_TOKENS, temperature=0.0
    )
    session = engine.open(prompt)
    try:
      return steps_lib.join(await session.write(request))
    finally:
      await session.close()

  with asyncio.Runner() as runner:
    try:
      yield lambda prompt: runner.run(write(prompt))
    finally:
      runner.run(engine.close())


def _show(name: str, first: Sequence[bool], second: Sequence[bool]) -> None:
  counts = verdicts.agreement(first, second)
  print(
      f'{name}: {counts.both_right} both right, {counts.only_first} only the '
      f'first, {counts.only_second} only the second, {counts.both_wrong} both '
      f'wrong; agree {counts.share:.1%}, kappa {counts.kappa:.2f}.'
  )


def main(argv: Sequence[str]) -> None:
  """Prints agreement, differences and time."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  rows = sample(
      grading.pairs(pathlib.Path(flags.FLAGS.data)), flags.FLAGS.pairs
  )
  rules = equivalence.MathVerify(_FINDERS)
  start = time.monotonic()
  # Asked for a whole answer, a model of mode 'instruct' sees the prompt alone.
  endpoint = endpoint_lib.Endpoint(
      flags.FLAGS.base_url,
      flags.FLAGS.model,
      mode='instruct',
      api_key=os.environ.get('OPENAI_API_KEY', 'none'),
  )
  with asking(openai.OpenAIEngine('judge', 0, endpoint)) as ask:
    found = judged(rows, ask, rules)
  seconds = time.monotonic() - start
  rules.close()
  for x in found:
    if x.judge.is_correct != x.rules.is_correct:
      print(
          f'{x.row["id"]}: {x.row["gold"]!r} and {x.row["pred"]!r}: judge '
          f'{x.judge.is_correct}, rules {x.rules.is_correct}, published '
          f'{x.row["expected"]}'
      )
  judge = [x.judge.is_correct for x in found]
  published = [x.row['expected'] for x in found]
  unclear = sum(x.judge.reason.startswith('no verdict') for x in found)
  _show('Judge and rules', judge, [x.rules.is_correct for x in found])
  _show('Judge and published', judge, published)
  _show('Rules and published', [x.rules.is_correct for x in found], published)
  print(f'{unclear} replies without a verdict; {seconds:.0f} s.')


if __name__ == '__main__':
  flags.DEFINE_string(
      'data',
      os.environ.get('ROUTING_DATA', '../shared/data'),
      'Directory of the public data sets.',
  )
  flags.DEFINE_string('base_url', None, 'Address of the server.', required=True)
  flags.DEFINE_string('model', None, "The server's model.", required=True)
  flags.DEFINE_integer('pairs', 60, 'Number of pairs.')
  app.run(main)
