"""Tests of how the embedded engines fill batches."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from routing.engines import jitted_batches
from routing.lm import decoder

_CONFIG = decoder.DecoderConfig(
    vocab_size=11,
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=32,
    mlp_size=16,
)
_SLOTS, _LENGTH = 13, 64  # The last slot is that of padding.


class FillTest(absltest.TestCase):

  def test_rows_in_groups_are_the_rows_alone(self):
    params = jax.jit(decoder.init_params, static_argnums=0)(
        _CONFIG, jax.random.key(0)
    )
    rng = np.random.default_rng(0)
    empty = decoder.init_cache(_CONFIG, _SLOTS, _LENGTH)
    self.assertGreater(_SLOTS - 2, jitted_batches.CPU_PREFILL_ROWS)
    texts = {
        slot: rng.integers(3, 11, size=rng.integers(2, 30)).tolist()
        for slot in rng.permutation(_SLOTS - 2).tolist()
    }
    # What a row has read before, if anything, is read in a call of its own.
    begun = {
        slot: len(text) // 2 if slot % 2 else 0 for slot, text in texts.items()
    }

    def fill(cache, parts):
      cache = jax.tree.map(lambda x: x.copy(), cache)  # It is donated.
      filled = jitted_batches.fill(params, _CONFIG, cache, parts, _SLOTS - 1)
      return list(filled)[-1]

    first = [(slot, 0, text[: begun[slot]]) for slot, text in texts.items()]
    cache = fill(empty, [part for part in first if part[2]])
    cache = fill(
        cache, [(s, begun[s], text[begun[s] :]) for s, text in texts.items()]
    )
    for slot, text in texts.items():
      alone = fill(empty, [(slot, 0, text)])
      for got, want in ((cache.keys, alone.keys), (cache.values, alone.values)):
        np.testing.assert_allclose(
            got[:, slot, :, : len(text)],
            want[:, slot, :, : len(text)],
            rtol=1e-4,
            atol=1e-5,
        )
        self.assertGreater(np.abs(want[:, slot, :, : len(text)]).min(), 0)
    # A slot that nobody named is as it was.
    for got in (cache.keys, cache.values):
      self.assertFalse(np.any(got[:, _SLOTS - 2]))


class SizesTest(parameterized.TestCase):

  @parameterized.parameters(
      ('cpu', 128, 32), ('cpu', 8, 8), ('gpu', 128, 128), ('gpu', 8, 8)
  )
  def test_a_processor_writes_32_rows_at_once(self, backend, most, rows):
    with mock.patch.object(jax, 'default_backend', lambda: backend):
      self.assertEqual(jitted_batches.rows_at_once(most), rows)

  @parameterized.parameters(
      (8, 5, 224, 224),  # Few rows see all positions.
      (32, 128, 224, 128),
      (32, 129, 224, 224),
      (32, 60, 64, 64),
  )
  def test_a_batch_sees_all_that_its_rows_have_read(
      self, rows, longest, length, expected
  ):
    positions = np.arange(rows) + longest - rows + 1
    self.assertEqual(jitted_batches.num_past(positions, length), expected)

  def test_a_greedy_batch_has_no_temperatures(self):
    self.assertIsNone(jitted_batches.heat([0.0, 0.0], 8))
    np.testing.assert_array_equal(
        jitted_batches.heat([0.0, 0.5], 4), np.float32([0, 0.5, 0, 0])
    )


if __name__ == '__main__':
  absltest.main()
