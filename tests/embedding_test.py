"""Embeddings of texts: hashed n-grams, and a sentence encoder."""

import pathlib

from absl.testing import absltest
import numpy as np

from routing.features import embedding

_TEXTS = ('two and three', 'two', '', 'three and two and two')


class HashedTest(absltest.TestCase):

  def test_lengths_are_one_and_nothing_is_charged(self):
    embed = embedding.HashedNgrams(32, 2)
    found = embed.embed(_TEXTS)
    np.testing.assert_allclose(
        np.linalg.norm(found, axis=1), [1, 1, 0, 1], rtol=1e-6
    )
    np.testing.assert_array_equal(embed.count_tokens(_TEXTS), np.zeros(4))
    self.assertIsNone(embed.spec)
    self.assertEqual(embed.embed([]).shape, (0, 32))

  def test_the_width_is_part_of_the_name(self):
    names = {embedding.HashedNgrams(8).name, embedding.HashedNgrams(9).name}
    self.assertLen(names, 2)


class SentenceModelTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    import torch
    import transformers

    folder = pathlib.Path(absltest.get_default_test_tmpdir()) / 'encoder'
    folder.mkdir(parents=True, exist_ok=True)
    words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
    words += ['two', 'three', 'and']
    (folder / 'vocab.txt').write_text('\n'.join(words))
    torch.manual_seed(0)
    transformers.BertModel(
        transformers.BertConfig(
            vocab_size=len(words),
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            max_position_embeddings=16,
        )
    ).save_pretrained(folder)
    tokenizer = transformers.BertTokenizer(str(folder / 'vocab.txt'))
    tokenizer.save_pretrained(folder)
    cls.embed = embedding.SentenceModel(str(folder), max_length=6, batch_size=2)

  def test_padding_and_order_change_nothing(self):
    together = self.embed.embed(_TEXTS)
    for text, vector in zip(_TEXTS, together, strict=True):
      np.testing.assert_allclose(self.embed.embed([text])[0], vector, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    self.assertGreater(np.abs(together[0] - together[1]).max(), 1e-3)

  def test_tokens_are_those_that_the_model_reads(self):
    # The words between [CLS] and [SEP]; the last text is cut to 6 tokens.
    np.testing.assert_array_equal(self.embed.count_tokens(_TEXTS), [5, 3, 2, 6])

  def test_its_size_prices_it(self):
    self.assertEqual(self.embed.size, 8)
    self.assertEqual(self.embed.spec.num_layers, 1)
    # Price without a list price: a dollar per million tokens and parameters.
    self.assertAlmostEqual(
        self.embed.spec.price_output, self.embed.spec.parameters / 1e6
    )


if __name__ == '__main__':
  absltest.main()
