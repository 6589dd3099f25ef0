"""Tests of the closed form: enumeration, REINFORCE, differences, padding."""

import itertools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from routing.objectives import exact
from tests import ladders


def _batch(rng, batch_size, num_steps, num_routes, *, is_full=False):
  """Returns ladders of 1 to T steps with random outcomes."""
  lengths = rng.integers(1, num_steps + 1, batch_size)
  if is_full:
    lengths[:] = num_steps
  shape = batch_size, num_steps, num_routes - 1

  def draw(*size):
    return rng.random(size).astype(np.float32)

  return ladders.ladder_batch(
      features=np.zeros((batch_size, num_steps, 1), np.float32),
      mask=np.arange(num_steps) < lengths[:, None],
      handover_correct=draw(*shape),
      handover_cost=draw(*shape),
      handover_loss=draw(*shape),
      stay_correct=draw(batch_size),
      stay_cost=draw(batch_size),
      stay_loss=draw(batch_size),
  )


def _softmax(logits):
  weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return weights / weights.sum(axis=-1, keepdims=True)


def _enumerate(probabilities, batch, problem):
  """Yields the probability and outcome of each sequence of actions."""
  length = int(batch.mask[problem].sum())
  num_routes = probabilities.shape[-1]
  for actions in itertools.product(range(num_routes), repeat=length):
    chance = np.prod(
        [probabilities[problem, t, a] for t, a in enumerate(actions)]
    )
    first = next((t for t, a in enumerate(actions) if a), None)
    if first is None:
      outcome = (
          batch.correct[..., 0].sum(axis=1)[problem],
          batch.cost[..., 0].sum(axis=1)[problem],
          batch.loss[..., 0].sum(axis=1)[problem],
      )
    else:
      where = problem, first, actions[first] - 1
      outcome = (
          batch.correct[..., 1:][where],
          batch.cost[..., 1:][where],
          batch.loss[..., 1:][where],
      )
    yield chance, np.asarray(outcome)


