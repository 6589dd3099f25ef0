"""Tests of off-policy estimates by hand, enumeration and simulation."""

import itertools

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import types
from routing.outcomes import importance

THRESHOLDS = np.array([-np.inf, 0.35, 0.65, np.inf])
FIGURES = ('accuracy', 'cost', 'loss', 'gain')


def make_batch(actions, behaviour, costs, correct, reference, mask=None):
  """Returns a batch with two routes from arrays, without observations."""
  shape = actions.shape
  mask = np.ones(shape, bool) if mask is None else mask
  return types.TrajectoryBatch(
      features=np.zeros((*shape, 1), np.float32),
      mask=mask,
      available=np.ones((*shape, 2), bool),
      actions=actions.astype(np.int32),
      behaviour=np.where(mask, behaviour, 1.0).astype(np.float32),
      costs=np.where(mask, costs, 0.0).astype(np.float32),
      correct=correct.astype(np.float32),
      loss=(reference * (1 - correct)).astype(np.float32),
      gain=((1 - reference) * correct).astype(np.float32),
  )


def play(uniforms, choose):
  """Simulates `switch` with 3 steps, whose outcomes depend on the routes.

  Args:
    uniforms: `[N, 3, 3]`, of scores, slips and the reference's answer.
    choose: (scores `[N]`, step) -> actions `[N]`, their action_probabilities
      `[N]`.

  Returns:
    `[N, 3]` scores and a batch. The large model (1) slips less and costs more;
    after a slip scores are higher; after two the trace ends early.
  """
  num = len(uniforms)
  slips = np.zeros(num, int)
  is_open = np.ones(num, bool)
  columns = []
  for step in range(3):
    score = (uniforms[:, step, 0] + 0.3 * slips) / 1.6
    action, chance = choose(score, step)
    columns.append(
        (score, action, chance, 0.1 + 0.4 * action + 0.1 * slips, is_open)
    )
    slip = uniforms[:, step, 1] < np.where(action == 1, 0.1, 0.45)
    slips = slips + (slip & is_open)
    is_open = is_open & (slips < 2)
  scores, actions, probabilities, costs, mask = (
      np.stack(x, axis=1) for x in zip(*columns, strict=True)
  )
  correct = (slips == 0).astype(float)
  reference = (uniforms[:, 0, 2] < 0.7).astype(float)
  batch = make_batch(actions, probabilities, costs, correct, reference, mask)
  return scores, batch


def behave(rng, chance=0.5):
  """Escalates with probability `chance` at any observation."""

  def choose(scores, step):
    del step
    action = (rng.random(len(scores)) < chance).astype(int)
    return action, np.where(action == 1, chance, 1 - chance)

  return choose


def obey(threshold):
  """The target policy itself."""
  return lambda scores, step: (
      (scores >= threshold).astype(int),
      np.ones(len(scores)),
  )


def truth(num=400_000):
  """Returns {quantity: `[K]`} from many rollouts of each threshold."""
  uniforms = np.random.default_rng(99).random((num, 3, 3))
  rows = []
  for threshold in THRESHOLDS:
    _, batch = play(uniforms, obey(threshold))
    cost = np.asarray(batch.costs, float).sum(axis=1)
    rows.append(
        [
            batch.correct.mean(),
            cost.mean(),
            batch.loss.mean(),
            batch.gain.mean(),
        ]
    )
  return dict(zip(FIGURES, np.array(rows, float).T, strict=True))


def sample(num, seed, chance=0.5):
  rng = np.random.default_rng(seed)
  return play(rng.random((num, 3, 3)), behave(rng, chance))


