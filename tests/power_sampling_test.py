"""Power sampling: its acceptance by hand, its law, its limits and its cost."""

import asyncio
import itertools
import math

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import types
from routing.grading import equivalence
from routing.lm import export
from routing.lm import tokenizer as tokenizer_lib
from routing.rollout import step_requests
from tests import token_models
from third_party.power_sampling import chain

_V = len(tokenizer_lib.VOCABULARY)
_EOS = tokenizer_lib.Tokenizer.eos_id
_A, _B = 7, 8  # Tokens of digits.
_QUESTION = ': 57 * 7 = '
_PROBLEM = types.Problem('p', _QUESTION, '0')
_NUM_PROMPT = len(tokenizer_lib.Tokenizer().encode(_QUESTION))


def _toy(tokens):
  """Texts of A and B: after an A the text is likely to end, or to go on in B.

  What is likely at first leads to spread-out texts, so that sharpening token by
  token differs from sharpening whole texts.
  """
  answer = tokens[_NUM_PROMPT:]
  a, b, end = {
      (): (0.6, 0.4, 0.0),
      (_A,): (0.35, 0.35, 0.3),
      (_B,): (0.9, 0.05, 0.05),
  }.get(tuple(answer), (0.3, 0.1, 0.6))
  row = np.full(_V, -np.inf)
  with np.errstate(divide='ignore'):
    row[[_A, _B, _EOS]] = np.log([a, b, end])
  return row


def _table():
  return token_models.Table(0, _toy)


def _sharpened(law, alpha):
  """Returns the law proportional to p^alpha."""
  weights = {text: p**alpha for text, p in law.items()}
  total = sum(weights.values())
  return {text: weight / total for text, weight in weights.items()}


def _draw(engine, count, *, max_tokens, **fields):
  """Returns the tokens of `count` answers, and the last trajectory."""

  async def run():
    found = []
    for sample in range(count):
      found.append(
          await chain.answer(
              _PROBLEM,
              [engine],
              seed=0,
              sampling=step_requests.Sampling(max_tokens=max_tokens),
              grade=equivalence.exact,
              sample=sample,
              **fields,
          )
      )
    return found

  found = asyncio.run(run())
  ids = [tuple(i for step in x.steps for i in step.token_ids) for x in found]
  return ids, found[-1]


def _text(engine, ids):
  """Returns a text with its distributions."""
  start = tokenizer_lib.Tokenizer().encode(_QUESTION)
  rows = [engine.after([*start, *ids[:i]]) for i in range(len(ids))]
  return chain.Text(tuple(ids), np.array(rows))


class AcceptanceTest(parameterized.TestCase):

  def test_by_hand(self):
    # x = A and end, x' = B, A, A; both are written anew from their start.
    # alpha = 2. p(x) = .6 x .3, p(x') = .4 x .9 x .3. At temperature 1/2:
    #   after nothing: .36 and .16 of .52;
    #   after A: .09 / (2 x .35^2 + .3^2) = .09 / .335 for the end;
    #   after B: .81 / (.81 + 2 x .05^2) = .81 / .815 for A;
    #   after more: .09 / (.09 + .01 + .36) = .09 / .46 for A.
    engine = _table()
    old, new = _text(engine, (_A, _EOS)), _text(engine, (_B, _A, _A))
    p_old, p_new = 0.6 * 0.3, 0.4 * 0.9 * 0.3
    q_old = 0.36 / 0.52 * 0.09 / 0.335
    q_new = 0.16 / 0.52 * 0.81 / 0.815 * 0.09 / 0.46
    ratio = p_new**2 * q_old * 2 / (p_old**2 * q_new * 3)
    found = chain.log_acceptance(old, new, 0, 2.0)
    self.assertAlmostEqual(found, math.log(ratio))
    back = chain.log_acceptance(new, old, 0, 2.0)
    self.assertAlmostEqual(found, -back)

  @parameterized.parameters(1.0, 2.0, 4.0)
  def test_moves_leave_the_sharpened_law_unchanged(self, alpha):
    # The transition matrix of a move, from its definition: every start, every
    # continuation at temperature 1 / alpha.
    engine = _table()
    law = token_models.law(engine, _QUESTION, 3)
    texts = list(law)
    known = {ids: _text(engine, ids) for ids in texts}
    matrix = np.zeros((len(texts), len(texts)))
    for i, old in enumerate(texts):
      for start, (j, new) in itertools.product(
          range(len(old)), enumerate(texts)
      ):
        if new[:start] != old[:start] or len(new) <= start:
          continue
        proposed = math.exp(known[new].log_probability(start, 1 / alpha)) / len(
            old
        )
        ratio = chain.log_acceptance(known[old], known[new], start, alpha)
        matrix[i, j] += proposed * min(1.0, math.exp(ratio))
    matrix += np.diag(1 - matrix.sum(axis=1))
    target = np.array([_sharpened(law, alpha)[ids] for ids in texts])
    np.testing.assert_allclose(target @ matrix, target, atol=1e-12)
    # No other law stays: from anywhere the chain comes to this one.
    np.testing.assert_allclose(
        np.linalg.matrix_power(matrix, 5_000),
        np.tile(target, (len(texts), 1)),
        atol=1e-9,
    )


