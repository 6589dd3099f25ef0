"""Token-level routing: its rule by hand, its labels, limits and charges."""

import asyncio
import math
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import protocols
from routing import types
from routing.grading import equivalence
from routing.lm import tokenizer as tokenizer_lib
from routing.outcomes import live_answers
from routing.rollout import driver
from routing.rollout import step_requests
from routing.routers import fixed
from routing.routers import logistic
from routing.tasks import arithmetic
from tests import embedded_pair
from tests import token_models
from third_party.token_router import decoding
from third_party.token_router import labels
from third_party.token_router import methods

_TOKENIZER = tokenizer_lib.Tokenizer()
_V = len(_TOKENIZER)
_EOS = _TOKENIZER.eos_id
_HASH, _ONE, _TWO = _TOKENIZER.encode('#### 12')
_QUESTION = ': 57 * 7 = '
_NUM_PROMPT = len(_TOKENIZER.encode(_QUESTION))
_PROBLEM = types.Problem('p', _QUESTION, '12')
_SAMPLING = step_requests.Sampling(max_tokens=16)


def _pair(small, large):
  """Returns two engines, each given by the next token of an answer so far."""

  def engine(route, following):
    def log_probs(tokens):
      row = np.full(_V, math.log(0.01))
      row[following(tuple(tokens[_NUM_PROMPT:]))] = math.log(0.9)
      return row

    return token_models.Table(route, log_probs)

  return [engine(0, small), engine(1, large)]


def _small(text):
  """Writes 1 wherever a digit is due: '#### 11'."""
  return (_HASH, _ONE, _ONE, _EOS)[min(len(text), 3)]


def _large(text):
  """Writes '#### 12', and after a wrong first digit '#### 2'."""
  if len(text) == 2 and text[1] != _ONE:
    return _EOS
  return (_HASH, _ONE, _TWO, _EOS)[min(len(text), 3)]


def _answer(engines, problem=_PROBLEM, **fields):
  given = dict(
      seed=0,
      sampling=_SAMPLING,
      grade=equivalence.exact,
      threshold=0.5,
      # Doubts every 1, and no other token.
      weights=10.0 * np.eye(_V + decoding.TOP_K + 2)[_ONE],
      constant=-5.0,
  )
  return asyncio.run(decoding.answer(problem, engines, **given | fields))


def _counts(trajectory):
  return [
      (x.kind, x.route, x.read, x.in_context, x.written)
      for x in trajectory.calls
  ]


class RuleTest(parameterized.TestCase):

  @parameterized.parameters(1, 2, 8)
  def test_by_hand(self, chunk):
    found = _answer(_pair(_small, _large), chunk=chunk)
    self.assertEqual(found.text, '#### 12')
    self.assertTrue(found.is_correct)
    q = _NUM_PROMPT
    calls = _counts(found)
    if chunk == 8:
      self.assertEqual(
          calls,
          [
              # It writes '#### ' and 1, and the 1 is doubted.
              ('draft', 0, q, 0, 2),
              # The large model reads question and '#### ', and writes 1 too.
              ('step', 1, q + 1, 0, 1),
              # The token of the large model is the small one's own: no reading.
              ('draft', 0, 0, q + 2, 1),
              ('step', 1, 0, q + 2, 1),  # It writes 2.
              ('step', 0, 1, q + 2, 1),  # The small model reads 2, and ends.
          ],
      )
    # Tokens computed after a doubted one are not charged: the sums are equal.
    for route, expected in ((0, (q + 1, 4)), (1, (q + 1, 2))):
      sums = np.sum([(x[2], x[4]) for x in calls if x[1] == route], axis=0)
      self.assertEqual(tuple(sums), expected)

  def test_extremes_are_the_models_alone(self):
    engines = _pair(_small, _large)
    alone = _answer(engines, threshold=math.inf)
    self.assertEqual(alone.text, '#### 11')
    self.assertEqual(_counts(alone), [('step', 0, _NUM_PROMPT, 0, 4)])
    every = _answer(engines, threshold=-math.inf)
    self.assertEqual(every.text, '#### 12')
    self.assertEqual(sum(x.written for x in every.calls if x.route == 1), 4)

  def test_features_by_hand(self):
    p = np.full(_V, 0.1 / (_V - 1))
    p[_TWO] = 0.9
    found = decoding.features([_ONE], np.log(p)[None])[0]
    np.testing.assert_array_equal(found[:_V], np.eye(_V)[_ONE])
    rest = math.log(0.1 / (_V - 1))
    np.testing.assert_allclose(
        found[_V:],
        [math.log(0.9), *[rest] * 4, rest, -(0.9 * math.log(0.9) + 0.1 * rest)],
    )

  @parameterized.parameters(
      (dict(chunk=0), 'chunk is 0; allowed'),
      (dict(engines=1), 'Got 1 engines; allowed: 2'),
  )
  def test_bad_input(self, given, message):
    engines = _pair(_small, _large)[: given.pop('engines', 2)]
    with self.assertRaisesRegex(ValueError, message):
      _answer(engines, **given)