class WeightsTest(parameterized.TestCase):

  def test_by_hand(self):
    # Behaviour escalates with 1/4. Target at 0.5: large, then small.
    scores = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.0]])
    batch = make_batch(
        actions=np.array([[1, 0], [1, 1], [1, 0]]),
        behaviour=np.array([[0.25, 0.75], [0.25, 0.25], [0.25, 1.0]]),
        costs=np.array([[0.6, 0.2], [0.5, 0.3], [0.8, 0.0]]),
        correct=np.array([1, 0, 0]),
        reference=np.array([1, 1, 1]),
        mask=np.array([[True, True], [True, True], [True, False]]),
    )
    weights = importance.cumulative_weights(scores, batch, 0.5)
    # The second disagrees at its second decision, the third ended before it.
    np.testing.assert_allclose(weights, [[4, 16 / 3], [4, 0], [4, 4]])
    got = importance.estimate(scores, batch, [0.5], min_effective_size=1)
    total = 16 / 3 + 4
    self.assertAlmostEqual(got.mass[0], total / 3)
    self.assertAlmostEqual(got.effective[0], total**2 / ((16 / 3) ** 2 + 4**2))
    self.assertAlmostEqual(got.unbiased.accuracy[0], 16 / 3 / 3)
    self.assertAlmostEqual(got.weighted.accuracy[0], 16 / 3 / total)
    # First payments have equal weights; of the second ones two count.
    first, second = (0.6 + 0.5 + 0.8) / 3, 16 / 3 * 0.2
    np.testing.assert_allclose(
        got.weighted.cost[0], first + second / total, rtol=1e-6
    )
    np.testing.assert_allclose(
        got.unbiased.cost[0], 4 * first + second / 3, rtol=1e-6
    )

  def test_on_policy_data_give_plain_means(self):
    uniforms = np.random.default_rng(0).random((200, 3, 3))
    scores, batch = play(uniforms, obey(0.35))
    got = importance.estimate(scores, batch, [0.35])
    self.assertAlmostEqual(got.effective[0], 200)
    for part in (got.weighted, got.unbiased):
      self.assertAlmostEqual(part.accuracy[0], batch.correct.mean(), places=6)
      self.assertAlmostEqual(part.cost[0], batch.costs.sum(1).mean(), places=6)

  @parameterized.parameters(0.2, 0.5, 0.8)
  def test_all_paths_enumerated_give_the_exact_value(self, threshold):
    # Uniform behaviour at each of 3 steps: 8 equally likely paths.
    # Costs depend on the path so far, the answer on the whole of it.
    actions = np.array(list(itertools.product([0, 1], repeat=3)))
    costs = 0.1 + 0.3 * actions + 0.05 * np.cumsum(actions, axis=1)
    correct = (actions.sum(axis=1) >= 2).astype(float)
    scores = np.tile([0.9, 0.4, 0.6], (8, 1))
    batch = make_batch(
        actions, np.full((8, 3), 0.5), costs, correct, np.ones(8)
    )
    path = np.flatnonzero((actions == (scores >= threshold)).all(axis=1))[0]
    got = importance.estimate(scores, batch, [threshold], min_effective_size=1)
    self.assertAlmostEqual(got.mass[0], 1)
    for part in (got.weighted, got.unbiased):
      self.assertAlmostEqual(part.accuracy[0], correct[path])
      self.assertAlmostEqual(part.loss[0], 1 - correct[path])
      self.assertAlmostEqual(part.cost[0], costs[path].sum(), places=6)

  def test_a_third_route(self):
    scores, batch = sample(50, 1)
    batch = batch.replace(available=np.ones((50, 3, 3), bool))
    always = importance.cumulative_weights(scores, batch, -np.inf)
    self.assertEqual(always.max(), 0)  # No trajectory took the largest route.
    routes = np.ones((50, 3), int)
    second = importance.cumulative_weights(scores, batch, -np.inf, routes)
    self.assertGreater(second.max(), 0)


