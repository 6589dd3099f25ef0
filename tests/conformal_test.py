"""The set-valued rule: step-by-step twins, and coverage by simulation."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import stats

from routing.calibration import conformal
from routing.calibration import joint
from routing.calibration import risks as risks_lib
from routing.calibration import thresholds as thresholds_lib
from routing.outcomes import stopping as stopping_lib
from tests import ladders


def make(num_problems, num_routes=3, seed=0):
  """Returns `[N, T, A]` probabilities from scores, and a table per route."""
  batch, scores = ladders.make_ladders(
      num_problems, num_routes=num_routes, seed=seed
  )
  rng = np.random.default_rng(seed)
  leave = 1 / (1 + np.exp(1 - 1.5 * scores.astype(np.float64)))
  split = rng.dirichlet(np.ones(num_routes - 1), size=scores.shape)
  probabilities = np.concatenate(
      [1 - leave[..., None], leave[..., None] * split], axis=-1
  )
  tables = [
      stopping_lib.from_batch(batch, np.full(scores.shape, route))
      for route in range(1, num_routes)
  ]
  return probabilities, tables


def is_covered(probabilities, tables, row, kappa):
  """Returns whether each set up to the first mistake covers, by a loop."""
  steps = np.flatnonzero(tables[0].mask[row])
  for step in steps:
    good = {
        route
        for route, table in enumerate(tables, start=1)
        if table.loss[row, step] == 0
    }
    later = [t.loss[row, s] for t in tables for s in steps if s > step]
    if 0 in [*later, tables[0].loss[row, -1]]:
      good.add(0)
    chosen = set(np.flatnonzero(probabilities[row, step] >= kappa))
    if not chosen & good:
      return False
    if 0 not in good:
      return True
  return True


def walk(probabilities, tables, row, kappa):
  """Returns where the set-valued rule ends: (time, route)."""
  for step in np.flatnonzero(tables[0].mask[row]):
    chosen = np.flatnonzero(probabilities[row, step] >= kappa)
    route = chosen[0] if len(chosen) == 1 else len(tables)
    if route:
      return step, route
  return tables[0].num_steps, 0


class RuleTest(parameterized.TestCase):

  def test_acceptable_by_hand(self):
    # One larger route; a hand-over at 0 or 2 loses nothing, never doing so
    # does.
    mask = np.array([[True, True, True, False]])
    loss = np.array([[0.0, 1.0, 0.0, 0.0, 1.0]])
    table = stopping_lib.Outcomes(mask, loss, loss, loss, loss)
    got = conformal.acceptable([table])
    want = [[[True, True], [True, False], [False, True], [False, False]]]
    self.assertEqual(got.tolist(), want)
    # At 1 only staying is acceptable (.3), at 2 only handing over (.6).
    leave = np.array([[0.2, 0.7, 0.6, 0.9]])
    probabilities = np.stack([1 - leave, leave], axis=-1)
    self.assertAlmostEqual(conformal.conformity(probabilities, [table])[0], 0.3)

  @parameterized.parameters(0.2, 0.4, 0.5, 0.7)
  def test_conformity_is_the_highest_kappa_that_covers(self, kappa):
    probabilities, tables = make(80)
    got = conformal.conformity(probabilities, tables) >= kappa
    want = [is_covered(probabilities, tables, row, kappa) for row in range(80)]
    self.assertEqual(got.tolist(), want)
    self.assertBetween(sum(want), 1, 79)

  @parameterized.parameters(0.2, 0.4, 0.5, 0.7)
  def test_exits_equal_a_walk_step_by_step(self, kappa):
    probabilities, tables = make(80, seed=1)
    times, channels = conformal.exits(
        probabilities, tables[0].mask, np.array([kappa])
    )
    want = [walk(probabilities, tables, row, kappa) for row in range(80)]
    self.assertEqual(times[0].tolist(), [time for time, _ in want])
    self.assertEqual(
        channels[0].tolist(), [max(route - 1, 0) for _, route in want]
    )

  @parameterized.parameters(0.05, 0.3, 0.5)
  def test_two_routes_below_half_are_a_plain_threshold(self, kappa):
    probabilities, tables = make(100, num_routes=2)
    times, _ = conformal.exits(probabilities, tables[0].mask, np.array([kappa]))
    want = stopping_lib.stopping_times(
        probabilities[..., 1], tables[0].mask, np.array([kappa])
    )
    np.testing.assert_array_equal(times, want)

  @parameterized.parameters(0.2, 0.45)
  def test_covered_and_lost_means_that_help_failed(self, kappa):
    probabilities, tables = make(2_000)
    times, channels = conformal.exits(
        probabilities, tables[0].mask, np.array([kappa])
    )
    lost = stopping_lib.at_exits(tables, times, channels)['loss'][0] > 0
    covered = conformal.conformity(probabilities, tables) >= kappa
    rows = np.flatnonzero(lost & covered)
    self.assertNotEmpty(rows)  # Coverage is not loss.
    for row in rows:
      at_exit = probabilities[row, times[0, row]]
      self.assertNotEqual(np.sum(at_exit >= kappa), 1)

  def test_shapes_must_match(self):
    probabilities, tables = make(10)
    with self.assertRaisesRegex(ValueError, r'\(10, 6, 3\), got \(10, 6, 2\)'):
      conformal.conformity(probabilities[..., :2], tables)


class SplitConformalTest(parameterized.TestCase):

  @parameterized.parameters(
      (19, None, 1), (58, None, 2), (59, None, 3), (76, 0.1, 1), (77, 0.1, 2)
  )
  def test_kappa_is_the_kth_smallest(self, num, delta, rank):
    # .05 * 60 = 3; P(Bin(76, .05) < 2) = .1014, P(Bin(77, .05) < 2) = .0974.
    probabilities, tables = make(num, seed=2)
    point = conformal.split_conformal(
        probabilities, tables, alpha=0.05, delta=delta
    )
    ranked = np.sort(conformal.conformity(probabilities, tables))
    self.assertEqual(point.threshold, ranked[rank - 1])
    self.assertEqual(point.promise.is_marginal, delta is None)

  @parameterized.parameters((18, None, 19), (44, 0.1, 45))
  def test_too_few_problems_says_how_many(self, num, delta, needed):
    probabilities, tables = make(num)
    with self.assertRaisesRegex(risks_lib.Refusal, f'got {num}') as caught:
      conformal.split_conformal(probabilities, tables, alpha=0.05, delta=delta)
    self.assertEqual(caught.exception.needed, needed)

  def test_too_many_problems_without_an_acceptable_route_are_refused(self):
    probabilities, tables = make(40)
    for table in tables:
      table.loss[:3] = 1.0
    with self.assertRaisesRegex(risks_lib.Refusal, 'no acceptable route'):
      conformal.split_conformal(probabilities, tables, alpha=0.05)

  def test_figures_are_those_of_the_set_valued_rule(self):
    probabilities, tables = make(60)
    point = conformal.split_conformal(probabilities, tables, alpha=0.1)
    ends = [walk(probabilities, tables, k, point.threshold) for k in range(60)]
    cost = [
        tables[max(route - 1, 0)].cost[row, time]
        for row, (time, route) in enumerate(ends)
    ]
    self.assertAlmostEqual(point.cost, np.mean(cost))
    self.assertEqual(point.name, 'miscoverage<=0.1')

  @parameterized.parameters(0.0, 1.0)
  def test_alpha_outside_is_refused(self, alpha):
    with self.assertRaisesRegex(ValueError, r'alpha must be in \(0, 1\)'):
      conformal.split_conformal(*make(10), alpha=alpha)

  @parameterized.parameters(0.0, 1.0, 1.5)
  def test_delta_outside_is_refused(self, delta):
    with self.assertRaisesRegex(ValueError, r'delta must be in \(0, 1\)'):
      conformal.split_conformal(*make(10), alpha=0.1, delta=delta)


class ValidityTest(parameterized.TestCase):
  """Samples with replacement from one set, whose coverage is the true one."""

  def missed(self, n, alpha, delta, num_splits=500):
    probabilities, tables = make(20_000, seed=3)
    all_scores = np.sort(conformal.conformity(probabilities, tables))
    rng = np.random.default_rng(0)
    kappas = []
    for _ in range(num_splits):
      rows = rng.integers(20_000, size=n)
      point = conformal.split_conformal(
          probabilities[rows],
          [table.take(rows) for table in tables],
          alpha=alpha,
          delta=delta,
      )
      kappas.append(point.threshold)
    return np.searchsorted(all_scores, kappas) / 20_000

  @parameterized.parameters((60, 0.1), (150, 0.05))
  def test_marginal_coverage_is_exact(self, n, alpha):
    # Between alpha - 1 / (n + 1) and alpha on average, within three errors.
    missed = self.missed(n, alpha, None)
    noise = 3 * missed.std() / np.sqrt(len(missed))
    self.assertLessEqual(missed.mean(), alpha + noise)
    self.assertGreaterEqual(missed.mean(), alpha - 1 / (n + 1) - noise)

  def test_with_delta_almost_every_sample_covers(self):
    missed = self.missed(150, 0.1, 0.1)
    self.assertLessEqual(np.sum(missed > 0.1), stats.binom.ppf(0.999, 500, 0.1))
    # Without delta, about half of all samples miss more than alpha.
    self.assertGreater(np.mean(self.missed(150, 0.1, None) > 0.1), 0.3)


class RouteTest(absltest.TestCase):

  def test_joint_and_set_valued_rules_use_the_same_outcomes(self):
    probabilities, tables = make(50)
    kappas = np.array([[0.2, 0.3]])
    values = joint.values_at(probabilities[..., 1:], tables, kappas)
    times, channels = joint.exits(
        probabilities[..., 1:], tables[0].mask, kappas
    )
    for row in range(50):
      table = tables[channels[0, row]]
      self.assertEqual(values['cost'][0, row], table.cost[row, times[0, row]])
    self.assertIsInstance(
        conformal.split_conformal(probabilities, tables, alpha=0.1),
        thresholds_lib.OperatingPoint,
    )


if __name__ == '__main__':
  absltest.main()