def _labels(engines, reference='12'):
  answering = live_answers.Answering(
      make_engines=lambda: engines,
      protocol=None,
      accounting=None,
      sampling=_SAMPLING,
      grade=equivalence.exact,
  )
  problem = types.Problem('p', _QUESTION, reference)
  return asyncio.run(labels.of_problem(problem, engines, answering))


class MethodTest(absltest.TestCase):

  def test_tokens_are_labelled_once_for_all_settings_and_seeds(self):
    calls = []

    def find(train):
      calls.append(train)
      rows = np.random.default_rng(0).normal(size=(64, 8))
      return rows, rows[:, 0] > 1

    self.enter_context(
        mock.patch.object(
            methods.logistic,
            'fit',
            lambda *rows, **setting: logistic.Linear(np.zeros(8), 0.0),
        )
    )
    method = methods.method(find)
    train = mock.Mock(live_problems=[_PROBLEM], answering=None)
    for seed, setting in enumerate(method.settings[:3]):
      method.fit(train, setting=setting, seed=seed)
    self.assertLen(calls, 1)
    # Other problems have labels of their own.
    train.live_problems = [types.Problem('p', 'another', '1')]
    method.fit(train, setting=method.settings[0], seed=0)
    self.assertLen(calls, 2)


class LabelsTest(absltest.TestCase):

  def test_by_hand(self):
    # On the path '#### 12' the small model differs at the last digit only, and
    # '#### 11' is wrong.
    rows, divergent = _labels(_pair(_small, _large))
    self.assertEqual(divergent.tolist(), [False, False, True, False])
    self.assertEqual(rows[:, :_V].argmax(1).tolist(), [_HASH, _ONE, _ONE, _EOS])

  def test_a_difference_that_changes_no_answer_is_neutral(self):
    # The small model begins with a digit; the large one then goes on as before.
    def detour(text):
      return _TWO if not text else _small(text)

    def large(text):
      return _large(text[1:] if text[:1] == (_TWO,) else text)

    _, divergent = _labels(_pair(detour, large))
    self.assertEqual(divergent.tolist(), [False, False, True, False])

  def test_no_labels_where_the_path_is_wrong(self):
    self.assertIsNone(_labels(_pair(_small, _large), reference='13'))


class ShippedPairTest(absltest.TestCase):

  def test_extremes_are_what_the_models_write_alone(self):
    problem = arithmetic.load(0, test=1)['test'][0]
    routers = {math.inf: fixed.SmallRouter(), -math.inf: fixed.LargeRouter(1)}

    async def run():
      engines = embedded_pair.make_engines()
      fields = dict(
          seed=0,
          sampling=step_requests.Sampling(max_tokens=176),
          grade=equivalence.exact,
      )
      classifier = dict(weights=[0.0] * (_V + decoding.TOP_K + 2), constant=0.0)
      try:
        for threshold, router in routers.items():
          routed = await decoding.answer(
              problem, engines, threshold=threshold, **classifier, **fields
          )
          alone = await driver.answer(
              problem,
              router,
              engines,
              protocol=protocols.Protocol('escalate', 'commit'),
              accounting=None,
              **fields,
          )
          self.assertEqual(routed.text, alone.text)
      finally:
        for engine in engines:
          await engine.close()

    asyncio.run(run())


if __name__ == '__main__':
  absltest.main()
