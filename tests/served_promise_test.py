"""Promises in service, over HTTP, with feedback to every answer."""

import asyncio
import random

from absl.testing import absltest

from benchmarks import served_promise
from routing.calibration import online
from routing.grading import equivalence
from tests import router_server
from tests import scripted_pair

_ALPHA = 0.1


def _is_right(problem, route):
  """Returns whether one model alone counts right."""
  num_steps = int(problem.question.partition(':')[2])
  return not any(
      scripted_pair.slips(problem.question, step, route, 0, 3 + 6 * route)
      for step in range(num_steps)
  )


def _pool():
  """Returns 60 problems; the small model gets 3 wrong, the larger none."""
  problems = [x for x in scripted_pair.make_problems(400) if _is_right(x, 1)]
  easy = [x for x in problems if _is_right(x, 0)]
  hard = [x for x in problems if not _is_right(x, 0)]
  return served_promise.Pool([*easy[:57], *hard[:3]])


class ServedPromiseTest(absltest.TestCase):

  def test_the_loss_is_kept_and_a_shift_is_noticed(self):
    pool = _pool()

    async def run():
      service = router_server.scripted_service(
          # A threshold at which the small model writes nearly all.
          router_server.make_router((0.4, 0.99, 0.6)),
          online_alpha=_ALPHA,
          shadow_share=1.0,
          rng=random.Random(0),
      )
      return await served_promise.measure(
          service,
          pool,
          equivalence.exact,
          point='loss<=0.05@0.9',
          answers=160,
          quiet=64,
          harder=30.0,
          seed=0,
      )

    found = asyncio.run(run())
    self.assertEqual(found['accuracy'], {'small': 0.95, 'medium': 1.0})
    # The bound on any stream of so many answers.
    state = online.init(0.5, alpha=_ALPHA)
    for key in ('loss', 'loss_with_shift'):
      self.assertLess(found[key], online.guarantee(state.replace(count=320)))
    # Of the harder questions the small model loses 3 in 5.
    self.assertLess(found['loss_with_shift'], 0.2)
    self.assertLess(found['quiet_loss'], 0.15)
    self.assertFalse(found['false_alarm'])
    self.assertGreater(found['loss_after_shift'], 0.3)
    self.assertLess(found['alarm_after'], 60)


if __name__ == '__main__':
  absltest.main()