class EstimateTest(parameterized.TestCase):

  def test_converges_to_fresh_rollouts(self):
    scores, batch = sample(100_000, 2)
    got = importance.estimate(scores, batch, THRESHOLDS)
    for name, values in truth().items():
      for part in (got.weighted, got.unbiased):
        np.testing.assert_allclose(getattr(part, name), values, atol=0.02)
    np.testing.assert_allclose(got.mass, 1, atol=0.03)

  def test_normalising_reduces_the_variance(self):
    # Why the weighted one is the point estimate.
    errors = {'weighted': [], 'unbiased': []}
    want = truth()
    for seed in range(30):
      got = importance.estimate(*sample(1_000, seed), THRESHOLDS)
      for part, rows in errors.items():
        rows.append([getattr(getattr(got, part), x) - want[x] for x in FIGURES])
    rms = {p: np.sqrt(np.mean(np.square(x), (0, 2))) for p, x in errors.items()}
    accuracy, cost = (rms['weighted'] / rms['unbiased'])[:2]
    self.assertLess(accuracy, 1)
    self.assertLess(cost, 0.5)

  @parameterized.parameters(0.5, 0.25)
  def test_intervals_cover_in_simulation(self, chance):
    delta, want, broken, width = 0.2, truth(), 0, []
    for seed in range(60):
      scores, batch = sample(2_000, 1_000 + seed, chance)
      got = importance.estimate(
          scores, batch, THRESHOLDS, delta=delta, min_effective_size=10
      )
      for name, values in want.items():
        low, high = getattr(got.lower, name), getattr(got.upper, name)
        broken += (low > values) | (values > high)
        width.append(high - low)
    # Each of the four figures of each threshold; binomial error of 60 draws.
    self.assertLessEqual(broken.max() / 4, 60 * delta + 3 * np.sqrt(60 * 0.16))
    self.assertLess(np.mean(width), 0.6)  # Not by saying nothing.

  def test_intervals_cover_where_the_behaviour_lacks_support(self):
    # It escalates at the first step only, at rate 1/2; 'always' lacks support.
    def choose(scores, step):
      action = (rng.random(len(scores)) < 0.5) * (step == 0)
      return action.astype(int), np.full(len(scores), 0.5 if step == 0 else 1.0)

    rng = np.random.default_rng(3)
    scores, batch = play(rng.random((5_000, 3, 3)), choose)
    got = importance.estimate(scores, batch, [0.65], min_effective_size=10)
    want = truth()
    self.assertLess(got.mass[0], 0.9)
    for name in FIGURES:
      self.assertLessEqual(getattr(got.lower, name)[0], want[name][2])
      self.assertGreaterEqual(getattr(got.upper, name)[0], want[name][2])

  def test_repeated_answers_to_a_problem_add_no_evidence(self):
    scores, batch = sample(300, 4)
    twice = np.tile(np.arange(300), 2)
    again = types.TrajectoryBatch(
        **{name: value[twice] for name, value in vars(batch).items()}
    )
    once = importance.estimate(scores, batch, THRESHOLDS, min_effective_size=1)
    got = importance.estimate(
        scores[twice], again, THRESHOLDS, min_effective_size=1, problems=twice
    )
    np.testing.assert_allclose(got.effective, once.effective)
    for part in ('weighted', 'unbiased', 'lower', 'upper'):
      for name in FIGURES:
        np.testing.assert_allclose(
            getattr(getattr(got, part), name),
            getattr(getattr(once, part), name),
            atol=1e-12,
        )

  def test_interval_by_its_formula(self):
    # Payments have per-decision weights; the rest has the last weight.
    scores, batch = sample(500, 9)
    got = importance.estimate(
        scores, batch, [0.35], delta=0.1, min_effective_size=10
    )
    weights = importance.cumulative_weights(scores, batch, 0.35)
    costs = np.asarray(batch.costs, float)  # No trace costs as much as 2.
    paid = (weights * costs / 2).sum(axis=1)
    saved = weights[:, -1] * (1 - costs.sum(axis=1) / 2)
    bounds = []
    for values in (paid, saved):
      every = []
      for clip in (1, 4, 16, 64, 256, 1024):
        x, log = np.minimum(values, clip), np.log(2 / (0.1 / 2 / 6))
        spread = np.sqrt(2 * np.var(x, ddof=1) * log / 500)
        every.append(x.mean() - spread - 7 * clip * log / (3 * 499))
      bounds.append(max(0, *every))
    self.assertAlmostEqual(got.lower.cost[0], 2 * bounds[0])
    self.assertAlmostEqual(got.upper.cost[0], 2 * (1 - bounds[1]))
    self.assertGreater(bounds[0], 0)

  def test_costs_are_capped_in_the_interval_only(self):
    scores, batch = sample(2_000, 5)
    dear = batch.replace(costs=batch.costs * 100)
    got = importance.estimate(scores, dear, [0.35], cost_cap=0.5)
    self.assertLessEqual(got.upper.cost[0], 0.5)
    self.assertGreater(got.weighted.cost[0], 10)


