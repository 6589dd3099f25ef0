"""Tests of behaviour policies: draws have the recorded probabilities."""

import dataclasses
import itertools

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import types
from routing.routers import behaviour
from routing.routers import router as router_lib
from tests import fixed_test

_TRACE = fixed_test.make_trace()


def _trace(*routes):
  """Returns a trace with steps of these routes."""
  steps = fixed_test.make_trace(len(routes)).steps
  return types.Trace(
      'q',
      tuple(
          dataclasses.replace(step, usage=types.Usage(route, 1, 0, 0))
          for step, route in zip(steps, routes, strict=True)
      ),
  )


def _problem(i):
  return types.Problem(f'p/{i}', 'q', 'a')


class _FixedPolicy:
  """A policy with given action probabilities."""

  def __init__(self, *probabilities):
    self._probabilities_of_actions = np.float32(probabilities)

  def action_probabilities(self, trace):
    del trace
    return self._probabilities_of_actions


class DrawTest(absltest.TestCase):

  def test_is_uniform_and_a_function_of_its_key(self):
    coins = np.array([router_lib.draw('a', i) for i in range(4_000)])
    counts, _ = np.histogram(coins, bins=10, range=(0, 1))
    # 400 in each tenth, with a spread of 19.
    self.assertTrue((np.abs(counts - 400) < 5 * 19).all())
    self.assertEqual(router_lib.draw('a', 7), coins[7])
    self.assertNotEqual(router_lib.draw('b', 7), coins[7])
    # Where one part ends and the next begins matters.
    self.assertNotEqual(router_lib.draw('a', 11), router_lib.draw('a1', 1))


class ProbabilitiesTest(parameterized.TestCase):

  def test_uniform_is_over_allowed_routes(self):
    policy = behaviour.Uniform([True, False, True])
    np.testing.assert_array_equal(
        policy.action_probabilities(_TRACE), [0.5, 0, 0.5]
    )

  def test_a_fixed_rate_is_shared_by_the_larger_routes(self):
    policy = behaviour.RandomRate(0.4, 0.4, 3)
    for trace in (_TRACE, _trace(0, 2, 1, 0)):
      np.testing.assert_allclose(
          policy.action_probabilities(trace), [0.6, 0.2, 0.2]
      )

  @parameterized.parameters(
      ((), 1 / 2),
      ((0,), 1 / 3),
      ((1, 1, 0), 3 / 5),
      ((0,) * 60, 1 / 62),
      ((0, 1) * 1_000, 1 / 2),
  )
  def test_a_latent_rate_gives_the_rule_of_succession(self, routes, larger):
    got = behaviour.RandomRate().action_probabilities(_trace(*routes))
    np.testing.assert_allclose(got, [1 - larger, larger], rtol=1e-9)

  def test_the_rate_is_integrated_over_its_range(self):
    # The probability of each path of three steps, averaged over the rate.
    policy = behaviour.RandomRate(0.2, 0.7)
    rates = np.linspace(0.2, 0.7, 100_001)
    for routes in itertools.product((0, 1), repeat=3):
      chance = np.prod(
          [
              policy.action_probabilities(_trace(*routes[:t]))[routes[t]]
              for t in range(3)
          ]
      )
      k = sum(routes)
      expected = np.trapezoid(rates**k * (1 - rates) ** (3 - k), rates) / 0.5
      self.assertAlmostEqual(chance, expected, places=8)

  def test_mixture_by_hand(self):
    policy = behaviour.Mixture(
        _FixedPolicy(0.9, 0.1), behaviour.Uniform([True, True]), 0.2
    )
    # 0.8 x 0.9 + 0.2 x 0.5.
    np.testing.assert_allclose(
        policy.action_probabilities(_TRACE), [0.82, 0.18], rtol=1e-6
    )

  def test_bad_arguments_raise(self):
    with self.assertRaisesRegex(ValueError, 'False for every route'):
      behaviour.Uniform([False, False])
    with self.assertRaisesRegex(ValueError, 'num_routes is 1'):
      behaviour.RandomRate(num_routes=1)
    with self.assertRaisesRegex(ValueError, '0 larger routes in 1'):
      behaviour.RandomRate(1.0, 1.0).action_probabilities(_trace(0))
    with self.assertRaisesRegex(ValueError, 'epsilon is -0.1; it must be'):
      behaviour.Mixture(_FixedPolicy(1, 0), _FixedPolicy(0, 1), -0.1)
    mixed = behaviour.Mixture(_FixedPolicy(1, 0), _FixedPolicy(0, 1, 0), 0.1)
    with self.assertRaisesRegex(ValueError, 'must have the same routes'):
      mixed.action_probabilities(_TRACE)
    with self.assertRaisesRegex(ValueError, '0.5 to 0.2; it must'):
      behaviour.random_rate(2, 0, low=0.5, high=0.2)


