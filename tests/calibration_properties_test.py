"""Properties of calibration that hold for any data, tested by hypothesis.

Scores are drawn from few values, so that ties are common. Decisions may be
missing anywhere in a trace.
"""

from absl.testing import absltest
import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np

from routing import types
from routing.calibration import bounds
from routing.calibration import drift
from routing.calibration import online
from routing.calibration import thresholds as thresholds_lib
from routing.outcomes import frontier as frontier_lib
from routing.outcomes import importance
from routing.outcomes import stopping as stopping_lib
from tests import ladders

FIGURES = ('accuracy', 'cost', 'loss', 'gain')
LEVELS = st.floats(0.02, 0.5)
DELTAS = st.sampled_from((0.05, 0.1, 0.2))
LOSSES = st.lists(st.floats(0, 1), min_size=1, max_size=60)

examples = hypothesis.settings(max_examples=40, deadline=None)


@st.composite
def tables(draw):
  """Draws `[N, T]` scores of few values and outcomes, with any mask."""
  num, steps = draw(st.integers(1, 8)), draw(st.integers(1, 5))
  scores = draw(
      hnp.arrays(np.float64, (num, steps), elements=st.integers(0, 4))
  )
  binary = hnp.arrays(np.float64, (num, steps + 1), elements=st.integers(0, 1))
  cost = draw(
      hnp.arrays(np.float64, (num, steps + 1), elements=st.integers(1, 9))
  )
  correct, largest = draw(binary), draw(binary)
  return scores, stopping_lib.Outcomes(
      mask=draw(hnp.arrays(bool, (num, steps))),
      correct=correct,
      cost=cost / 8,
      loss=largest * (1 - correct),
      gain=correct * (1 - largest),
  )


@st.composite
def behaviours(draw):
  """Draws `[B, T]` scores of few values and a behaviour batch of two routes."""
  num, steps = draw(st.integers(2, 8)), draw(st.integers(1, 4))
  grid = lambda low, high: hnp.arrays(
      np.float64, (num, steps), elements=st.integers(low, high)
  )
  lengths = draw(hnp.arrays(int, num, elements=st.integers(1, steps)))
  correct = draw(hnp.arrays(np.float64, num, elements=st.integers(0, 1)))
  reference = draw(hnp.arrays(np.float64, num, elements=st.integers(0, 1)))
  mask = np.arange(steps) < lengths[:, None]
  return draw(grid(0, 4)), types.TrajectoryBatch(
      features=np.zeros((num, steps, 1)),
      mask=mask,
      available=np.ones((num, steps, 2), bool),
      actions=draw(grid(0, 1)).astype(int),
      behaviour=draw(grid(1, 4)) / 4,
      costs=draw(grid(0, 4)) * mask / 8,
      correct=correct,
      loss=reference * (1 - correct),
      gain=(1 - reference) * correct,
  )


def rescaled(scores, seed):
  """Draws a strictly rising function of the few values that scores take."""
  steps = np.random.default_rng(seed).exponential(size=5)
  return (np.cumsum(steps) - 3)[scores.astype(int)]


def assert_same_figures(got, want):
  for name in FIGURES:
    np.testing.assert_allclose(
        getattr(got, name), getattr(want, name), atol=1e-12, err_msg=name
    )


class FrontierTest(absltest.TestCase):

  @examples
  @hypothesis.given(tables())
  def test_equals_a_walk_step_by_step(self, drawn):
    scores, table = drawn
    got = frontier_lib.frontier(scores, table)
    rows = np.arange(table.num_problems)
    for index, threshold in enumerate(got.thresholds):
      times = ladders.walk(scores, table.mask, threshold)
      self.assertAlmostEqual(
          got.cost[index], table.cost[rows, times].mean(), places=12
      )
      self.assertAlmostEqual(
          got.loss[index], table.loss[rows, times].mean(), places=12
      )

  @examples
  @hypothesis.given(tables(), st.integers(0, 99))
  def test_order_duplicates_and_scale_change_nothing(self, drawn, seed):
    scores, table = drawn
    want = frontier_lib.frontier(scores, table)
    order = np.random.default_rng(seed).permutation(table.num_problems)
    for rows in (order, np.repeat(order, 3)):
      got = frontier_lib.frontier(scores[rows], table.take(rows))
      np.testing.assert_array_equal(got.thresholds, want.thresholds)
      assert_same_figures(got, want)
    got = frontier_lib.frontier(rescaled(scores, seed), table)
    assert_same_figures(got, want)
    inner = rescaled(want.thresholds[1:-1], seed)
    np.testing.assert_array_equal(got.thresholds[1:-1], inner)

  @examples
  @hypothesis.given(tables(), st.integers(0, 4))
  def test_chosen_thresholds_are_on_the_frontier(self, drawn, seed):
    scores, table = drawn
    budget = table.cost[:, -1].mean()
    hypothesis.assume(budget <= 1)
    want = thresholds_lib.for_budget(scores, table, budget)
    order = np.random.default_rng(seed).permutation(table.num_problems)
    got = thresholds_lib.for_budget(
        rescaled(scores, seed)[order], table.take(order), budget
    )
    assert_same_figures(got, want)


