"""Tests of objectives at edge cases: closed forms, defaults, refused shapes."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from routing.objectives import exact
from routing.objectives import lagrangian
from tests import exact_test


def outcomes(correct, cost, loss):
  """Returns outcomes that are means over problems."""
  return exact.Outcomes(
      correct=jnp.float32(correct),
      cost=jnp.float32(cost),
      loss=jnp.float32(loss),
  )


class ExactTest(parameterized.TestCase):

  def test_mean_of_problems(self):
    got = exact.Outcomes(
        correct=jnp.array([0.0, 1.0]),
        cost=jnp.array([0.2, 0.6]),
        loss=jnp.array([1.0, 0.5]),
    ).mean()
    np.testing.assert_allclose(
        [got.correct, got.cost, got.loss], [0.5, 0.4, 0.75], rtol=1e-6
    )
    self.assertEqual(np.shape(got.cost), ())

  def test_entropy_by_hand(self):
    # Probabilities 1/4 and 3/4, 1/2 and 1/2; the third decision is padding.
    logits = jnp.log(jnp.array([[[1.0, 3.0], [1.0, 1.0], [1.0, 9.0]]]))
    mask = np.array([[True, True, False]])
    want = -(np.log(0.25) / 4 + 3 * np.log(0.75) / 4 + np.log(0.5)) / 2
    got = exact.mean_entropy(logits, mask)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    # Without a decision the entropy is 0, and nothing is divided by 0.
    self.assertEqual(exact.mean_entropy(logits, mask & False), 0.0)
    # The mean over one decision is not halved.
    got = exact.mean_entropy(logits, np.array([[False, True, False]]))
    np.testing.assert_allclose(got, np.log(2.0), rtol=1e-6)

  def test_branch_probabilities_of_a_chain_equal_a_loop(self):
    # In a chain, a step is reached by staying at all earlier steps.
    rng = np.random.default_rng(0)
    batch = exact_test._batch(rng, 4, 3, 2, is_full=True)
    logits = jnp.asarray(rng.normal(size=(4, 3, 2)), jnp.float32)
    self.assertTrue(batch.is_chain)
    got = exact.branch_log_probabilities(logits, batch)
    log_probs = np.asarray(jax.nn.log_softmax(logits))
    reached = np.zeros(4)
    for step in range(3):
      np.testing.assert_allclose(
          got[:, step], reached[:, None] + log_probs[:, step], rtol=1e-5
      )
      reached = reached + log_probs[:, step, 0]

  def test_branch_probabilities_of_a_reply_tree_equal_a_loop(self):
    # Levels of one, two and four decisions. The decisions of the first problem
    # stand in the order of the branches that lead to them, those of the second
    # do not.
    rng = np.random.default_rng(1)
    ladder = exact_test._batch(rng, 2, 7, 2, is_full=True)
    branch = np.zeros((2, 7), np.int32)
    branch[:, 1:3] = [[0, 1], [1, 0]]
    branch[:, 3:] = [[0, 1, 2, 3], [3, 1, 0, 2]]
    batch = ladder.replace(branch=branch, widths=(1, 2, 4))
    self.assertFalse(batch.is_chain)
    logits = jnp.asarray(rng.normal(size=(2, 7, 2)), jnp.float32)
    got = exact.branch_log_probabilities(logits, batch)
    log_probs = np.asarray(jax.nn.log_softmax(logits))
    for n in range(2):
      levels, reached = [(0, 1), (1, 3), (3, 7)], [0.0]
      for start, stop in levels:
        ways = []
        for d in range(start, stop):
          before = reached[branch[n, d]] if start else 0.0
          ways += [before + log_probs[n, d, a] for a in range(2)]
        np.testing.assert_allclose(
            np.ravel(got[n, start:stop]), ways, rtol=1e-5
        )
        reached = ways

  @parameterized.parameters('rank', 'mask', 'branch', 'widths', 'type')
  def test_inconsistent_shapes_and_types_are_refused(self, what):
    batch = exact_test._batch(np.random.default_rng(0), 2, 3, 2)
    logits = jnp.zeros((2, 3, 2))
    if what == 'rank':
      logits = logits[..., None]
    elif what == 'mask':
      batch = batch.replace(mask=batch.mask[:1])
    elif what == 'branch':
      batch = batch.replace(branch=batch.branch[:, :2])
    elif what == 'widths':
      batch = batch.replace(widths=(1, 1))
    else:
      logits = logits.astype(int)
    with self.assertRaises(AssertionError):
      exact.branch_log_probabilities(logits, batch)
    with self.assertRaises(AssertionError):
      exact.mean_entropy(jnp.zeros((2, 3)), np.ones((2, 3), bool))


class LagrangianTest(parameterized.TestCase):

  @parameterized.parameters(
      ('budget', 0.2), ('budget', 1.0), ('reliability', 0.0), ('reliability', 1)
  )
  def test_levels_at_the_ends_of_the_range_are_allowed(self, form, level):
    self.assertIsNone(lagrangian.check_levels((level,), 0.2, form=form))

  @parameterized.parameters(
      ('budget', 0.2 - 1e-9, r'allowed: 0.2 \(the cost of the small .* to 1'),
      ('budget', 1 + 1e-9, 'has 1.0'),
      ('reliability', -1e-9, 'allowed: 0 to 1'),
      ('reliability', 1 + 1e-9, 'to 1'),
  )
  def test_levels_out_of_range_are_refused(self, form, level, says):
    with self.assertRaisesRegex(ValueError, says):
      lagrangian.check_levels((0.5, level), 0.2, form=form)

  def test_the_form_is_checked_everywhere(self):
    one = outcomes(0.5, 0.5, 0.1)
    for call in (
        lambda: lagrangian.check_levels((0.5,), 0.2, form='both'),
        lambda: lagrangian.constrained(one, 'both'),
        lambda: lagrangian.lagrangian_loss(one, 1.0, 0.5, form='both'),
    ):
      with self.assertRaisesRegex(ValueError, "'both'; allowed: budget"):
        call()
    self.assertEqual(lagrangian.check_form('reliability'), 'reliability')

  def test_damping_is_zero_by_default(self):
    # The excess is .1: 2 * .1 - .7. With damping 5 the weight is 2.5.
    one = outcomes(0.7, 0.6, 0.1)
    for kwargs, want in (({}, -0.5), (dict(damping=5.0), -0.45)):
      got = lagrangian.lagrangian_loss(one, 2.0, 0.5, form='budget', **kwargs)
      np.testing.assert_allclose(got, want, rtol=1e-5)

  def test_only_means_over_problems_are_allowed(self):
    many = exact.Outcomes(
        correct=jnp.zeros(2), cost=jnp.zeros(2), loss=jnp.zeros(2)
    )
    with self.assertRaises(AssertionError):
      lagrangian.lagrangian_loss(many, 1.0, 0.5, form='budget')

  def test_controllers_of_several_policies_are_independent(self):
    start = jnp.array([0.0, 1.0])
    controller = lagrangian.init_controller(start)
    self.assertEqual(controller.previous.shape, (2,))
    self.assertTrue(np.isposinf(controller.previous).all())
    settings = dict(proportional=1.0, integral=0.5, derivative=2.0, maximum=9.0)
    # Both have an excess of 0.2 and then 0.5, which is a rise of 0.3.
    for excess, total in ((0.2, 0.1), (0.5, 0.35)):
      got, controller = lagrangian.control_multiplier(
          controller, excess, **settings
      )
      rise = 0.3 if excess == 0.5 else 0.0
      np.testing.assert_allclose(
          got, excess + total + start + 2 * rise, rtol=1e-5
      )
    np.testing.assert_allclose(controller.integral, [0.35, 1.35], rtol=1e-5)
    np.testing.assert_allclose(controller.previous, [0.5, 0.5], rtol=1e-5)
    self.assertEqual(controller.previous.dtype, jnp.float32)

  def test_the_integral_stays_between_zero_and_the_maximum(self):
    settings = dict(proportional=0.0, integral=1.0, derivative=0.0, maximum=2.0)
    controller = lagrangian.init_controller(0.5)
    for excess, want in ((9.0, 2.0), (-0.5, 1.5), (-9.0, 0.0), (0.25, 0.25)):
      got, controller = lagrangian.control_multiplier(
          controller, excess, **settings
      )
      self.assertEqual((got, controller.integral), (want, want))


class ScoreTest(parameterized.TestCase):

  SMALL, LARGE = outcomes(0.4, 0.2, 0.5), outcomes(0.9, 1.0, 0.0)

  def score(self, form, level, policy, always_small=None, always_large=None):
    return float(
        lagrangian.score_at_level(
            outcomes(*policy),
            always_small or self.SMALL,
            always_large or self.LARGE,
            level,
            form=form,
        )
    )

  @parameterized.parameters(
      # A level that the small model alone meets exactly, one that it does not.
      ('budget', 0.2, (0.7, 0.6, 0.1), 0.4),
      ('budget', 0.19, (0.7, 0.6, 0.1), -np.inf),
      ('reliability', 0.0, (0.7, 0.6, 0.1), -1.0),
      # At the cost of the large model and above: the large model alone.
      ('budget', 1.0, (0.7, 0.6, 0.1), 0.9),
      ('budget', 2.0, (0.7, 0.6, 0.1), 0.9),
      ('reliability', 0.9, (0.7, 0.6, 0.1), -0.2),
  )
  def test_levels_at_the_ends_and_beyond(self, form, level, policy, want):
    got = self.score(form, level, policy)
    np.testing.assert_allclose(got, want, rtol=1e-5)

  def test_a_level_below_the_loss_of_the_large_model_is_not_met(self):
    # The large model alone loses .1 here, which is more than the level.
    got = self.score(
        'reliability',
        0.05,
        (0.7, 0.6, 0.2),
        always_large=outcomes(0.9, 1.0, 0.1),
    )
    self.assertEqual(got, -np.inf)
    got = self.score(
        'reliability',
        0.1,
        (0.7, 0.6, 0.2),
        always_large=outcomes(0.9, 1.0, 0.1),
    )
    np.testing.assert_allclose(got, -1.0, rtol=1e-6)

  def test_a_constant_policy_of_equal_cost_is_not_mixed_in(self):
    # The large model costs as much and is better, but no mixture costs .6.
    policy, large = (0.5, 0.5, 0.1), outcomes(0.9, 0.5, 0.0)
    self.assertEqual(self.score('budget', 0.6, policy, always_large=large), 0.5)
    # A gap of exactly 1 counts: the level lies at .6 of it.
    got = self.score('budget', 0.6, (0.5, 0.0, 0.1))
    np.testing.assert_allclose(got, 0.4 * 0.5 + 0.6 * 0.9, rtol=1e-6)
    got = self.score('budget', 0.6, (0.5, 1.2, 0.1))
    np.testing.assert_allclose(got, 0.4 * 0.5 + 0.6 * 0.4, rtol=1e-6)

  def test_a_cost_equal_to_the_level_is_allowed_whatever_the_ends_cost(self):
    got = self.score(
        'budget', 0.5, (0.625, 0.5, 0.1), always_small=outcomes(0.4, 0.6, 0.5)
    )
    self.assertEqual(got, 0.625)

  def test_a_cost_above_the_level_without_a_gap_is_not_met(self):
    same = outcomes(0.5, 0.6, 0.1)
    score = lambda level: self.score(
        'budget', level, (0.5, 0.6, 0.1), same, same
    )
    self.assertEqual(score(0.5), -np.inf)
    with jax.debug_nans(True):  # No 0 / 0 occurs.
      self.assertEqual(score(0.6), 0.5)


if __name__ == '__main__':
  absltest.main()
