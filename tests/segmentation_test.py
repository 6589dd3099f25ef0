"""Tests of cutting the tokens of one call into steps."""

import asyncio
import time

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import types
from routing.engines import boundaries
from routing.engines import segmentation


def _bounds(pieces):
  return [
      (text, tokens.start, tokens.stop)
      for text, tokens, _ in segmentation.slices(pieces)
  ]


class SlicesTest(parameterized.TestCase):

  @parameterized.parameters(
      (['a'], [('a', 0, 1)]),
      (['a', '\n\n', 'b'], [('a\n\n', 0, 2), ('b', 2, 3)]),
      (['a', '\n', '\n', 'b'], [('a\n\n', 0, 3), ('b', 3, 4)]),
      # The token '\n\nb' ends step 0; step 1 has no token of its own.
      (['a', '\n\nb'], [('a\n\n', 0, 2), ('b', 2, 2)]),
      (['a\n\nb\n\nc'], [('a\n\n', 0, 1), ('b\n\n', 1, 1), ('c', 1, 1)]),
      # End of sequence has no text and stands alone after a delimiter.
      (['a\n\n', ''], [('a\n\n', 0, 1), ('', 1, 2)]),
      (['a\n\n', 'b', ''], [('a\n\n', 0, 1), ('b', 1, 3)]),
      (['', 'a\n\n', '', 'b'], [('a\n\n', 0, 2), ('b', 2, 4)]),
      # Blank lines belong to the step after them.
      (['\n\n', 'a', '\n\n'], [('\n\na\n\n', 0, 3)]),
      # A delimiter in a block does not end a step.
      (
          ['```\n', 'x\n\n', '```', '\n\n', 'b'],
          [('```\nx\n\n```\n\n', 0, 4), ('b', 4, 5)],
      ),
  )
  def test_slices(self, pieces, expected):
    self.assertEqual(_bounds(pieces), expected)

  def test_covers_every_token_once_and_cuts_as_the_whole_text(self):
    rng = np.random.default_rng(1)
    words = ['a', '\n', '\n\n', 'b\n', '', '\n\nc', '\n```\n', '$$']
    for _ in range(1000):
      pieces = rng.choice(words, size=rng.integers(1, 12)).tolist()
      got = _bounds(pieces)
      covered = [i for _, start, stop in got for i in range(start, stop)]
      self.assertEqual(covered, list(range(len(pieces))))
      texts = [text for text, _, _ in got if text]
      self.assertEqual(texts, boundaries.split(''.join(pieces)))

  @parameterized.parameters(
      '', '```\n', '\n\n', '$$\n'  # Outside a block, and within an open one.
  )
  def test_long_texts_take_no_longer_per_token(self, head):
    pieces = [head, *(['x', ' = ', '1', '\n', '\n'] * 100_000)]
    start = time.process_time()
    cut = segmentation.slices(pieces)
    # Measured 0.4 s; a loop over the text for each token takes hours.
    self.assertLess(time.process_time() - start, 60)
    self.assertEqual(''.join(step.text for step in cut), ''.join(pieces))
    self.assertLen(cut, 1 if head.strip() else 100_000)


class ToStepsTest(absltest.TestCase):

  def test_the_first_step_has_the_reads_and_each_its_own_tokens(self):
    pieces = ['a', '\n\n', 'b', '']
    written = segmentation.Written(
        pieces=pieces,
        token_ids=[7, 8, 9, 1],
        log_probs=np.float32([-0.1, -0.2, -0.3, -0.4]),
        top_log_probs=np.zeros((4, 2), np.float32),
        is_final=True,
    )
    first, last = segmentation.to_steps(written, types.Usage(1, 5, 3, 4, 2.0))
    self.assertEqual((first.text, last.text), ('a\n\n', 'b'))
    self.assertEqual((first.token_ids, last.token_ids), ((7, 8), (9, 1)))
    self.assertEqual(first.log_probs.tolist(), written.log_probs[:2].tolist())
    self.assertEqual(last.top_log_probs.shape, (2, 2))
    self.assertEqual((first.is_final, last.is_final), (False, True))
    self.assertEqual(first.usage, types.Usage(1, 5, 3, 2, 1.0))
    self.assertEqual(last.usage, types.Usage(1, 0, 0, 2, 1.0, 5 + 3 + 2))

  def test_a_speculative_run_has_earlier_tokens_in_context(self):
    none = np.zeros(4, np.float32)
    written = segmentation.Written(
        ['a', '\n\n', 'b', ''], range(4), none, none[:, None], True
    )
    first, last = segmentation.to_steps(
        written, types.Usage(1, 0, 0, 4, 4.0, 9)
    )
    self.assertEqual(first.usage, types.Usage(1, 0, 0, 2, 2.0, 9))
    self.assertEqual(last.usage, types.Usage(1, 0, 0, 2, 2.0, 9 + 2))

  def test_no_tokens_is_an_error(self):
    none = np.zeros(0, np.float32)
    written = segmentation.Written([], [], none, none[:, None], True)
    with self.assertRaisesRegex(ValueError, 'no token'):
      segmentation.to_steps(written, types.Usage(0, 1, 0, 0))