class DrawingRouterTest(parameterized.TestCase):

  def test_route_frequencies_equal_their_probabilities(self):
    probabilities = np.float32([0.5, 0.2, 0.3])
    draw = behaviour.drawn(_FixedPolicy(*probabilities), seed=1)
    decisions = [draw(_problem(i), 0).decide(_TRACE) for i in range(4_000)]
    counts = np.bincount([d.route for d in decisions], minlength=3)
    spread = np.sqrt(4_000 * probabilities * (1 - probabilities))
    self.assertTrue((np.abs(counts - 4_000 * probabilities) < 4 * spread).all())
    for decision in decisions[:20]:
      self.assertAlmostEqual(
          decision.probability, probabilities[decision.route], places=6
      )
      self.assertAlmostEqual(decision.score, 0.5, places=6)

  def test_importance_weights_give_the_value_of_another_policy(self):
    # Off-policy, by hand: E_mu[pi / mu 1{a}] = pi(a), for mu and pi at odds.
    target = np.array([0.3, 0.7])
    draw = behaviour.random_rate(2, seed=0, low=0.2, high=0.8)
    decisions = [draw(_problem(i), 0).decide(_TRACE) for i in range(4_000)]
    weights = np.array([target[d.route] / d.probability for d in decisions])
    right = np.array([d.route == 1 for d in decisions])
    error = (weights * right).std() / np.sqrt(4_000)
    self.assertAlmostEqual((weights * right).mean(), 0.7, delta=4 * error)
    self.assertLess(error, 0.02)

  def test_a_route_of_probability_zero_is_never_drawn(self):
    draw = behaviour.drawn(_FixedPolicy(0, 1, 0), seed=0)
    routes = {draw(_problem(i), 0).decide(_TRACE).route for i in range(500)}
    self.assertEqual(routes, {1})

  def test_draws_differ_by_problem_trajectory_step_and_seed(self):
    uniform = behaviour.Uniform([True] * 50)  # So that few agree by chance.

    def routes(seed, trajectory, step):
      draw = behaviour.drawn(uniform, seed)
      trace = fixed_test.make_trace(step)
      return [draw(_problem(i), trajectory).decide(trace) for i in range(40)]

    base = routes(0, 0, 0)
    self.assertEqual(base, routes(0, 0, 0))
    for other in (routes(1, 0, 0), routes(0, 1, 0), routes(0, 0, 1)):
      agree = sum(a == b for a, b in zip(base, other, strict=True))
      self.assertLess(agree, 8)

  def test_all_numbers_of_larger_steps_are_equally_common(self):
    draw = behaviour.random_rate(3, seed=0)
    numbers = []
    for i in range(700):
      one, routes = draw(_problem(i), 1), []
      for _ in range(6):
        routes.append(one.decide(_trace(*routes)).route)
      numbers.append(np.count_nonzero(routes))
    # 100 of each, with a spread of 9.3.
    counts = np.bincount(numbers, minlength=7)
    self.assertTrue((np.abs(counts - 100) < 4 * 9.3).all(), counts)

  @parameterized.parameters((0.0, 0), (1.0, 1))
  def test_rates_of_zero_and_one_are_deterministic(self, rate, route):
    draw = behaviour.random_rate(2, seed=0, low=rate, high=rate)
    for i in range(50):
      decision = draw(_problem(i), 0).decide(_TRACE)
      self.assertEqual(decision.route, route)
      self.assertEqual(decision.probability, 1.0)

  @parameterized.parameters((0.5, 0.4), (1.5, -0.5), (float('nan'), 1.0))
  def test_invalid_probabilities_raise(self, *probabilities):
    draw = behaviour.drawn(_FixedPolicy(*probabilities), seed=0)
    with self.assertRaisesRegex(ValueError, 'sum to 1'):
      draw(_problem(0), 0).decide(_TRACE)


if __name__ == '__main__':
  absltest.main()