class OffPolicyTest(absltest.TestCase):

  def estimate(self, scores, batch, thresholds, **kwargs):
    try:
      return importance.estimate(
          scores, batch, thresholds, min_effective_size=0.1, **kwargs
      )
    except ValueError as refusal:  # No trajectory agrees with the target.
      self.assertRegex(str(refusal), 'effective')
      hypothesis.reject()

  @examples
  @hypothesis.given(behaviours(), st.integers(0, 99))
  def test_order_and_scale_change_nothing(self, drawn, seed):
    scores, batch = drawn
    want = self.estimate(scores, batch, [2.0])
    rows = np.random.default_rng(seed).permutation(len(scores))
    shuffled = types.TrajectoryBatch(
        **{name: value[rows] for name, value in vars(batch).items()}
    )
    other = rescaled(np.array([2.0]), seed)
    got = self.estimate(rescaled(scores, seed)[rows], shuffled, other)
    for part in ('weighted', 'unbiased', 'lower', 'upper'):
      assert_same_figures(getattr(got, part), getattr(want, part))

  @examples
  @hypothesis.given(behaviours())
  def test_repeated_problems_increase_the_effective_size(self, drawn):
    # Counted as new problems, repeated rows double the effective size, keep the
    # estimates and never widen the interval.
    scores, batch = drawn
    want = self.estimate(scores, batch, [2.0])
    twice = types.TrajectoryBatch(
        **{
            name: np.tile(x, (2, *[1] * (x.ndim - 1)))
            for name, x in vars(batch).items()
        }
    )
    got = self.estimate(np.tile(scores, (2, 1)), twice, [2.0])
    np.testing.assert_allclose(got.effective, 2 * want.effective)
    assert_same_figures(got.weighted, want.weighted)
    for name in FIGURES:
      low, high = getattr(got.lower, name), getattr(got.upper, name)
      self.assertGreaterEqual(low[0], getattr(want.lower, name)[0] - 1e-12)
      self.assertLessEqual(high[0], getattr(want.upper, name)[0] + 1e-12)


class EvidenceTest(absltest.TestCase):
  """More trajectories at the same rate never withdraw a promise."""

  @examples
  @hypothesis.given(
      st.integers(1, 300), st.data(), LEVELS, DELTAS, st.integers(2, 9)
  )
  def test_more_of_the_same_rate_stays_accepted(
      self, num, data, level, delta, times
  ):
    count = data.draw(st.integers(0, int(level * num)))
    for p_value in (
        lambda m: bounds.binomial_p_value(m * count, m * num, level),
        lambda m: bounds.hoeffding_bentkus_p_value(count / num, m * num, level),
    ):
      if p_value(1) <= delta:
        self.assertLessEqual(p_value(times), delta)

  @examples
  @hypothesis.given(st.integers(1, 300), st.data(), LEVELS)
  def test_one_more_without_a_loss_helps_and_one_with_a_loss_does_not(
      self, num, data, level
  ):
    count = data.draw(st.integers(0, num))
    for p_value in (
        lambda c, n: bounds.binomial_p_value(c, n, level),
        lambda c, n: bounds.hoeffding_bentkus_p_value(c / n, n, level),
    ):
      here, slack = p_value(count, num), 1 + 1e-9
      self.assertLessEqual(p_value(count, num + 1), here * slack)
      self.assertGreaterEqual(p_value(count + 1, num + 1) * slack, here)

  @examples
  @hypothesis.given(st.integers(0, 10**6), DELTAS, st.integers(2, 4))
  def test_a_promised_point_stays_promised(self, seed, delta, times):
    outcomes, scores = ladders.make_outcomes(100, seed=seed, num_levels=8)
    given = {
        'alpha': 0.1,
        'delta': delta,
        'thresholds': np.array([-np.inf, 0.0, 0.5, 1.0, 2.0, np.inf]),
        'max_cost': np.inf,
    }
    once = thresholds_lib.learn_then_test(scores, outcomes, **given)
    rows = np.tile(np.arange(100), times)
    more = thresholds_lib.learn_then_test(
        scores[rows], outcomes.take(rows), **given
    )
    self.assertLessEqual(more.cost, once.cost + 1e-12)
    self.assertLessEqual(more.loss, 0.1)