class RefusalTest(parameterized.TestCase):

  def test_too_few_effective_problems(self):
    scores, batch = sample(400, 6, chance=0.05)
    # Three escalations in a row have probability 0.05^3.
    with self.assertRaisesRegex(ValueError, 'no trajectory agrees'):
      importance.estimate(scores, batch, [-np.inf])
    scores, batch = sample(400, 6)
    with self.assertRaisesRegex(
        ValueError,
        r'threshold -inf, 400 problems have an effective sample size of '
        r'\d\d\.\d; 100 are needed: collect about [\d,]+ problems',
    ):
      importance.estimate(scores, batch, [-np.inf])

  def test_the_suggested_number_of_problems_suffices(self):
    scores, batch = sample(400, 6)
    with self.assertRaises(ValueError) as caught:
      importance.estimate(scores, batch, [-np.inf])
    num = str(caught.exception).split('about ')[1].split(' ')[0]
    scores, batch = sample(int(1.2 * int(num.replace(',', ''))), 7)
    got = importance.estimate(scores, batch, [-np.inf])
    self.assertGreaterEqual(got.effective[0], 100)

  @parameterized.parameters(
      (dict(scores=np.zeros((50, 2))), r'Scores must be \[B, T\] = \(50, 3\)'),
      (dict(scores=np.full((50, 3), np.nan)), 'finite at decisions'),
      (dict(thresholds=[0.5, 0.1]), 'rise strictly'),
      (dict(delta=0.0), 'delta is 0.0; it must be in'),
      (dict(cost_cap=0.0), 'cost_cap is 0.0; it must be positive'),
      (dict(problems=np.zeros(3)), 'problems must have 50 entries.* got 3'),
  )
  def test_bad_arguments(self, other, message):
    scores, batch = sample(50, 8)
    given = {'scores': scores, 'batch': batch, 'thresholds': [0.5]}
    with self.assertRaisesRegex(ValueError, message):
      importance.estimate(**given | other)

  def test_bad_batches(self):
    scores, batch = sample(50, 8)
    impossible = batch.replace(behaviour=np.zeros_like(batch.behaviour))
    with self.assertRaisesRegex(ValueError, r'in \(0, 1\], got 0'):
      importance.estimate(scores, impossible, [0.5])
    available = np.copy(batch.available)
    available[..., 1] = False
    with self.assertRaisesRegex(ValueError, 'route 1, which is not available'):
      importance.estimate(scores, batch.replace(available=available), [0.5])


class EmpiricalBernsteinTest(parameterized.TestCase):

  def test_by_hand(self):
    # Mean 1/2, V = 1/3, log(2 / delta) = 1.
    got = importance.empirical_bernstein_lower(
        np.tile([0.0, 1.0], 500), 1.0, 2 / np.e
    )
    variance = 0.25 * 1_000 / 999
    want = 0.5 - np.sqrt(2 * variance / 1_000) - 7 / (3 * 999)
    self.assertAlmostEqual(got, want)

  def test_scales_with_its_values(self):
    values = np.random.default_rng(0).random(100)
    one = importance.empirical_bernstein_lower(values, 1.0, 0.1)
    ten = importance.empirical_bernstein_lower(10 * values, 10.0, 0.1)
    self.assertAlmostEqual(ten, 10 * one)

  @parameterized.parameters(([0.5],), ([0.5, 1.5],), ([-0.5, 0.5],))
  def test_bad_values_raise(self, values):
    with self.assertRaisesRegex(ValueError, r'two or more in \[0, 1\]'):
      importance.empirical_bernstein_lower(np.array(values), 1.0, 0.1)


if __name__ == '__main__':
  absltest.main()
