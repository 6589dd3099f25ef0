"""Tests of the cost accounting: each metric by hand, and limiting cases."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import costs
from routing import types

_SMALL = costs.RouteSpec(
    name='small',
    parameters=100,
    num_layers=2,
    attention_width=8,
    price_input=1.0,
    price_cached=0.1,
    price_output=5.0,
)
_LARGE = costs.RouteSpec(
    name='large',
    parameters=1_000,
    num_layers=4,
    attention_width=16,
    price_input=10.0,
    price_cached=1.0,
    price_output=50.0,
)
_SPECS = (_SMALL, _LARGE)


def _step(read, cached, written, seconds=0.0):
  return types.Step(
      text='x' * written,
      token_ids=(0,) * written,
      log_probs=np.zeros(written, np.float32),
      top_log_probs=np.zeros((written, 0), np.float32),
      is_final=False,
      usage=types.Usage(0, read, cached, written, seconds),
  )


def _ladder(completions=None):
  """A ladder of two small steps, of 3 and 2 tokens, on a question of 10."""
  made = [
      types.Completion(0, 1, 0, '', 10, 6, 0.6, True),
      types.Completion(1, 1, 0, '', 13, 4, 0.4, True),
  ]
  return types.Ladder(
      problem=types.Problem('p', 'q', 'a'),
      steps=(_step(10, 0, 3, 0.1), _step(0, 13, 2, 0.2)),
      is_correct=False,
      completions=tuple(made if completions is None else completions),
  )


class CallCostTest(parameterized.TestCase):

  @parameterized.parameters(
      # price: (10 * 1 + 20 * 0.1 + 4 * 5) / 1e6
      ('price', 32e-6),
      # flops: 2 * 100 * (10 + 4), and the 14 new tokens have 20..33 tokens of
      # context, 371 in all, at 2 layers * 8 wide * 2.
      ('flops', 2_800 + 371 * 32),
      ('decoded_tokens', 400.0),
      ('latency', 0.5),
  )
  def test_by_hand(self, metric, expected):
    usage = types.Usage(route=0, read=10, cached=20, written=4, seconds=0.5)
    np.testing.assert_allclose(
        costs.call_cost(usage, _SMALL, metric), expected, rtol=1e-12
    )

  @parameterized.parameters(*costs.COST_METRICS)
  def test_arrays_are_charged_elementwise(self, metric):
    rng = np.random.default_rng(0)
    *counts, before = rng.integers(0, 50, size=(4, 5))
    usage = types.Usage(1, *counts, rng.random(5), before)
    got = costs.call_cost(usage, _LARGE, metric)
    for i in range(5):
      one = types.Usage(1, *(x[i] for x in counts), usage.seconds[i], before[i])
      self.assertAlmostEqual(got[i], costs.call_cost(one, _LARGE, metric))

  @parameterized.parameters('price', 'flops', 'decoded_tokens')
  def test_a_step_costs_the_same_in_one_call_or_two(self, metric):
    # The second call pays for reading from the cache in addition, nothing else.
    whole = costs.call_cost(types.Usage(0, 10, 0, 8), _SMALL, metric)
    parts = [types.Usage(0, 10, 0, 5), types.Usage(0, 0, 15, 3)]
    again = 15 * 0.1 / 1e6 if metric == 'price' else 0.0
    self.assertAlmostEqual(
        costs.total_cost(parts, _SPECS, metric), whole + again, places=12
    )

  @parameterized.parameters('price', 'flops', 'decoded_tokens')
  def test_a_request_costs_the_same_reported_in_one_part_or_two(self, metric):
    whole = costs.call_cost(types.Usage(0, 10, 20, 8), _SMALL, metric)
    parts = [types.Usage(0, 10, 20, 5), types.Usage(0, 0, 0, 3, in_context=35)]
    self.assertAlmostEqual(
        costs.total_cost(parts, _SPECS, metric), whole, places=12
    )

  def test_an_unknown_metric_raises_an_error_with_the_allowed_ones(self):
    with self.assertRaisesRegex(ValueError, "'calls'.*price, flops, decoded"):
      costs.call_cost(types.Usage(0, 1, 0, 1), _SMALL, 'calls')


class LadderCostsTest(parameterized.TestCase):

  def test_peek_charges_the_discarded_draft_by_hand(self):
    # Small calls: 10 * 1 + 3 * 5 = 25; 13 * 0.1 + 2 * 5 = 11.3 (per million).
    # Large: 10 * 10 + 6 * 50 = 400 from step 0, 13 * 10 + 4 * 50 = 330 from 1.
    got = costs.ladder_costs(_ladder(), _SPECS, 'price', draft_is_paid=True)
    np.testing.assert_allclose(got.drafts * 1e6, [25, 36.3])
    np.testing.assert_allclose(got.handover[:, 0] * 1e6, [425, 366.3])
    self.assertAlmostEqual(got.stay * 1e6, 36.3)
    self.assertAlmostEqual(got.all_large * 1e6, 400)

  def test_commit_charges_no_draft(self):
    got = costs.ladder_costs(_ladder(), _SPECS, 'price', draft_is_paid=False)
    np.testing.assert_allclose(got.handover[:, 0] * 1e6, [400, 355])

  def test_flops_of_a_handover_are_about_those_of_the_large_model_alone(self):
    # Reading costs the large model as many FLOPs as writing: a late hand-over
    # saves nothing. Papers that count decoded tokens only do not see this.
    ladder = _ladder(
        [
            types.Completion(0, 1, 0, '', 10, 90, 0.0, True),
            types.Completion(1, 1, 0, '', 50, 50, 0.0, True),
        ]
    )
    got = costs.ladder_costs(ladder, _SPECS, 'flops', draft_is_paid=False)
    self.assertAlmostEqual(
        (got.handover[1, 0] - got.drafts[0]) / got.all_large, 1.0
    )

  def test_samples_are_averaged(self):
    completions = [
        types.Completion(0, 1, 0, '', 10, 6, 0.0, True),
        types.Completion(0, 1, 1, '', 10, 2, 0.0, False),
        types.Completion(1, 1, 0, '', 13, 4, 0.0, True),
        types.Completion(1, 1, 1, '', 13, 4, 0.0, True),
    ]
    got = costs.ladder_costs(
        _ladder(completions), _SPECS, 'decoded_tokens', draft_is_paid=False
    )
    np.testing.assert_allclose(got.handover[:, 0], [4_000, 4_300])

  def test_a_missing_completion_raises_an_error_that_names_it(self):
    # A completion from step 1 only; the one from step 0 is missing.
    ladder = _ladder([types.Completion(1, 1, 0, '', 10, 6, 0.0, True)])
    with self.assertRaisesRegex(ValueError, 'route 1 from step 0'):
      costs.ladder_costs(ladder, _SPECS, 'price', draft_is_paid=True)


class AccountingTest(absltest.TestCase):

  def test_spent_is_a_fraction_of_the_reference(self):
    accounting = costs.Accounting(_SPECS, 'decoded_tokens', reference=4_000.0)
    self.assertAlmostEqual(
        accounting.spent([types.Usage(0, 9, 0, 10), types.Usage(1, 9, 0, 1)]),
        0.5,
    )

  def test_a_single_model_raises_an_error(self):
    with self.assertRaisesRegex(ValueError, '2 models or more, got 1'):
      costs.Accounting((_SMALL,))


if __name__ == '__main__':
  absltest.main()
