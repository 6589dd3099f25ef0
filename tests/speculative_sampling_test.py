"""Speculative sampling: its rule by hand, its law, and what it is charged."""

import asyncio
import functools

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import protocols
from routing import types
from routing.grading import equivalence
from routing.lm import export
from routing.rollout import driver
from routing.rollout import step_requests
from routing.routers import fixed
from routing.tasks import arithmetic
from tests import embedded_pair
from tests import token_models
from third_party.speculative_sampling import decoding

_GREEDY = step_requests.Sampling(max_tokens=176)
# Both models are unsure how this goes on, and differ.
_QUESTION = ': 57 * 7 = '


class Uniform:
  """A source of the given numbers, in order."""

  def __init__(self, *numbers):
    self._numbers = list(numbers)

  def random(self):
    return self._numbers.pop(0)


def _answer(problem, engines, **fields):
  given = dict(seed=0, sampling=_GREEDY, grade=equivalence.exact) | fields
  return decoding.answer(problem, engines, **given)


@functools.cache
def _tables():
  """Returns the shipped pair as engines that remember what they computed."""
  return [
      token_models.Table(
          route,
          token_models.of_params(
              *export.load_pretrained(export.shipped(name))[::-1]
          ),
      )
      for route, name in enumerate(('small', 'large'))
  ]


def _on_pair(problems, **fields):
  """Answers problems with the shipped pair, speculatively and by the large."""

  async def run():
    engines = embedded_pair.make_engines()
    try:
      return await asyncio.gather(
          asyncio.gather(*(_answer(p, engines, **fields) for p in problems)),
          asyncio.gather(
              *(
                  driver.answer(
                      p,
                      fixed.LargeRouter(1),
                      engines,
                      protocol=protocols.Protocol('escalate', 'commit'),
                      accounting=None,
                      grade=equivalence.exact,
                      seed=0,
                      sampling=_GREEDY,
                  )
                  for p in problems
              )
          ),
      )
    finally:
      for engine in engines:
        await engine.close()

  return asyncio.run(run())


class RuleTest(parameterized.TestCase):

  # q = (.6, .3, .1), p = (.3, .3, .4): token 0 is kept with probability 1/2,
  # the others always; the residual (p - q)+ is all on token 2.
  @parameterized.parameters(
      # Token 0 and 0.49 < 1/2: kept. The last token is from p: .4 is in
      # (.3, .6], which is token 1.
      (0, (0.49, 0.4), ((0, 1), True)),
      # 0.5 is not below 1/2: replaced by the residual, whatever is drawn.
      (0, (0.5, 0.0), ((2,), True)),
      (0, (0.9, 0.99), ((2,), True)),
      # Token 2: p / q = 4, always kept. .99 is in (.6, 1]: token 2.
      (2, (0.99, 0.99), ((2, 2), True)),
  )
  def test_by_hand(self, draft, numbers, expected):
    q, p = np.array([[0.6, 0.3, 0.1]]), np.array([[0.3, 0.3, 0.4]] * 2)
    self.assertEqual(
        decoding.verify([draft], q, p, Uniform(*numbers)), expected
    )

  def test_a_first_rejection_ends_the_drafts(self):
    q, p = np.array([[1.0, 0.0]] * 3), np.array([[1.0, 0.0]] + [[0.0, 1.0]] * 3)
    self.assertEqual(
        decoding.verify([0, 0, 0], q, p, Uniform(0.9, 0.9, 0.0)),
        ((0, 1), True),
    )

  def test_nothing_follows_the_end_of_an_answer(self):
    one = np.array([[0.0, 1.0]])
    self.assertEqual(
        decoding.verify([1], one, one, Uniform(0.9)), ((1,), False)
    )

  def test_the_law_of_one_token_is_exact(self):
    # P(x) = q(x) min(1, p(x) / q(x)) + P(rejected) residual(x) = p(x), here
    # from the rule itself on a fine grid of both random numbers.
    q, p = np.array([[0.5, 0.3, 0.2]]), np.array([[0.2, 0.45, 0.35]])
    grid = (np.arange(200) + 0.5) / 200
    found = np.zeros(3)
    for draft, weight in enumerate(q[0]):
      for u in grid:
        # The second number matters after a rejection only.
        for v in grid if u * q[0, draft] >= p[0, draft] else (0.5,):
          (token, *_), _ = decoding.verify([draft], q, p, Uniform(u, v))
          is_kept = u * q[0, draft] < p[0, draft]
          found[token] += weight / 200 / (1 if is_kept else 200)
    np.testing.assert_allclose(found, p[0], atol=2e-3)


