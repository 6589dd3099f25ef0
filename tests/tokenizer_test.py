"""Tests of the vocabulary: a unique split, the same in `transformers`."""

import random

from absl.testing import absltest

from routing.lm import corpus
from routing.lm import tokenizer as tokenizer_lib
from routing.tasks import counters

_TOKENIZER = tokenizer_lib.Tokenizer()


def _texts(count):
  rng = random.Random(0)
  for _ in range(count):
    task = counters.draw_exercise(rng)
    yield counters.question_text(task), counters.solution(task)


class TokenizerTest(absltest.TestCase):

  def test_text_to_ids_and_back(self):
    for question, steps in _texts(200):
      text = question + ''.join(steps)
      ids = _TOKENIZER.encode(text)
      self.assertEqual(_TOKENIZER.decode(ids), text)
      self.assertNotIn(_TOKENIZER.pad_id, ids)

  def test_every_step_has_the_same_number_of_tokens(self):
    for question, steps in _texts(200):
      del question
      counts = {len(_TOKENIZER.encode(step)) for step in steps[:-1]}
      self.assertEqual(counts, {corpus.STEP_TOKENS})

  def test_joining_texts_joins_ids(self):
    # A trace is encoded as a whole and step by step, so no piece may span the
    # boundary.
    for question, steps in _texts(50):
      ids = _TOKENIZER.encode(question)
      for step in steps:
        ids += _TOKENIZER.encode(step)
      self.assertEqual(ids, _TOKENIZER.encode(question + ''.join(steps)))

  def test_ids_to_text_and_back(self):
    # All ids survive decoding and encoding, except for consecutive newlines.
    size = len(_TOKENIZER)
    changed = {
        _TOKENIZER.decode([a, b])
        for a in range(size)
        for b in range(size)
        if _TOKENIZER.encode(_TOKENIZER.decode([a, b])) != [a, b]
    }
    self.assertEqual(changed, {'\n\n', '\n\n\n'})

  def test_unknown_text_is_named(self):
    with self.assertRaisesRegex(ValueError, "' plus 3', at character 2"):
      _TOKENIZER.encode('P= plus 3')

  def test_transformers_splits_and_joins_alike(self):
    import transformers

    directory = self.create_tempdir().full_path
    _TOKENIZER.save(directory)
    other = transformers.AutoTokenizer.from_pretrained(directory)
    self.assertEqual(other.pad_token_id, _TOKENIZER.pad_id)
    self.assertEqual(other.eos_token_id, _TOKENIZER.eos_id)
    for question, steps in _texts(20):
      text = question + ''.join(steps)
      ids = _TOKENIZER.encode(text)
      self.assertEqual(other(text)['input_ids'], ids)
      self.assertEqual(other.decode(ids), text)


if __name__ == '__main__':
  absltest.main()
