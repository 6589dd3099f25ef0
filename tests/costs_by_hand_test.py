"""Tests of costs by hand: prices by size, contexts, three models, edges."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import costs
from routing import types
from tests import costs_test

_SMALL, _LARGE = costs_test._SPECS
_MEDIUM = costs.RouteSpec(
    name='medium',
    parameters=300,
    num_layers=3,
    attention_width=10,
    price_input=4.0,
    price_cached=0.5,
    price_output=20.0,
)
_THREE = (_SMALL, _MEDIUM, _LARGE)


class SpecTest(absltest.TestCase):

  def test_a_dollar_per_million_tokens_and_million_parameters(self):
    got = costs.spec_by_parameters('x', 3_000_000, 2, 64)
    want = costs.RouteSpec(
        name='x',
        parameters=3_000_000,
        num_layers=2,
        attention_width=64,
        price_input=0.6,
        price_cached=0.06,
        price_output=3.0,
    )
    for field in dataclasses.fields(costs.RouteSpec):
      a, b = (getattr(x, field.name) for x in (got, want))
      if isinstance(b, float):
        self.assertAlmostEqual(a, b, places=12, msg=field.name)
      else:
        self.assertEqual(a, b)

  def test_twice_the_parameters_cost_twice_the_price(self):
    one, two = (costs.spec_by_parameters('x', n, 1, 8) for n in (10, 20))
    usage = types.Usage(0, 7, 5, 3)
    self.assertAlmostEqual(
        costs.call_cost(usage, two, 'price')
        / costs.call_cost(usage, one, 'price'),
        2.0,
    )


class FlopsTest(parameterized.TestCase):

  @parameterized.parameters(
      # Processed tokens, and the sum of the lengths of their contexts.
      (dict(read=1, cached=0, written=0), 1, 0),
      (dict(read=2, cached=0, written=0), 2, 0 + 1),
      (dict(read=0, cached=3, written=1), 1, 3),
      (dict(read=1, cached=2, written=1, in_context=4), 2, 6 + 7),
      (dict(read=0, cached=9, written=0), 0, 0),
  )
  def test_each_token_is_charged_with_its_context(
      self, counts, tokens, contexts
  ):
    # Small: 100 parameters; 2 layers, 8 wide.
    usage = types.Usage(0, **counts)
    got = costs.call_cost(usage, _SMALL, 'flops')
    self.assertEqual(got, 2 * 100 * tokens + 2 * 2 * 8 * contexts)
    # Medium: 300 parameters; 3 layers, 10 wide.
    got = costs.call_cost(usage, _MEDIUM, 'flops')
    self.assertEqual(got, 2 * 300 * tokens + 2 * 3 * 10 * contexts)


class CallTest(parameterized.TestCase):

  @parameterized.parameters(*costs.COST_METRICS)
  def test_a_known_metric_is_returned(self, metric):
    self.assertEqual(costs.check_metric(metric), metric)

  @parameterized.parameters(*costs.COST_METRICS)
  def test_no_tokens_and_no_calls_cost_nothing(self, metric):
    nothing = types.Usage(0, 0, 0, 0)
    self.assertEqual(costs.call_cost(nothing, _SMALL, metric), 0.0)
    self.assertEqual(costs.total_cost([], _THREE, metric), 0.0)

  @parameterized.parameters(*costs.COST_METRICS)
  def test_one_number_of_seconds_is_broadcast_to_many_calls(self, metric):
    usage = types.Usage(0, np.array([1, 2, 3]), 0, 4, 0.5)
    got = costs.call_cost(usage, _SMALL, metric)
    one = [
        costs.call_cost(types.Usage(0, x, 0, 4, 0.5), _SMALL, metric)
        for x in (1, 2, 3)
    ]
    if metric in ('price', 'flops', 'latency'):
      np.testing.assert_allclose(got, one, rtol=1e-12)
    else:  # Tokens that are read do not count.
      self.assertEqual(got, 400.0)
    self.assertEqual(np.asarray(got).dtype, np.float64)

  def test_each_call_is_charged_at_its_own_model(self):
    calls = [types.Usage(route, 10, 4, 2) for route in (2, 0, 1)]
    # 10 * 10 + 4 * 1 + 2 * 50 = 204; 10 + .4 + 10 = 20.4; 40 + 2 + 40 = 82.
    got = costs.total_cost(calls, _THREE, 'price')
    self.assertAlmostEqual(got * 1e6, 204 + 20.4 + 82, places=9)

  def test_a_completion_is_charged_for_reading_its_whole_prefix(self):
    completion = types.Completion(1, 1, 0, '', 13, 4, 0.4, True)
    for metric, want in (
        ('price', (13 * 4 + 4 * 20) / 1e6),
        # 17 new tokens with 0..16 tokens of context, 136 in all.
        ('flops', 2 * 300 * 17 + 2 * 3 * 10 * 136),
        ('decoded_tokens', 300 * 4),
        ('latency', 0.4),
    ):
      got = costs.completion_cost(completion, _THREE, metric)
      self.assertAlmostEqual(got, want, places=12)

  def test_what_all_prompts_begin_with_is_charged_as_cached(self):
    whole = types.Completion(1, 1, 0, '', 13, 4, 0.4, True)
    shared = dataclasses.replace(whole, read=3, cached=10)
    spec = _THREE[1]
    saved = 10 * (spec.price_input - spec.price_cached) / 1e6
    self.assertAlmostEqual(
        costs.completion_cost(whole, _THREE, 'price')
        - costs.completion_cost(shared, _THREE, 'price'),
        saved,
        places=12,
    )


class LadderTest(parameterized.TestCase):

  def ladder(self, completions):
    plain = costs_test._ladder(completions)
    last = costs_test._step(0, 15, 4, 0.3)
    return dataclasses.replace(plain, steps=(*plain.steps, last))

  def make(self, step, route, sample=0, written=1):
    return types.Completion(step, route, sample, '', 10, written, 0.5, True)

  def test_three_models_and_a_last_step_without_a_decision(self):
    # The small model has 100 parameters and writes steps of 3, 2 and 4 tokens.
    # Only the first two are followed by a decision.
    made = [
        self.make(t, route, written=written)
        for t, route, written in ((0, 1, 5), (0, 2, 6), (1, 1, 7), (1, 2, 8))
    ]
    got = costs.ladder_costs(
        self.ladder(made), _THREE, 'decoded_tokens', draft_is_paid=True
    )
    np.testing.assert_allclose(got.drafts, [300, 500])
    want = [[300 + 1500, 300 + 6000], [500 + 2100, 500 + 8000]]
    np.testing.assert_allclose(got.handover, want)
    self.assertEqual(got.stay, 900)
    self.assertEqual(got.all_large, 6000)
    got = costs.ladder_costs(
        self.ladder(made), _THREE, 'decoded_tokens', draft_is_paid=False
    )
    want = [[1500, 6000], [300 + 2100, 300 + 8000]]
    np.testing.assert_allclose(got.handover, want)
    np.testing.assert_allclose(got.drafts, [300, 500])

  def test_prefixes_may_have_unequal_numbers_of_samples(self):
    made = [self.make(0, 1, k, written=k + 1) for k in range(3)]
    made += [self.make(1, 1, written=9)]
    got = costs.ladder_costs(
        self.ladder(made),
        (_SMALL, _LARGE),
        'decoded_tokens',
        draft_is_paid=False,
    )
    np.testing.assert_allclose(got.handover[:, 0], [2000, 300 + 9000])

  def test_the_first_missing_completion_is_named(self):
    made = [self.make(0, 1), self.make(0, 2), self.make(1, 1)]
    with self.assertRaisesRegex(ValueError, 'problem p .* route 2 from step 1'):
      costs.ladder_costs(self.ladder(made), _THREE, 'price', draft_is_paid=True)
    # Of two missing completions, the error names the one at the earlier step.
    made = [self.make(0, 1), self.make(1, 2)]
    with self.assertRaisesRegex(
        ValueError, 'problem p has no completion by route 2 from step 0'
    ):
      costs.ladder_costs(self.ladder(made), _THREE, 'price', draft_is_paid=True)


class AccountingTest(absltest.TestCase):

  def test_default_is_the_price_without_a_reference(self):
    accounting = costs.Accounting(_THREE)
    self.assertEqual(accounting.metric, 'price')
    self.assertTrue(np.isnan(accounting.spent([types.Usage(0, 1, 0, 1)])))
    accounting = costs.Accounting((_SMALL, _LARGE), reference=2e-6)
    # 1 * 1 + 1 * 5 = 6 per million.
    self.assertAlmostEqual(accounting.spent([types.Usage(0, 1, 0, 1)]), 3.0)

  def test_unknown_metrics_and_too_few_models_are_refused(self):
    with self.assertRaisesRegex(ValueError, "Unknown cost metric 'euros'"):
      costs.Accounting(_THREE, 'euros')
    for specs in ((), (_SMALL,)):
      with self.assertRaisesRegex(ValueError, f'got {len(specs)}'):
        costs.Accounting(specs)


if __name__ == '__main__':
  absltest.main()
