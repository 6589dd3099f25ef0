"""A process reward model against its definition, prefix by prefix."""

import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import torch

from routing import costs
from routing.engines import process_reward
from routing.engines import route as route_lib
from tests import tiny_qwen

_SYSTEM = 'Think.'
_ANSWERS = (
    ('What is 1 + 2?', ['One and two.\n\n', 'That is 3.\n\n', 'The end']),
    ('2 + 2?', ['4']),
    ('A longer question: how much is 10 times 10?', ['100 is it.\n\n', 'Yes.']),
)


def _prompt(question, steps):
  """Returns the input up to the last separator, written out by hand."""
  answer = ''.join(step.removesuffix('\n\n') + '<extra_0>' for step in steps)
  return (
      f'<|im_start|>system\n{_SYSTEM}<|im_end|>\n'
      f'<|im_start|>user\n{question}<|im_end|>\n'
      f'<|im_start|>assistant\n{answer}'
  )


class ProcessRewardTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.body, self.head = tiny_qwen.save_process_reward(self.folder, 3)

  def _scorer(self, **settings):
    given = {'system': _SYSTEM, 'batch_size': 2} | settings
    return process_reward.ProcessRewardModel(
        self.folder, process_reward.Settings(**given)
    )

  def _by_hand(self, text, tokenizer):
    """Returns the score of the last step, from one forward pass in NumPy."""
    ids = tokenizer(text, add_special_tokens=False)['input_ids']
    with torch.no_grad():
      last = self.body(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
    first, _, second = self.head
    w0, b0, w1, b1 = (
        x.detach().double().numpy()
        for x in (first.weight, first.bias, second.weight, second.bias)
    )
    inner = np.maximum(w0 @ last.double().numpy() + b0, 0)
    no, yes = w1 @ inner + b1
    return 1 / (1 + np.exp(no - yes)), len(ids)

  def test_each_score_is_that_of_the_answer_so_far(self):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder)
    found = self._scorer().score(_ANSWERS)
    self.assertLen(found, 3)
    for (question, steps), scores in zip(_ANSWERS, found, strict=True):
      pairs = [
          self._by_hand(_prompt(question, steps[: t + 1]), tokenizer)
          for t in range(len(steps))
      ]
      expected, lengths = zip(*pairs, strict=True)
      np.testing.assert_allclose(scores.scores, expected, atol=1e-5)
      np.testing.assert_array_equal(np.cumsum(scores.read), lengths)
    self.assertGreater(np.ptp(np.concatenate([x.scores for x in found])), 0.01)

  def test_half_precision_changes_little(self):
    exact = self._scorer().score(_ANSWERS)
    rounded = self._scorer(dtype='bfloat16').score(_ANSWERS)
    for a, b in zip(exact, rounded, strict=True):
      np.testing.assert_allclose(a.scores, b.scores, atol=0.05)
      self.assertGreater(np.abs(a.scores - b.scores).max(), 0)

  def test_compute_is_charged_like_a_route(self):
    (scores,) = self._scorer().score(_ANSWERS[:1])
    route = route_lib.Route('scorer', 'process_reward', str(self.folder))
    spec = route.cost_spec()
    per_step = costs.call_cost(scores.usage(), spec, 'flops')
    # Read in pieces or at once, the operations are the same.
    total = int(scores.read.sum())
    attention = 2 * 2 * 64 * total * (total - 1) / 2
    self.assertAlmostEqual(
        per_step.sum() / (2 * spec.parameters * total + attention), 1.0
    )
    np.testing.assert_array_equal(
        costs.call_cost(scores.usage(), spec, 'decoded_tokens'), np.zeros(3)
    )
    self.assertGreater(scores.seconds.min(), 0)

  def test_the_limit_of_length(self):
    length = len(_prompt(*_ANSWERS[1])) - len('<extra_0>') + 1
    length -= 3 * (len('<|im_start|>') - 1) + 2 * (len('<|im_end|>') - 1)
    self._scorer(max_length=length).score(_ANSWERS[1:2])
    with self.assertRaisesRegex(
        ValueError, f'{length} tokens .* at most {length - 1}'
    ):
      self._scorer(max_length=length - 1).score(_ANSWERS[1:2])

  @parameterized.parameters(
      ('Q', [], 'has 0 steps'),
      ('Q', ['a <extra_0> b'], '2 separators .* for 1 steps'),
      ('Q <extra_0>', ['a'], '2 separators .* for 1 steps'),
  )
  def test_an_answer_that_cannot_be_scored(self, question, steps, message):
    with self.assertRaisesRegex(ValueError, message):
      self._scorer().score([(question, steps)])

  def test_a_model_of_another_kind(self):
    tiny_qwen.save(self.folder, 0, num_layers=1)
    with self.assertRaisesRegex(ValueError, 'Qwen2ForCausalLM.*needs'):
      self._scorer()

  def test_a_tokenizer_without_separator(self):
    config = (self.folder / 'config.json').read_text()
    tiny_qwen.save(self.folder, 0, num_layers=1)
    (self.folder / 'config.json').write_text(config)
    with self.assertRaisesRegex(ValueError, "no token '<extra_0>'"):
      self._scorer()

  def test_weights_that_are_missing(self):
    config = json.loads((self.folder / 'config.json').read_text())
    config['num_hidden_layers'] = 3
    config.pop('layer_types', None)
    (self.folder / 'config.json').write_text(json.dumps(config))
    with self.assertRaisesRegex(ValueError, 'lacks .* weights of the decoder'):
      self._scorer()

  def test_a_head_of_three_classes(self):
    tiny_qwen.save_process_reward(self.folder, 3, num_classes=3)
    with self.assertRaisesRegex(ValueError, 'has 3 classes'):
      self._scorer()

  def test_settings_that_are_not_allowed(self):
    with self.assertRaisesRegex(ValueError, 'batch_size 0'):
      process_reward.Settings(batch_size=0)


