"""What a session reads anew, by hand: one token, whole blocks, no ids."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import types
from routing.engines import prefix_cache


def _step(text, ids):
  return types.Step(
      text=text,
      token_ids=tuple(ids),
      log_probs=np.full(len(ids), -0.1, np.float32),
      top_log_probs=np.zeros((len(ids), 0), np.float32),
      is_final=False,
      usage=types.Usage(0, 0, 0, len(ids)),
  )


def _paid(steps):
  return [(int(s.usage.read), int(s.usage.cached)) for s in steps]


class ChargedTest(parameterized.TestCase):

  @parameterized.parameters(
      # The prompt has 7 tokens. The session read 4 and wrote 2, and all of them
      # come again, or all but the last.
      (1, (1, 2, 3, 4, 5, 6, 9), (1, 6)),
      (1, (1, 2, 3, 4, 5, 8, 9), (2, 5)),
      (1, (7, 2, 3, 4, 5, 6, 9), (7, 0)),
      # In blocks of 4, 6 tokens are one whole block.
      (4, (1, 2, 3, 4, 5, 6, 9), (3, 4)),
      (4, (1, 2, 3, 8, 5, 6, 9), (7, 0)),
      # The last token is read anew even if it ends a block that is held.
      (3, (1, 2, 3, 4, 5, 6), (3, 3)),
  )
  def test_by_hand(self, block, ids, wanted):
    cache = prefix_cache.PrefixCache(block=block)
    first = prefix_cache.prompt('q', '', 4, (1, 2, 3, 4))
    written, held = prefix_cache.charged(
        [_step('one', (5, 6))], first, (), cache
    )
    self.assertEqual(_paid(written), [(4, 0)])
    second = prefix_cache.prompt('q', 'one', len(ids), ids)
    written, _ = prefix_cache.charged([_step('two', (1,))], second, held, cache)
    self.assertEqual(_paid(written), [wanted])

  def test_one_call_reads_its_prompt_once(self):
    first = prefix_cache.prompt('q', '', 4, (1, 2, 3, 4))
    written, _ = prefix_cache.charged(
        [_step('one', (5, 6)), _step('two', (7,))],
        first,
        (),
        prefix_cache.PrefixCache(),
    )
    self.assertEqual(_paid(written), [(4, 0), (0, 0)])
    self.assertEqual([s.usage.held for s in written], [0, 6])

  @parameterized.parameters((False, (3, 0)), (True, (1, 2)))
  def test_what_a_session_keeps(self, keeps_all, wanted):
    # Another sequence came between.
    cache, held = prefix_cache.PrefixCache(keeps_all=keeps_all), ()
    for ids in ((1, 2), (8, 9)):
      text = prefix_cache.prompt(str(ids), '', 2, ids)
      _, held = prefix_cache.charged([_step('', ())], text, held, cache)
    text = prefix_cache.prompt('(1, 2)', 'x', 3, (1, 2, 3))
    written, _ = prefix_cache.charged([_step('', (4,))], text, held, cache)
    self.assertEqual(_paid(written), [wanted])

  @parameterized.parameters(('one', (2, 6)), ('on', (8, 0)), ('two', (8, 0)))
  def test_without_ids_whole_sequences_count(self, trace, wanted):
    first = prefix_cache.prompt('q', '', 4, None)
    _, held = prefix_cache.charged(
        [_step('one', (0, 0))], first, (), prefix_cache.PrefixCache()
    )
    second = prefix_cache.prompt('q', trace, 8, None)
    written, _ = prefix_cache.charged(
        [_step('more', (0,))], second, held, prefix_cache.PrefixCache()
    )
    self.assertEqual(_paid(written), [wanted])


if __name__ == '__main__':
  absltest.main()