class ChargedTest(absltest.TestCase):

  def test_discarded_tokens_are_charged_to_the_last_step(self):
    none = np.zeros(5, np.float32)
    written = segmentation.Written(
        list('ab') + ['\n\n', 'c', ''], range(5), none, none[:, None], True
    )
    steps = segmentation.to_steps(written, types.Usage(1, 7, 0, 5, 5.0))
    (kept,) = segmentation.charged(steps[:1], 5, 5.0)
    self.assertEqual(kept.usage, types.Usage(1, 7, 0, 5, 5.0))  # 2 wasted.
    self.assertEqual(kept.text, 'ab\n\n')
    self.assertEqual(segmentation.charged(steps, 5, 5.0), steps)


class TotalTest(absltest.TestCase):

  def test_context_of_consecutive_calls_is_that_of_the_first(self):
    parts = [types.Usage(1, 0, 0, 5, 1.0, 9), types.Usage(1, 0, 0, 3, 1.0, 14)]
    self.assertEqual(segmentation.total(parts), types.Usage(1, 0, 0, 8, 2.0, 9))

  def test_tokens_in_context_are_not_counted_again_as_cached(self):
    # 9 in context and 5 written: a new request finds 12 of these 14 cached.
    parts = [types.Usage(1, 0, 0, 5, 1.0, 9), types.Usage(1, 2, 12, 3, 1.0)]
    self.assertEqual(
        segmentation.total(parts), types.Usage(1, 2, 12, 8, 2.0, 0)
    )

  def test_wasted_tokens_have_their_mean_context(self):
    pieces = [
        types.Usage(1, 0, 0, 3, 1.0, 40),
        types.Usage(1, 0, 0, 1, 1.0, 20),
    ]
    self.assertEqual(
        segmentation.wasted(pieces), types.Usage(1, 0, 0, 4, 2.0, 35)
    )
    nothing = types.Usage(1, 0, 0, 0, 0.0, 20)
    self.assertEqual(segmentation.wasted([nothing]), nothing)


class WriteStepsTest(parameterized.TestCase):

  def _write(self, whole, *, to_end=False, max_tokens=99, calls=None):
    """Writes with a back end that recites `whole`, one character a token."""

    async def call(text, stop, num):
      rest = whole[len(text) :]
      at = -1 if stop is None else rest.find(stop)
      said = rest[: min(num, len(rest) if at < 0 else at + len(stop))]
      if calls is not None:
        calls.append((stop, said))
      none = np.zeros(len(said), np.float32)
      return (
          segmentation.Written(
              pieces=list(said),
              token_ids=[ord(c) for c in said],
              log_probs=none - len(text),
              top_log_probs=none[:, None],
              is_final=len(text) + len(said) == len(whole) and at < 0,
          ),
          types.Usage(1, 10, len(text), len(said), 1.0),
      )

    return asyncio.run(
        segmentation.write_steps(call, to_end=to_end, max_tokens=max_tokens)
    )

  def test_a_step_is_one_call(self):
    calls = []
    (step,) = self._write('ab\n\nc', calls=calls)
    self.assertEqual((step.text, step.is_final), ('ab\n\n', False))
    self.assertEqual(calls, [('\n\n', 'ab\n\n')])

  def test_a_block_is_completed_and_then_the_step(self):
    calls = []
    whole = '$$a\n\nb$$ so\n\nc'
    (step,) = self._write(whole, calls=calls)
    self.assertEqual(step.text, '$$a\n\nb$$ so\n\n')
    self.assertEqual(
        calls, [('\n\n', '$$a\n\n'), ('$$', 'b$$'), ('\n\n', ' so\n\n')]
    )
    # The usage of the three calls together; log-probabilities in order.
    self.assertEqual(step.usage, types.Usage(1, 30, 5 + 8, 13, 3.0))
    self.assertEqual(step.log_probs.tolist(), [0] * 5 + [-5] * 3 + [-8] * 5)
    self.assertEqual(step.token_ids, tuple(map(ord, step.text)))

  def test_blank_lines_are_not_a_step(self):
    (step,) = self._write('\n\nab\n\nc')
    self.assertEqual(step.text, '\n\nab\n\n')

  def test_the_whole_answer_is_one_call(self):
    calls = []
    steps = self._write('a\n\n$$b\n\n$$', to_end=True, calls=calls)
    self.assertEqual([s.text for s in steps], ['a\n\n', '$$b\n\n$$'])
    self.assertEqual([s.is_final for s in steps], [False, True])
    self.assertLen(calls, 1)

  @parameterized.parameters((2, '$$'), (5, '$$a\n\n'), (6, '$$a\n\nb'))
  def test_stops_when_tokens_run_out(self, max_tokens, text):
    (step,) = self._write('$$a\n\nb$$\n\nc', max_tokens=max_tokens)
    self.assertEqual((step.text, step.is_final), (text, False))

  def test_an_answer_may_end_inside_a_block(self):
    (step,) = self._write('$$a\n\nb')
    self.assertEqual((step.text, step.is_final), ('$$a\n\nb', True))


if __name__ == '__main__':
  absltest.main()
