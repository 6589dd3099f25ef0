"""Tests of saved weights: the same model here and in `transformers`."""

import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import numpy as np
import pytest

from routing.lm import corpus
from routing.lm import decoder
from routing.lm import export
from routing.lm import tokenizer as tokenizer_lib
from routing.tasks import counters

_CONFIG = decoder.DecoderConfig(
    len(tokenizer_lib.VOCABULARY), 16, 2, 4, 2, 32, 24
)
_init_params = jax.jit(decoder.init_params, static_argnums=0)
_MODELS = ('small', 'large')


class ExportTest(parameterized.TestCase):

  def test_saved_and_loaded(self):
    directory = pathlib.Path(self.create_tempdir().full_path) / 'model'
    params = _init_params(_CONFIG, jax.random.key(0))
    export.save_pretrained(directory, _CONFIG, params)
    config, loaded = export.load_pretrained(directory)
    self.assertEqual(config, _CONFIG)
    chex.assert_trees_all_equal(loaded, params)

  def test_an_older_model_is_replaced(self):
    directory = pathlib.Path(self.create_tempdir().full_path) / 'model'
    for seed in (0, 1):
      params = _init_params(_CONFIG, jax.random.key(seed))
      export.save_pretrained(directory, _CONFIG, params)
    _, loaded = export.load_pretrained(directory)
    chex.assert_trees_all_equal(loaded, params)
    self.assertEqual([p.name for p in directory.parent.iterdir()], ['model'])

  def test_a_missing_file_is_named(self):
    directory = self.create_tempdir().full_path
    with self.assertRaisesRegex(FileNotFoundError, 'config.json is missing'):
      export.load_pretrained(directory)
    with self.assertRaisesRegex(ValueError, "'medium'.*small, large"):
      export.shipped('medium')

  def test_the_shipped_pair(self):
    count = {}
    for name in _MODELS:
      config, params = export.load_pretrained(export.shipped(name))
      self.assertGreaterEqual(config.head_dim, 32)
      count[name] = decoder.num_parameters(params)
    self.assertGreaterEqual(count['large'], 8 * count['small'])
    folder = export.shipped('small').parent
    size = sum(p.stat().st_size for p in folder.rglob('*') if p.is_file())
    self.assertLess(size, 8 * 2**20)

  @parameterized.parameters(*_MODELS)
  def test_transformers_agrees(self, name):
    torch = pytest.importorskip('torch', reason='needs the dev extra')
    import transformers

    directory = export.shipped(name)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32
    )
    config, params = export.load_pretrained(directory)
    apply = jax.jit(
        lambda tokens, positions: decoder.Decoder(config).apply(
            {'params': params}, tokens, positions
        )[0]
    )
    encode = tokenizer_lib.Tokenizer().encode
    tasks = list(corpus.held_out('export', 50, ()))
    self.assertLen(tasks, 50)
    texts = [
        counters.question_text(x) + ''.join(counters.solution(x)) for x in tasks
    ]
    rows = [encode(text) for text in texts]
    # Padded at the end, where nothing that counts can see it.
    tokens = np.zeros((50, max(map(len, rows))), int)
    for row, ids in zip(tokens, rows, strict=True):
      row[: len(ids)] = ids
    with torch.no_grad():
      expected = model(torch.from_numpy(tokens)).logits.numpy()
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    logits = apply(tokens, positions)
    for got, want, ids in zip(logits, expected, rows, strict=True):
      np.testing.assert_allclose(
          got[: len(ids)], want[: len(ids)], rtol=0, atol=1e-4
      )


if __name__ == '__main__':
  absltest.main()
