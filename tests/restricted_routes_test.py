"""Tests of the learned router restricted to some routes."""

import itertools

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.features import observation
from routing.routers import action_probabilities
from tests import learned_memory_test
from tests import learned_test


def _rows(router, num=6):
  """Returns `[num, F]` different observations."""
  traces = [learned_test._trace(-i / 2 - 0.1, f'q {i}') for i in range(num)]
  return np.stack(
      [observation.observe(x, router.card.features) for x in traces]
  )


def _certain(route):
  """Returns a router with probabilities that round to 0 but for one route."""
  router = learned_test._router()
  bias = router._params['Dense_1']['bias']
  bias[:] = 0
  bias[:, route] = 1e4
  return router


class RestrictedTest(parameterized.TestCase):

  @parameterized.parameters((0, 1), (0, 2))
  def test_available_routes_are_renormalised(self, *routes):
    router = learned_test._router()
    rows = _rows(router)
    for policy_index in (0, 1):
      whole = router.probabilities(rows, policy_index)
      got = router.restricted_to(routes).probabilities(rows, policy_index)
      left = whole[:, list(routes)]
      want = np.zeros_like(whole)
      want[:, list(routes)] = left / left.sum(axis=-1, keepdims=True)
      np.testing.assert_allclose(got, want, rtol=1e-5)
      (other,) = {1, 2} - set(routes)
      np.testing.assert_array_equal(got[:, other], 0.0)
      np.testing.assert_allclose(
          router.restricted_to(routes).score(rows, policy_index),
          want[:, routes[1]],
          rtol=1e-5,
      )
      self.assertGreater(whole[:, other].min(), 1e-4)

  def test_by_hand(self):
    # Logits 0, ln 3, ln 6 are probabilities .1, .3, .6; of 0 and 1 alone, 1/4
    # and 3/4, and of 0 and 2 alone, 1/7 and 6/7.
    router = learned_test._router()
    router._params['Dense_1']['kernel'][:] = 0
    router._params['Dense_1']['bias'][:] = np.log([1, 3, 6])
    trace = learned_test._trace()
    for routes, want in (
        ((0, 1, 2), (0.1, 0.3, 0.6)),
        ((0, 1), (1 / 4, 3 / 4, 0)),
        ((2, 0), (1 / 7, 0, 6 / 7)),
    ):
      among = router.restricted_to(routes)
      np.testing.assert_allclose(
          among.action_probabilities(trace), want, rtol=1e-5
      )
      decision = among.decide(trace)
      self.assertAlmostEqual(decision.score, sum(want[1:]), places=5)
      self.assertEqual(decision.route, int(np.argmax(want)))
    # The score is .9 with all routes and .75 without route 2.
    at = router.with_threshold(0, 0.8)
    self.assertEqual(at.decide(trace).route, 2)
    self.assertEqual(at.restricted_to((0, 1)).decide(trace).route, 0)

  @parameterized.product(likely=(0, 1, 2), routes=((0, 1), (0, 2), (0, 1, 2)))
  def test_never_chooses_an_unavailable_route(self, likely, routes):
    # With threshold 0 it always hands over, even where every available larger
    # route has a probability that rounds to 0.
    router = _certain(likely).restricted_to(routes)
    decision = router.with_threshold(0, 0.0).decide(learned_test._trace())
    self.assertIn(decision.route, routes[1:])
    probabilities = router.action_probabilities(learned_test._trace())
    self.assertAlmostEqual(probabilities.sum(), 1.0, places=6)
    self.assertTrue(np.isfinite(probabilities).all())

  @parameterized.parameters('gru', 'attention')
  def test_with_memory(self, kind):
    router = learned_memory_test._router(kind)
    rows = np.random.default_rng(0).normal(
        size=(3, 5, router.card.features.size)
    )
    rows = rows.astype(np.float32)
    left = router.probabilities(rows)[..., [0, 2]]
    got = router.restricted_to((0, 2)).probabilities(rows)
    np.testing.assert_array_equal(got[..., 1], 0.0)
    np.testing.assert_allclose(
        got[..., [0, 2]], left / left.sum(axis=-1, keepdims=True), rtol=1e-5
    )

  def test_all_routes_lift_the_restriction(self):
    router = learned_test._router()
    rows = _rows(router)
    for among in (
        router.restricted_to((0, 1, 2)),
        router.restricted_to([2, 1, 0, 1]),
        router.restricted_to((0, 1)).restricted_to(range(3)),
    ):
      np.testing.assert_array_equal(
          among.probabilities(rows), router.probabilities(rows)
      )
      self.assertEqual(among.routes, (0, 1, 2))
      self.assertEqual(str(among), str(router))
      self.assertEqual(
          among.decide(learned_test._trace()),
          router.decide(learned_test._trace()),
      )

  def test_masks_share_the_compiled_function(self):
    router = learned_test._router()
    rows = _rows(router)
    router.restricted_to((0, 1)).probabilities(rows)
    size = action_probabilities.of_one._cache_size()
    for routes in ((0, 2), (0, 1)):
      router.restricted_to(routes).probabilities(rows)
    self.assertEqual(action_probabilities.of_one._cache_size(), size)

  def test_the_original_is_unchanged(self):
    router = learned_test._router()
    rows = _rows(router)
    before = router.probabilities(rows)
    router.restricted_to((0, 2))
    np.testing.assert_array_equal(router.probabilities(rows), before)
    self.assertEqual(router.routes, (0, 1, 2))

  def test_copies_keep_the_restriction_and_promise_nothing(self):
    plain = learned_test._router()
    point = learned_test._point(plain)
    router = learned_test._router(points=(point,))
    among = router.restricted_to((0, 2))
    self.assertEqual((among.policy_index, among.threshold), (1, 0.37))
    for copy in (
        among,
        among.at('cost<=0.4'),
        among.with_threshold(1, 0.37),
        among.at_level(0.6, 0.37),
    ):
      self.assertEqual(copy.routes, (0, 2))
      self.assertIsNone(copy.point)
      self.assertEqual(copy.action_probabilities(learned_test._trace())[1], 0.0)
    self.assertEqual(among.at('cost<=0.4').threshold, 0.37)
    self.assertEqual(router.restricted_to((0, 1, 2)).point, point)
    self.assertEqual(among.restricted_to(range(3)).at('cost<=0.4').point, point)

  def test_print_shows_the_restriction(self):
    router = learned_test._router()
    self.assertNotIn('num_choices', str(router))
    self.assertIn(
        'available   small, large only', str(router.restricted_to((2, 0)))
    )

  @parameterized.parameters(
      *itertools.product(((), (0,), (0, 0), (1, 2), (0, 3), (0, 1, -1)), (3,)),
      ((0, 2), 2),
  )
  def test_invalid_routes_raise(self, routes, num_routes):
    router = learned_test._router(num_routes=num_routes)
    message = (
        rf'routes is \[{", ".join(map(str, routes))}\]; allowed: 0 and one or '
        rf'more of 1 to {num_routes - 1}'
    )
    with self.assertRaisesRegex(ValueError, message):
      router.restricted_to(routes)


if __name__ == '__main__':
  absltest.main()