class AnswerTest(parameterized.TestCase):

  def test_law_is_that_of_the_large_model(self):
    tables = _tables()
    problem = types.Problem('p', _QUESTION, '0')
    sampling = step_requests.Sampling(temperature=1.0, max_tokens=3)

    async def run(sample):
      return await _answer(
          problem,
          tables,
          sampling=sampling,
          num_drafts=2,
          sample=sample,
      )

    async def run_all():
      return [await run(sample) for sample in range(2_000)]

    found = asyncio.run(run_all())
    seen = [tuple(i for step in x.steps for i in step.token_ids) for x in found]
    p_values = [
        token_models.chi_square(token_models.law(x, _QUESTION, 3), seen)
        for x in tables
    ]
    self.assertGreater(p_values[1], 0.001)
    self.assertLess(p_values[0], 1e-12)  # It is not the small model's.
    self.assertBetween(decoding.acceptance_rate(found), 0.2, 0.9)

  def test_greedy_is_the_large_model_alone(self):
    problems = arithmetic.load(0, test=8)['test']
    found, alone = _on_pair(problems, num_drafts=4)
    for a, b in zip(found, alone, strict=True):
      self.assertEqual(a.text, b.text)
      self.assertEqual(a.is_correct, b.is_correct)
      self.assertEqual(
          [x.token_ids for x in a.steps], [x.token_ids for x in b.steps]
      )
      self._check_calls(a, b, 4)
    self.assertBetween(decoding.acceptance_rate(found), 0.5, 1.0)

  def _check_calls(self, found, alone, num_drafts):
    """Compares the calls with what the large model alone reads and writes."""
    length = sum(step.num_tokens for step in alone.steps)
    drafts = [c for c in found.calls if c.kind == 'draft']
    checks = [c for c in found.calls if c.kind == 'step']
    self.assertEqual({c.route for c in drafts}, {0})
    self.assertEqual({c.route for c in checks}, {1})
    self.assertEqual([c.kind for c in found.calls[:2]], ['draft', 'step'])
    prompt = alone.calls[0].read
    # The large model reads the question and every draft, but for the token
    # that ends the answer; the small one the question and what it did not
    # draft itself.
    drafted = sum(c.written for c in drafts)
    ended = checks[-1].written == 0
    self.assertEqual(sum(c.read for c in checks), prompt + drafted - ended)
    own = sum(c.written for c in checks)
    self.assertLessEqual(sum(c.read for c in drafts), prompt + own)
    self.assertGreaterEqual(sum(c.read for c in drafts), prompt + own - 1)
    self.assertLess(own, length)
    self.assertLessEqual(max(c.written for c in drafts), num_drafts)
    self.assertEqual({c.cached for c in found.calls}, {0})
    # Each verification has the text before it in its context, and each round
    # adds at least one token and at most the drafts and one more.
    starts = [c.in_context for c in checks]
    self.assertEqual(starts[0], 0)
    added = np.diff([prompt, *starts[1:], prompt + length])
    self.assertBetween(added.min(), 1, added.max())
    self.assertLessEqual(added.max(), num_drafts + 1)

  @parameterized.parameters(0, 1)
  def test_without_drafts_only_the_large_model_is_called(self, temperature):
    tables = _tables()
    sampling = step_requests.Sampling(
        temperature=float(temperature), max_tokens=3
    )
    found = asyncio.run(
        _answer(
            types.Problem('p', _QUESTION, '0'),
            tables,
            sampling=sampling,
            num_drafts=0,
        )
    )
    self.assertEqual([c.written for c in found.calls], [1, 1, 1])
    self.assertEqual({c.route for c in found.calls}, {1})
    with self.assertRaisesRegex(ValueError, 'No token was drafted'):
      decoding.acceptance_rate([found])

  def test_what_is_not_allowed(self):
    problem = types.Problem('p', _QUESTION, '0')
    tables = _tables()
    with self.assertRaisesRegex(ValueError, 'num_drafts is -1'):
      asyncio.run(_answer(problem, tables, num_drafts=-1))
    with self.assertRaisesRegex(ValueError, 'Got 1 engines'):
      asyncio.run(_answer(problem, tables[:1]))

    class Steps:
      name, route = 'server', 1

    with self.assertRaisesRegex(ValueError, "'server'.*no next-token"):
      asyncio.run(_answer(problem, [tables[0], Steps()]))


if __name__ == '__main__':
  absltest.main()
