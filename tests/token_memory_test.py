"""Tests of the memory of greedy tokens, and that it changes no answer."""

import asyncio
import zlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import types
from routing.engines import token_memory
from routing.grading import equivalence
from routing.lm import tokenizer as tokenizer_lib
from routing.rollout import step_requests
from tests import token_models
from third_party.speculative_sampling import decoding as speculative
from third_party.token_router import decoding as token_router

_TOKENIZER = tokenizer_lib.Tokenizer()


def _hashed(salt):
  """Returns a model of eight frequent tokens, of which one ends the answer."""

  def log_probs(text):
    drawn = zlib.crc32(bytes([salt, *text[-3:]]))
    logits = np.full(len(_TOKENIZER), -9.0)
    logits[1:9] = np.random.default_rng(drawn).normal(size=8)
    return (logits - np.logaddexp.reduce(logits)).astype(np.float32)

  return log_probs


class _Counted(token_models.Table):
  """A table that counts the calls of its sessions, but not what they find."""

  num_calls = 0

  async def next_log_probs(self, *args):
    self.num_calls += 1
    return await super().next_log_probs(*args)

  async def write(self, *args):
    self.num_calls += 1
    return await super().write(*args)


class _Remembered:
  """An engine whose token sessions remember."""

  def __init__(self, engine, memory):
    self.engine, self.route, self.name = engine, engine.route, engine.name
    self.memory = memory

  def open_tokens(self, question):
    return self.memory.session(self.engine.open_tokens(question))


def _question():
  """Returns a question that the tokenizer knows."""
  return _TOKENIZER.decode([5, 6, 7, 8])


def _pair():
  return [_Counted(route, _hashed(route), 64) for route in (0, 1)]


def _answers(engines, temperature=0.0):
  """Returns the answers of two systems, at several values of their knobs."""

  async def run():
    given = dict(
        seed=0,
        sampling=step_requests.Sampling(temperature, max_tokens=40),
        grade=equivalence.exact,
    )
    problem = types.Problem('0', _question(), '1')
    found = [
        await speculative.answer(problem, engines, num_drafts=g, **given)
        for g in (0, 1, 4, 6)
    ]
    width = len(_TOKENIZER) + token_router.TOP_K + 2
    weights = np.random.default_rng(1).normal(size=width)
    found += [
        await token_router.answer(
            problem,
            engines,
            threshold=threshold,
            weights=tuple(weights),
            constant=0.0,
            **given,
        )
        for threshold in (np.inf, 0.9, 0.5, 0.1, -np.inf)
    ]
    return found

  return asyncio.run(run())


class TokenMemoryTest(parameterized.TestCase):

  @parameterized.parameters(0.0, 0.7)
  def test_no_answer_and_no_charge_changes(self, temperature):
    want = _answers(_pair(), temperature)
    engines = [_Remembered(x, token_memory.TokenMemory()) for x in _pair()]
    for _ in range(2):  # The second time, much is known.
      got = _answers(engines, temperature)
      for mine, other in zip(got, want, strict=True):
        charges = lambda answer: [
            (x.kind, x.route, x.read, x.cached, x.written) for x in answer.calls
        ]
        self.assertEqual(charges(mine), charges(other))
        self.assertEqual(
            [x.token_ids for x in mine.steps],
            [x.token_ids for x in other.steps],
        )
        for step, same in zip(mine.steps, other.steps, strict=True):
          np.testing.assert_array_equal(step.log_probs, same.log_probs)
          np.testing.assert_array_equal(step.top_log_probs, same.top_log_probs)

  def test_greedy_tokens_are_computed_once(self):
    plain = _pair()
    _answers(plain)
    engines = [_Remembered(x, token_memory.TokenMemory()) for x in _pair()]
    _answers(engines)
    first = [x.engine.num_calls for x in engines]
    for count, alone in zip(first, plain, strict=True):
      self.assertLess(count, alone.num_calls)
    _answers(engines)
    self.assertEqual([x.engine.num_calls for x in engines], first)

  def test_a_segment_ends_where_the_memory_does(self):
    table = _Counted(0, _hashed(0), 64)
    memory = token_memory.TokenMemory()

    async def write(count):
      async with memory.session(table.open_tokens(_question())) as session:
        return await session.write(
            (), count, temperature=0, rng=np.random.default_rng(0)
        )

    short = asyncio.run(write(2))
    whole = asyncio.run(write(30))
    self.assertEqual(whole.ids[:2], short.ids)
    self.assertEqual(whole.ids, asyncio.run(write(30)).ids)
    self.assertEqual(table.num_calls, 2)
    self.assertEqual(whole.usage.written, len(whole.ids))

  def test_the_oldest_questions_are_forgotten(self):
    memory = token_memory.TokenMemory(max_rows=5)
    rows = np.zeros((3, 4))
    for question in range(3):
      memory.add((question,), [b'', b'a', b'ab'], rows, 3.0)
    self.assertLen(memory, 3)
    self.assertEmpty(memory.known((0,)))
    self.assertEqual(memory.known((2,))[b'a'][1], 1.0)
    # What is stored stays.
    memory.add((2,), [b'a'], rows[:1] + 1, 9.0)
    self.assertLen(memory, 3)
    self.assertEqual(memory.known((2,))[b'a'][0][0], 0.0)


if __name__ == '__main__':
  absltest.main()
