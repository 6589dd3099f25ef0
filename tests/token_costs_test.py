"""What routers of tokens cost follows from their calls, on the shipped pair."""

import asyncio

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from configs import arithmetic
from experiments import builders
from routing.grading import equivalence
from routing.lm import tokenizer as tokenizer_lib
from routing.outcomes import live_answers
from routing.rollout import step_requests
from routing.tasks import arithmetic as task
from tests import embedded_pair
from tests import plain_totals
from third_party.power_sampling import chain
from third_party.speculative_sampling import decoding as speculative
from third_party.token_router import decoding as token_router

_TOKENIZER = tokenizer_lib.Tokenizer()
_NUM_WEIGHTS = len(_TOKENIZER) + token_router.TOP_K + 2
(_ONE,) = _TOKENIZER.encode('1')
# (function, its arguments, routes that are charged).
_SYSTEMS = (
    (speculative.answer, dict(num_drafts=4), {0, 1}),
    (
        token_router.answer,
        # Every 1 of the small model is replaced.
        dict(
            threshold=0.5,
            weights=10.0 * np.eye(_NUM_WEIGHTS)[_ONE],
            constant=-5.0,
        ),
        {0, 1},
    ),
    (chain.answer, dict(alpha=4.0, num_moves=2, route=1), {1}),
)


class TokenCostsTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.specs = builders.specs(arithmetic.get_config('smoke'))
    cls.problems = task.load(0, test=2)['test']

  @parameterized.parameters(*_SYSTEMS)
  def test_costs_follow_from_the_raw_calls(self, function, fields, routes):
    async def run():
      engines = embedded_pair.make_engines()
      try:
        return [
            await function(
                problem,
                engines,
                seed=0,
                sampling=step_requests.Sampling(max_tokens=48),
                grade=equivalence.exact,
                **fields,
            )
            for problem in self.problems
        ]
      finally:
        for engine in engines:
          await engine.close()

    found = asyncio.run(run())
    self.assertEqual({x.route for y in found for x in y.calls}, routes)
    for trajectory in found:
      kept = live_answers.of_calls(trajectory.calls, True, 0, self.specs)
      for metric, total in plain_totals.BY_METRIC.items():
        expected = total(trajectory.calls, self.specs)
        self.assertGreater(expected, 0)
        self.assertAlmostEqual(kept.cost[metric] / expected, 1.0, 9, metric)


if __name__ == '__main__':
  absltest.main()
