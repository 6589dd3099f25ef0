"""Decisions made together are those that the router makes alone."""

import asyncio

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from routing import costs
from routing import protocols
from routing import types
from routing.features import observation
from routing.features import standardize
from routing.policy import networks
from routing.routers import action_probabilities
from routing.routers import card as card_lib
from routing.routers import learned
from routing.serving import batched_decisions
from tests import router_server


def _step(rng, text='1\n\n'):
  log_probs = -rng.exponential(size=3).astype(np.float32)
  return types.Step(
      text,
      (1, 2, 3),
      log_probs,
      log_probs[:, None] - np.arange(2, dtype=np.float32),
      False,
      types.Usage(0, 1, 0, 3),
  )


def _traces(count):
  """Traces of 1 to 4 decisions, each with its history."""
  rng = np.random.default_rng(0)
  for index in range(count):
    trace, steps = None, ()
    for _ in range(1 + index % 4):
      draft = _step(rng)
      trace = types.Trace(f'{index}:5\n', steps, draft, rng.random(), trace)
      steps = (*steps, draft)
    yield trace


def _router(kind, is_conditioned=False, width=32):
  """An untrained router of three policies."""
  features = observation.FeatureConfig(
      groups=('confidence', 'progress', 'cost', 'text'),
      num_routes=3,
      max_decisions=4,
      hidden_size=0,
      question_width=width,
      step_width=width,
  )
  fields = dict(
      kind=kind, hidden=(16,), dropout=0.0, is_conditioned=is_conditioned
  )
  network = networks.make_network(fields, 3)
  rows = 1 if is_conditioned else 3
  params = jax.vmap(
      lambda key: networks.init_params(key, network, features.size)
  )(jax.random.split(jax.random.key(0), rows))
  spec = costs.RouteSpec('a', 1, 1, 1, 1.0, 1.0, 1.0)
  card = card_lib.Card(
      specs=(spec, spec, spec),
      metric='price',
      reference=1.0,
      protocol=protocols.Protocol(),
      features=features,
      network=fields,
      form='budget',
      levels=(0.3, 0.5, 0.7),
  )
  statistics = standardize.Statistics(
      np.zeros(features.size, np.float32), np.ones(features.size, np.float32)
  )
  return learned.LearnedRouter(card, params, statistics)


class BatchedDecisionsTest(parameterized.TestCase):

  @parameterized.parameters(
      ('mlp', False, 7),
      ('mlp', True, 7),
      ('gru', False, 3),
  )  # pyformat: disable
  def test_equal_to_the_router_alone(self, kind, is_conditioned, count):
    router = _router(kind, is_conditioned)
    sizes = []
    batches = batched_decisions.BatchedDecisions(router, sizes.append)
    traces = list(_traces(count))
    # Different policies and thresholds at once, and one with a route missing
    # in a batch of its own.
    points = [
        router.with_threshold(i % 3, (0.4, 0.6, 0.7)[i % 3])
        for i in range(count)
    ]

    async def decide():
      return await asyncio.gather(
          *(
              batches.at(x).decide(y)
              for x, y in zip(points, traces, strict=True)
          )
      )

    found = asyncio.run(decide())
    wanted = [x.decide(y) for x, y in zip(points, traces, strict=True)]
    self.assertEqual([x.route for x in found], [x.route for x in wanted])
    np.testing.assert_allclose(
        [x.score for x in found], [x.score for x in wanted], atol=1e-5
    )
    self.assertEqual(sizes, [count])  # One call for all.
    self.assertLen({round(x.score, 4) for x in found}, count)

  def test_a_single_answer_waits_for_no_others(self):
    router, sizes = router_server.make_router(), []
    batches = batched_decisions.BatchedDecisions(
        router, sizes.append, lambda: True
    )
    trace = types.Trace('1:2\n', (), _step(np.random.default_rng(0)))
    found = batches.at(router).decide(trace)
    with self.assertRaises(StopIteration) as caught:
      found.send(None)  # It ends without giving way to anything.
    self.assertEqual(caught.exception.value, router.decide(trace))
    self.assertEqual(sizes, [1])

  def test_a_score_at_its_threshold_falls_on_the_same_side(self):
    router = _router('mlp', width=512)  # Long sums, which rounding changes.
    batches = batched_decisions.BatchedDecisions(router)
    traces = list(_traces(40))
    scores = [router.decide(x).score for x in traces]
    # At the score itself the large model takes over, and just above it not.
    for thresholds, expected in (
        (scores, True),
        ([float(np.nextafter(np.float32(x), 2)) for x in scores], False),
    ):

      async def decide(thresholds=thresholds):
        return await asyncio.gather(
            *(
                batches.at(router.with_threshold(0, x)).decide(y)
                for x, y in zip(thresholds, traces, strict=True)
            )
        )

      found = asyncio.run(decide())
      self.assertEqual({x.route > 0 for x in found}, {expected})

  def test_no_size_is_compiled_while_it_serves(self):
    router = router_server.make_router()
    batches = batched_decisions.BatchedDecisions(router)
    batches.warm_up()
    calls = action_probabilities.of_one, action_probabilities.of_each
    before = [call._cache_size() for call in calls]
    rng = np.random.default_rng(0)

    async def decide(count):
      trace = types.Trace('1:2\n', (), _step(rng))
      # All at one policy, and one at another.
      for other in (router, router.with_threshold(1, 0.5)):
        routers = [other, *[router] * (count - 1)]
        await asyncio.gather(*(batches.at(x).decide(trace) for x in routers))

    for count in (1, 2, 9, 40, 70):
      asyncio.run(decide(count))
    self.assertEqual([call._cache_size() for call in calls], before)

  def test_a_fault_ends_its_own_decision_only(self):
    router = router_server.make_router()
    batches = batched_decisions.BatchedDecisions(router)
    rng = np.random.default_rng(0)
    good = types.Trace('1:2\n', (), _step(rng))
    bad = types.Trace('1:2\n', (_step(rng),) * 8, _step(rng))  # Too long.

    async def decide():
      return await asyncio.gather(
          *(batches.at(router).decide(x) for x in (good, bad, good)),
          return_exceptions=True,
      )

    first, fault, second = asyncio.run(decide())
    self.assertIsInstance(fault, ValueError)
    self.assertEqual(first.route, router.decide(good).route)
    self.assertEqual(second, first)

  def test_any_error_ends_its_own_decision_only(self):
    router = router_server.make_router()
    broken = router.at('cost<=0.5')
    broken.decide_from = lambda *args: 1 // 0
    batches = batched_decisions.BatchedDecisions(router)
    trace = types.Trace('1:2\n', (), _step(np.random.default_rng(0)))

    async def decide():
      return await asyncio.gather(
          *(batches.at(x).decide(trace) for x in (broken, router)),
          return_exceptions=True,
      )

    fault, found = asyncio.run(asyncio.wait_for(decide(), 30))
    self.assertIsInstance(fault, ZeroDivisionError)
    self.assertEqual(found.route, router.decide(trace).route)

  def test_a_caller_that_gives_up_holds_up_nobody(self):
    router = router_server.make_router()
    batches = batched_decisions.BatchedDecisions(router)
    trace = types.Trace('1:2\n', (), _step(np.random.default_rng(0)))

    async def decide():
      first, second = (
          asyncio.ensure_future(batches.at(router).decide(trace))
          for _ in range(2)
      )
      await asyncio.sleep(0)
      first.cancel()
      return await second

    self.assertEqual(asyncio.run(decide()).route, router.decide(trace).route)


if __name__ == '__main__':
  absltest.main()