class ServiceTest(absltest.TestCase):

  @examples
  @hypothesis.given(LOSSES, LEVELS, st.integers(0, 59), st.floats(0, 1))
  def test_worse_answers_only_raise_the_alarm_sooner(
      self, losses, alpha, at, worse
  ):
    state = other = drift.init(alpha)
    for index, loss in enumerate(losses):
      state = drift.update(state, loss)
      loss = max(loss, worse) if index == at % len(losses) else loss
      other = drift.update(other, loss)
      self.assertGreaterEqual(
          drift.log_capital(other), drift.log_capital(state) - 1e-9
      )
    self.assertLessEqual(
        drift.p_value(other), drift.p_value(state) * (1 + 1e-9)
    )

  @examples
  @hypothesis.given(LOSSES, LEVELS)
  def test_a_bet_is_fair_after_any_history(self, losses, alpha):
    state = drift.init(alpha)
    for loss in losses:
      state = drift.update(state, loss)
    miss, none = (drift.log_capital(drift.update(state, x)) for x in (1, 0))
    mean = np.logaddexp(np.log(alpha) + miss, np.log1p(-alpha) + none)
    self.assertAlmostEqual(mean, drift.log_capital(state))

  @examples
  @hypothesis.given(
      LOSSES, LEVELS, st.floats(0.01, 3), st.floats(0, 0.5), st.floats(0, 1)
  )
  def test_no_sequence_loses_more_than_the_guarantee(
      self, losses, alpha, first_step, xi, kappa
  ):
    state = online.init(kappa, alpha=alpha, first_step=first_step, xi=xi)
    for loss in losses:
      # The only assumption: nothing is lost at the lowest threshold.
      state = online.update(state, loss if state.kappa > 0 else 0.0)
      self.assertLessEqual(state.kappa, 1)
      self.assertLessEqual(
          online.mean_loss(state), online.guarantee(state) + 1e-9
      )

  @examples
  @hypothesis.given(LOSSES, LEVELS)
  def test_kappa_is_the_start_moved_by_the_sum_of_all_steps(
      self, losses, alpha
  ):
    # The whole history as one sum; `high` is too large for the cap to matter.
    state = online.init(0.5, alpha=alpha, high=1e9, first_step=1.0)
    for loss in losses:
      state = online.update(state, loss)
    steps = np.arange(1, len(losses) + 1) ** -0.6
    moved = 0.5 - np.sum(steps * (np.array(losses) - alpha))
    self.assertAlmostEqual(state.kappa, moved)
    self.assertEqual(state.count, len(losses))


class RollingTest(absltest.TestCase):

  @examples
  @hypothesis.given(tables(), st.integers(0, 99))
  def test_order_of_rollouts_does_not_matter(self, drawn, seed):
    scores, table = drawn
    thresholds = np.array([-np.inf, 1.0, 3.0, np.inf])
    times = stopping_lib.stopping_times(scores, table.mask, thresholds)
    values = stopping_lib.at_times(table, times)
    order = np.random.default_rng(seed).permutation(table.num_problems)
    want = frontier_lib.from_rollouts(thresholds, **values)
    got = frontier_lib.from_rollouts(
        thresholds, **{name: x[:, order] for name, x in values.items()}
    )
    assert_same_figures(got, want)


if __name__ == '__main__':
  absltest.main()
