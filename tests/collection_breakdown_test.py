"""Tests of what `benchmarks.collection_breakdown` asks and counts."""

import asyncio
import types as python_types

from absl.testing import absltest

from benchmarks import collection_breakdown


def _step(route, text, num_tokens):
  return python_types.SimpleNamespace(
      route=route,
      text=text,
      num_tokens=num_tokens,
      token_ids=(0,) * num_tokens,
      usage=python_types.SimpleNamespace(written=num_tokens),
  )


def _call(route, read, cached, written):
  return python_types.SimpleNamespace(
      route=route, read=read, cached=cached, written=written
  )


def _trajectory(calls=()):
  """Two steps of the small model, a draft of it, and the rest by the large."""
  return python_types.SimpleNamespace(
      problem=python_types.SimpleNamespace(question='q'),
      steps=(_step(0, 'a', 3), _step(0, 'b', 2), _step(1, 'c', 7)),
      discarded=(_step(0, 'd', 4),),
      calls=calls,
  )


class RequestsTest(absltest.TestCase):

  def test_a_request_for_each_run_or_step(self):
    whole = collection_breakdown.requests(_trajectory(), by_step=False)
    self.assertEqual(whole, [(0, '', 9), (1, 'ab', 7)])
    steps = collection_breakdown.requests(_trajectory(), by_step=True)
    self.assertEqual(
        steps, [(0, '', 3), (0, 'a', 2), (0, 'ab', 4), (1, 'ab', 7)]
    )

  def test_a_problem_is_written_in_order_with_a_cache_for_each_model(self):
    asked = []

    class Plain:
      """Notes what is asked, and how many wait at a time."""

      num = most = 0

      async def write(self, question, route, trace, count, *, salt, **fields):
        self.num += 1
        self.most = max(self.most, self.num)
        asked.append((salt, route, trace, count, fields['detokenize']))
        await asyncio.sleep(0)
        self.num -= 1

    plain = Plain()
    asyncio.run(
        collection_breakdown.alone(plain, [_trajectory()] * 100, 'by_step')
    )
    self.assertLen(asked, 400)
    self.assertEqual(plain.most, 64)
    for number in range(100):
      own = [x for x in asked if f'-{number}-' in x[0]]
      traces = [x[1:] for x in own]
      self.assertEqual(
          traces,
          [
              (0, '', 3, False),
              (0, 'a', 2, False),
              (0, 'ab', 4, False),
              (1, 'ab', 7, False),
          ],
      )
      self.assertLen({x[0] for x in own}, 2)

  def test_shares_by_hand(self):
    calls = (
        _call(0, 10, 0, 3),  # Then it knows 13 tokens.
        _call(0, 5, 8, 2),  # Of the 13 it finds 8: 5 are read again.
        _call(0, 7, 8, 6),  # Knows 15, finds 8: 7.
        _call(1, 15, 0, 7),
    )
    trajectory = _trajectory(calls)
    again = collection_breakdown.read_again([trajectory])
    self.assertAlmostEqual(again, (5 + 7) / (10 + 5 + 7 + 15))
    # 3 + 2 + 4 + 7 tokens are in steps, 18 were written.
    wasted = collection_breakdown.wasted([trajectory])
    self.assertAlmostEqual(wasted, 1 - 16 / 18)


if __name__ == '__main__':
  absltest.main()