class ValueHeadTest(absltest.TestCase):
  """The format of Skywork-o1-Open-PRM."""

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.body, self.head = tiny_qwen.save_value_head(self.folder, 3)

  def _scorer(self, **settings):
    return process_reward.ProcessRewardModel(
        self.folder, process_reward.Settings(batch_size=2, **settings)
    )

  def test_each_score_is_that_of_the_answer_so_far(self):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder)
    weight, bias = (
        x.detach().double().numpy() for x in (self.head.weight, self.head.bias)
    )
    found = self._scorer().score(_ANSWERS)
    for (question, steps), scores in zip(_ANSWERS, found, strict=True):
      lengths = []
      for t, score in enumerate(scores.scores):
        lines = [question, *(x.strip() for x in steps[: t + 1])]
        text = '<|endoftext|>' + ''.join(f'{line}\n' for line in lines)
        ids = tokenizer.encode(text, add_special_tokens=False)
        with torch.no_grad():
          states = self.body(input_ids=torch.tensor([ids])).last_hidden_state
        value = (weight @ states[0, -1].double().numpy() + bias)[0]
        np.testing.assert_allclose(score, 1 / (1 + np.exp(-value)), atol=1e-5)
        lengths.append(len(ids))
      np.testing.assert_array_equal(np.cumsum(scores.read), lengths)
    self.assertGreater(np.ptp(np.concatenate([x.scores for x in found])), 0.01)

  def test_a_line_break_within_a_step_is_no_end(self):
    (scores,) = self._scorer().score([('q', ['a\nb\n\n', 'c'])])
    # One token each: bos, q, line break; a, line break, b, line break.
    np.testing.assert_array_equal(scores.read, [7, 2])

  def test_the_limit_of_length(self):
    self._scorer(max_length=5).score([('q', ['a'])])
    with self.assertRaisesRegex(ValueError, '5 tokens .* at most 4'):
      self._scorer(max_length=4).score([('q', ['a'])])

  def test_a_head_of_two_values(self):
    tiny_qwen.save_value_head(self.folder, 3, num_values=2)
    with self.assertRaisesRegex(ValueError, 'has 2 values; it must have 1'):
      self._scorer()

  def test_a_tokenizer_without_a_first_token(self):
    path = self.folder / 'tokenizer_config.json'
    saved = json.loads(path.read_text())
    del saved['bos_token']
    path.write_text(json.dumps(saved))
    with self.assertRaisesRegex(ValueError, 'no bos_token'):
      self._scorer()

  def test_weights_of_the_other_format(self):
    other = pathlib.Path(self.create_tempdir().full_path)
    tiny_qwen.save_process_reward(other, 3)
    (other / 'model.safetensors').replace(self.folder / 'model.safetensors')
    with self.assertRaisesRegex(ValueError, 'no weights v_head'):
      self._scorer()


if __name__ == '__main__':
  absltest.main()