class ExactOutcomesTest(parameterized.TestCase):

  def test_hand_computed(self):
    # One problem, two steps, logits 0 and log 3, so that the hand-over
    # probabilities are 1/2 and 3/4. P(at 0) = 1/2, P(at 1) = 1/2 * 3/4 = 3/8,
    # P(never) = 1/8.
    # correct = 1/2 * 1 + 3/8 * 0 + 1/8 * 1 = 0.625
    # cost    = 1/2 * 1.0 + 3/8 * 0.8 + 1/8 * 0.4 = 0.85
    # loss    = 3/8 * 1 = 0.375
    batch = ladders.ladder_batch(
        features=np.zeros((1, 2, 1), np.float32),
        mask=np.ones((1, 2), bool),
        handover_correct=np.array([[[1.0], [0.0]]], np.float32),
        handover_cost=np.array([[[1.0], [0.8]]], np.float32),
        handover_loss=np.array([[[0.0], [1.0]]], np.float32),
        stay_correct=np.array([1.0], np.float32),
        stay_cost=np.array([0.4], np.float32),
        stay_loss=np.array([0.0], np.float32),
    )
    logits = jnp.array([[[0.0, 0.0], [0.0, np.log(3.0)]]])
    got = exact.exact_outcomes(logits, batch)
    np.testing.assert_allclose(got.correct, [0.625], rtol=1e-6)
    np.testing.assert_allclose(got.cost, [0.85], rtol=1e-6)
    np.testing.assert_allclose(got.loss, [0.375], rtol=1e-6)

  @parameterized.parameters(2, 3)
  def test_equals_enumeration_of_all_paths(self, num_routes):
    rng = np.random.default_rng(num_routes)
    batch = _batch(rng, 6, 4, num_routes)
    logits = 2 * rng.normal(size=(6, 4, num_routes)).astype(np.float32)
    got = jax.jit(exact.exact_outcomes)(logits, batch)
    probabilities = _softmax(logits)
    for n in range(6):
      expected = sum(
          p * outcome for p, outcome in _enumerate(probabilities, batch, n)
      )
      np.testing.assert_allclose(
          [got.correct[n], got.cost[n], got.loss[n]], expected, rtol=1e-5
      )

  @parameterized.parameters(2, 3)
  def test_gradient_equals_finite_differences(self, num_routes):
    rng = np.random.default_rng(num_routes)
    batch = _batch(rng, 3, 3, num_routes)
    logits = rng.normal(size=(3, 3, num_routes))
    # In double precision, so that a difference of 1e-5 is not rounded away.
    with jax.enable_x64(True):

      @jax.jit
      def value(x):
        got = exact.exact_outcomes(x, batch)
        return jnp.mean(got.correct - 0.7 * got.cost + 0.3 * got.loss)

      gradient = np.asarray(jax.jit(jax.grad(value))(logits))
      for where in np.ndindex(logits.shape):
        nudge = np.zeros_like(logits)
        nudge[where] = 1e-5
        difference = (value(logits + nudge) - value(logits - nudge)) / 2e-5
        np.testing.assert_allclose(
            gradient[where], difference, rtol=1e-5, atol=1e-9
        )

  @parameterized.parameters(2, 3)
  def test_gradient_is_the_mean_of_reinforce(self, num_routes):
    rng = np.random.default_rng(10 + num_routes)
    batch = _batch(rng, 1, 3, num_routes, is_full=True)
    logits = rng.normal(size=(1, 3, num_routes)).astype(np.float32)
    gradient = jax.jit(
        jax.grad(lambda x: exact.exact_outcomes(x, batch).correct.sum())
    )(logits)[0]
    estimates = _reinforce(rng, _softmax(logits)[0], batch, 100_000)
    mean = estimates.mean(axis=0)
    error = estimates.std(axis=0) / np.sqrt(len(estimates))
    # 6 or 9 entries at 4 standard errors: P(false alarm) is below 1e-3.
    np.testing.assert_array_less(np.abs(mean - gradient), 4 * error + 1e-7)
    # The test has power: some entry is many standard errors away from 0.
    self.assertGreater(np.max(np.abs(mean) / error), 10)

  def test_padding_changes_nothing(self):
    rng = np.random.default_rng(0)
    batch = _batch(rng, 5, 4, 2)
    logits = rng.normal(size=(5, 4, 2)).astype(np.float32)
    padded = jax.tree.map(
        lambda x: np.pad(x, [(0, 0), (0, 3)] + [(0, 0)] * (x.ndim - 2)), batch
    )
    padded = padded.replace(widths=(1,) * 7)
    # Padding may be anything, even NaN.
    wide = np.pad(logits, [(0, 0), (0, 3), (0, 0)], constant_values=np.nan)

    @jax.jit
    def value(x, b):
      got = exact.exact_outcomes(x, b)
      return jnp.mean(got.correct - got.cost) + exact.mean_entropy(x, b.mask)

    self.assertEqual(value(wide, padded), value(logits, batch))
    slope = jax.jit(jax.grad(value))
    gradient = np.asarray(slope(wide, padded))
    np.testing.assert_array_equal(gradient[:, :4], slope(logits, batch))
    np.testing.assert_array_equal(gradient[:, 4:], 0.0)

  @parameterized.parameters(100.0, -100.0)
  def test_deterministic_policies_have_finite_gradients(self, preference):
    # Handing over surely at step 0, or never: probabilities underflow to 0, and
    # the gradient must be 0 or small, not NaN.
    batch = _batch(np.random.default_rng(0), 4, 8, 2, is_full=True)
    logits = np.zeros((4, 8, 2), np.float32)
    logits[..., 1] = preference
    with jax.debug_nans(True):
      got = exact.exact_outcomes(logits, batch)
      gradient = jax.grad(
          lambda x: exact.exact_outcomes(x, batch).correct.sum()
      )(logits)
    expected = (
        batch.correct[..., 1:][:, 0, 0]
        if preference > 0
        else batch.correct[..., 0].sum(axis=1)
    )
    np.testing.assert_allclose(got.correct, expected, rtol=1e-6)
    self.assertTrue(np.isfinite(gradient).all())

  def test_probabilities_sum_to_one(self):
    rng = np.random.default_rng(1)
    batch = _batch(rng, 50, 8, 3)
    logits = jnp.asarray(3 * rng.normal(size=(50, 8, 3)), jnp.float32)
    taken = np.exp(exact.branch_log_probabilities(logits, batch))
    last = batch.mask.sum(axis=1) - 1
    ends = np.where(batch.mask[..., None], taken, 0.0)
    leaves = ends[..., 1:].sum((1, 2)) + ends[np.arange(50), last, 0]
    np.testing.assert_allclose(leaves, 1.0, rtol=1e-5)

  def test_wrong_shape_is_refused(self):
    batch = _batch(np.random.default_rng(0), 2, 3, 2)
    with self.assertRaises(AssertionError):
      exact.exact_outcomes(jnp.zeros((2, 3, 3)), batch)

  def test_entropy_of_a_uniform_policy(self):
    mask = np.array([[True, False], [True, True]])
    got = exact.mean_entropy(jnp.zeros((2, 2, 3)), mask)
    np.testing.assert_allclose(got, np.log(3.0), rtol=1e-6)


def _reinforce(rng, probabilities, batch, num_samples):
  """Returns REINFORCE estimates of the gradient in one problem's logits."""
  num_steps, num_routes = probabilities.shape
  estimates = np.zeros((num_samples, num_steps, num_routes))
  draws = rng.random((num_samples, num_steps))
  actions = (draws[..., None] > probabilities.cumsum(axis=-1)).sum(axis=-1)
  for estimate, path in zip(estimates, actions, strict=True):
    reward = batch.correct[..., 0].sum(axis=1)[0]
    for t, action in enumerate(path):
      # d log p(a) / d logits = onehot(a) - p, for each decision taken.
      estimate[t] -= probabilities[t]
      estimate[t, action] += 1
      if action:
        reward = batch.correct[..., 1:][0, t, action - 1]
        break
    estimate *= reward
  return estimates


if __name__ == '__main__':
  absltest.main()