class AnswerTest(parameterized.TestCase):

  def test_law_of_the_toy_model(self):
    engine = _table()
    law = token_models.law(engine, _QUESTION, 3)
    seen, _ = _draw(
        engine, 1_000, max_tokens=3, alpha=2.0, block_size=3, num_moves=10
    )
    target = _sharpened(law, 2.0)
    self.assertGreater(token_models.chi_square(target, seen), 0.001)
    self.assertLess(token_models.chi_square(law, seen), 1e-6)
    # Blocks of one token end at the same law.
    seen, _ = _draw(
        engine, 500, max_tokens=3, alpha=2.0, block_size=1, num_moves=10
    )
    self.assertGreater(token_models.chi_square(target, seen), 0.001)

  def test_law_of_the_shipped_model(self):
    config, params = export.load_pretrained(export.shipped('small'))
    engine = token_models.Table(0, token_models.of_params(params, config))
    target = _sharpened(token_models.law(engine, _QUESTION, 2), 2.0)
    seen, _ = _draw(
        engine, 800, max_tokens=2, alpha=2.0, block_size=2, num_moves=8
    )
    self.assertGreater(token_models.chi_square(target, seen), 0.001)

  def test_without_moves_tokens_are_sharpened_one_by_one(self):
    engine = _table()
    cold = token_models.law(engine, _QUESTION, 3, temperature=0.5)
    seen, _ = _draw(
        engine, 1_000, max_tokens=3, alpha=2.0, block_size=3, num_moves=0
    )
    self.assertGreater(token_models.chi_square(cold, seen), 0.001)
    target = _sharpened(token_models.law(engine, _QUESTION, 3), 2.0)
    self.assertLess(token_models.chi_square(target, seen), 1e-6)

  def test_at_power_one_it_is_the_model_itself(self):
    engine = _table()
    seen, _ = _draw(
        engine, 1_000, max_tokens=3, alpha=1.0, block_size=2, num_moves=3
    )
    law = token_models.law(engine, _QUESTION, 3)
    self.assertGreater(token_models.chi_square(law, seen), 0.001)

  def test_every_proposal_is_charged(self):
    def never_ends(tokens):
      row = np.full(_V, -np.inf)
      row[[_A, _B]] = math.log(0.5)
      return row

    _, found = _draw(
        token_models.Table(0, never_ends),
        1,
        max_tokens=6,
        alpha=1.0,
        block_size=4,
        num_moves=3,
    )
    # Two blocks, of 4 and of 2 tokens, each with three proposals.
    self.assertEqual(
        [c.kind for c in found.calls], ['step', *['draft'] * 3] * 2
    )
    self.assertEqual(
        [c.written for c in found.calls if c.kind == 'step'], [4, 2]
    )
    # A proposal ends where the text ends, and begins in it: what it keeps is
    # in its context or read again.
    for call, limit in zip(found.calls, [4] * 4 + [6] * 4, strict=True):
      self.assertEqual(
          call.read + call.in_context + call.written, _NUM_PROMPT + limit
      )
    self.assertEqual(found.calls[0].read, _NUM_PROMPT)
    self.assertEqual(sum(step.num_tokens for step in found.steps), 6)

  def test_what_is_not_allowed(self):
    for fields, message in (
        (dict(alpha=0.0), 'alpha is 0.0'),
        (dict(block_size=0), 'block_size is 0'),
        (dict(num_moves=-1), 'num_moves is -1'),
        (dict(route=1), 'The route is 1'),
    ):
      with self.assertRaisesRegex(ValueError, message):
        _draw(_table(), 1, max_tokens=3, **fields)


if __name__ == '__main__':
  absltest.main()
