"""Faults that users of other projects report, as tests of this one.

Each test says what went wrong elsewhere.
"""

import asyncio
import dataclasses
import pathlib
import time

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import protocols
from routing import types
from routing.engines import endpoint as endpoint_lib
from routing.engines import meter as meter_lib
from routing.engines import openai
from routing.engines import resilience
from routing.engines import scripted
from routing.grading import equivalence
from routing.rollout import driver
from routing.rollout import step_requests
from routing.shards import reader
from routing.shards import writer
from tests import openai_server
from tests import scripted_pair

_SETTINGS = {'seed': 0}


class GradingTest(parameterized.TestCase):
  """Math-Verify in a thread: all wrong in silence; no time limit: it hangs."""

  def test_towers_of_powers_do_not_hold_up_other_threads(self):
    grade = equivalence.MathVerify(('boxed',), workers=2, timeout=2.0)
    self.addCleanup(grade.close)
    problem = types.Problem('p', 'q', 'x + x')

    async def all_at_once():
      # The driver grades in threads of the event loop's pool.
      texts = (r'\boxed{9^{9^{9^{9}}} + x}', r'\boxed{2x}', r'\boxed{3x}')
      return await asyncio.gather(
          *(driver.grade_text(grade, text, problem) for text in texts)
      )

    start = time.monotonic()
    self.assertEqual(asyncio.run(all_at_once()), [False, True, False])
    # Of the clock, the limit is twelve times the processor's.
    self.assertLess(time.monotonic() - start, 12 * 2.0 + 20.0)

  @parameterized.parameters('boxed', 'hash', 'number')
  def test_a_question_after_the_answer_is_not_graded(self, finder):
    """Models go on with a question of their own, and answer that."""
    grade = equivalence.MathVerify((finder, 'number'), workers=1)
    self.addCleanup(grade.close)
    mark = {'boxed': r'So \boxed{\$9{,}500}.', 'hash': '#### $9,500'}
    end = mark.get(finder, 'It is $9,500.')
    text = f'{end}\n\nQuestion: How many are 3 and 4?\n'
    later = {'boxed': r'\boxed{7}', 'hash': '#### 7'}.get(finder, 'It is 7.')
    self.assertTrue(grade(text + later, '9500').is_correct)
    self.assertFalse(grade(text + later, '7').is_correct)


def _without_log_probs(ladder: types.Ladder) -> types.Ladder:
  """Returns a ladder as of a back end that reports no log-probabilities."""
  none = np.zeros(0, np.float32)
  steps = [
      dataclasses.replace(
          step,
          log_probs=none,
          top_log_probs=np.zeros((len(step.token_ids), 0), np.float32),
          hidden=None,
      )
      for step in ladder.steps
  ]
  return dataclasses.replace(ladder, steps=tuple(steps))


class NullColumnTest(parameterized.TestCase):
  """A file whose column is all null gets a type that clashes with the next."""

  @parameterized.parameters(0, 1)
  def test_shards_with_and_without_log_probs_load(self, bare):
    import datasets
    import pandas

    ladders = scripted_pair.make_ladders(6)
    # Three problems a shard: one of the two shards has no log-probabilities.
    first = 3 * bare
    ladders[first : first + 3] = map(
        _without_log_probs, ladders[first : first + 3]
    )
    directory = pathlib.Path(self.create_tempdir().full_path) / 'train'
    with writer.LadderWriter(
        directory, [x.problem for x in ladders], _SETTINGS, 3
    ) as shards:
      for i, ladder in enumerate(ladders):
        shards.add(i, ladder)

    back = reader.read_ladders(directory)
    self.assertEqual(
        list(map(scripted_pair.plain, back)),
        list(map(scripted_pair.plain, ladders)),
    )
    expected = [[len(s.log_probs) for s in x.steps] for x in ladders]
    self.assertIn(0, expected[first])
    self.assertNotIn(0, expected[3 - first])
    files = sorted(map(str, directory.glob('*.parquet')))
    self.assertLen(files, 2)
    for order in (files, files[::-1]):
      rows = datasets.load_dataset(
          'parquet',
          data_files=order,
          split='train',
          cache_dir=self.create_tempdir().full_path,
      )
      by_id = {x['id']: x['steps'] for x in rows}
      frame = pandas.concat(map(pandas.read_parquet, order))
      for ladder, lengths in zip(ladders, expected, strict=True):
        (steps,) = frame[frame['id'] == ladder.problem.id]['steps']
        for stored in (by_id[ladder.problem.id], steps):
          self.assertEqual([len(s['log_probs']) for s in stored], lengths)


class _Never:
  """A router that never hands over."""

  def decide(self, trace):
    del trace
    return types.Decision(0, 0.0)


class ClientGoneTest(absltest.TestCase):
  """A client goes away, and the upstream writes on, unpaid for by anyone."""

  def test_the_upstream_stops_and_the_tokens_are_counted(self):
    text = 'ab\n\ncd\n\n#### 3'
    served = scripted.ScriptedEngine(
        's',
        0,
        scripted.recite(text),
        # The first step at once; the second takes longer than the client stays.
        delay=lambda request: 60.0 if request.trace else 0.0,
    )
    model = openai_server.Model(
        served, split=lambda prompt: (prompt[:2], prompt[2:])
    )
    meter = meter_lib.Meter(scripted_pair.SPECS)

    async def leave_after_a_step(url):
      upstream = openai.OpenAIEngine(
          'x',
          0,
          endpoint_lib.Endpoint(
              url, 'm', mode='completions', is_vllm=True, seeds=True
          ),
      )
      engine = resilience.ResilientEngine(upstream, resilience.Limits(), meter)
      answering = asyncio.create_task(
          driver.answer(
              types.Problem('p', 'q\n', '3'),
              _Never(),
              [engine],
              protocol=protocols.Protocol('escalate'),
              accounting=None,
              grade=equivalence.exact,
              seed=0,
              sampling=step_requests.Sampling(max_tokens=50),
          )
      )
      async with asyncio.timeout(20.0):
        while len(model.requests) < 2 or not served.num_in_flight:
          await asyncio.sleep(0.01)
      answering.cancel()
      with self.assertRaises(asyncio.CancelledError):
        await answering
      async with asyncio.timeout(5.0):
        while served.num_in_flight:
          await asyncio.sleep(0.01)
      await engine.close()

    with openai_server.serve(openai_server.make_app(model)) as url:
      asyncio.run(leave_after_a_step(url))
    self.assertEqual(model.num_cancelled, 1)
    # A token is a letter. The first step read 2 and wrote 4. The request that
    # was under way may be billed in full: it read 2 + 4, and could write the 46
    # that were left.
    self.assertEqual(meter.unsure_tokens, 2 + 4 + 46)
    self.assertEqual(meter.tokens - meter.unsure_tokens, 2 + 4)


if __name__ == '__main__':
  absltest.main()
