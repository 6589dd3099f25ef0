"""Tests of the surrogate losses: by hand, limits, the exact gradient."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from routing import types
from routing.objectives import exact
from routing.objectives import policy_gradient
from routing.objectives import vtrace
from tests import ladders


def _batch(seed=0, batch_size=5, num_steps=4, num_routes=3):
  """Returns random trajectories: the first has no decision, the last has T."""
  rng = np.random.default_rng(seed)
  shape = batch_size, num_steps
  mask = (
      np.arange(num_steps) < (np.arange(batch_size) % (num_steps + 1))[:, None]
  )
  actions = rng.integers(num_routes, size=shape)
  available = rng.random((*shape, num_routes)) < 0.7
  available |= np.arange(num_routes) == actions[..., None]

  def draw():
    return rng.integers(2, size=batch_size).astype(np.float32)

  return types.TrajectoryBatch(
      features=np.zeros((*shape, 1), np.float32),
      mask=mask,
      available=available,
      actions=actions.astype(np.int32),
      behaviour=rng.uniform(0.1, 1.0, shape).astype(np.float32),
      costs=rng.random(shape).astype(np.float32),
      correct=draw(),
      loss=draw(),
      gain=draw(),
  )


def _logits(seed, batch):
  return jax.random.normal(jax.random.key(seed), batch.available.shape)


def _ladder_and_all_trajectories(seed):
  """Returns a ladder of 3 decisions and 2 routes, and all its trajectories.

  Under uniform behaviour, handing over at 0, 1, 2 or never has probability 4/8,
  2/8, 1/8, 1/8. So the batch has eight rows, in these proportions.
  """
  rng = np.random.default_rng(seed)
  correct, cost = rng.random((2, 4)).astype(np.float32)
  ladder = ladders.ladder_batch(
      features=np.zeros((1, 3, 1), np.float32),
      mask=np.ones((1, 3), bool),
      handover_correct=correct[None, :3, None],
      handover_cost=cost[None, :3, None],
      handover_loss=np.zeros((1, 3, 1), np.float32),
      stay_correct=correct[3:],
      stay_cost=cost[3:],
      stay_loss=np.zeros(1, np.float32),
  )
  ends = np.repeat(np.arange(4), (4, 2, 1, 1))
  steps = np.arange(3)
  is_last = steps == np.minimum(ends, 2)[:, None]
  batch = _batch(batch_size=8, num_steps=3, num_routes=2).replace(
      mask=steps <= ends[:, None],
      available=np.ones((8, 3, 2), bool),
      actions=(steps == ends[:, None]).astype(np.int32),
      behaviour=np.full((8, 3), 0.5, np.float32),
      costs=np.where(is_last, cost[ends, None], 0.0).astype(np.float32),
      correct=correct[ends],
  )
  return ladder, batch


class SignalsTest(parameterized.TestCase):

  def test_by_hand(self):
    batch = _batch(batch_size=2, num_steps=3).replace(
        mask=np.array([[True, True, False], [False, False, False]]),
        costs=np.array([[0.2, 0.3, np.nan], [np.nan] * 3], np.float32),
        correct=np.ones(2, np.float32),
        loss=np.array([0.5, 1.0], np.float32),
    )
    rewards, charges = policy_gradient.signals(batch, form='budget')
    np.testing.assert_array_equal(rewards, [[0, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(charges, [[0.2, 0.3, 0], [0, 0, 0]])
    rewards, charges = policy_gradient.signals(batch, form='reliability')
    np.testing.assert_allclose(rewards, [[-0.2, -0.3, 0], [0, 0, 0]])
    np.testing.assert_array_equal(charges, [[0, 0.5, 0], [0, 0, 0]])

  def test_unknown_form_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'budget, reliability'):
      policy_gradient.signals(_batch(), form='both')


class RatiosTest(parameterized.TestCase):

  def test_by_hand(self):
    # Probabilities 1/4, 3/4 of two routes (the third is masked); taken: the
    # second, with behaviour 1/2: 3/2. The next step is padding.
    batch = _batch(batch_size=1, num_steps=2).replace(
        mask=np.array([[True, False]]),
        available=np.array([[[True, True, False], [False, False, False]]]),
        actions=np.array([[1, 2]], np.int32),
        behaviour=np.array([[0.5, 0.0]], np.float32),
    )
    logits = jnp.log(jnp.array([[[1.0, 3.0, 9.0], [np.nan] * 3]]))
    got = policy_gradient.importance_ratios(
        policy_gradient.log_probs(logits, batch), batch
    )
    np.testing.assert_allclose(got, [[1.5, 1.0]], rtol=1e-6)

  def test_ratios_of_the_behaviour_policy_are_one(self):
    batch = _batch()
    log_probs = policy_gradient.log_probs(_logits(0, batch), batch)
    probabilities = np.exp(log_probs)
    taken = np.take_along_axis(probabilities, batch.actions[..., None], -1)[
        ..., 0
    ]
    got = policy_gradient.importance_ratios(
        log_probs, batch.replace(behaviour=taken)
    )
    np.testing.assert_allclose(got, np.ones_like(got), rtol=1e-6)


class AdvantagesTest(parameterized.TestCase):

  @parameterized.parameters((0.0, 2.0), (1.0, -1.5), (3.0, -3.25))
  def test_penalised(self, multiplier, expected):
    # (2 - lam * 5) / (1 + lam).
    got = policy_gradient.penalised(
        jnp.array([[2.0]]), jnp.array([[5.0]]), multiplier
    )
    np.testing.assert_allclose(got, [[expected]], rtol=1e-6)

  def test_rescaled_by_hand(self):
    # Root mean square of (3, 4, 0, 0) is 2.5; the 100 is padding.
    advantages = jnp.array([[3.0, 4.0, 100.0], [0.0, 0.0, 100.0]])
    mask = jnp.array([[True, True, False]] * 2)
    got = policy_gradient.rescaled(advantages, mask)
    np.testing.assert_allclose(got[:, :2], [[1.2, 1.6], [0, 0]], rtol=1e-6)

  def test_zero_advantages_stay_zero(self):
    # All answers right, or no decision at all.
    zeros = jnp.zeros((2, 3))
    for mask in (zeros == 0, zeros > 0):
      got = policy_gradient.rescaled(zeros, mask)
      np.testing.assert_array_equal(got, zeros)


class SurrogateTest(parameterized.TestCase):

  @parameterized.parameters(
      # Old probabilities 1/2, 1/2; new 3/4, 1/4: ratios 3/2 and 1/2.
      (0, 1.0, np.inf, 1.5),
      (0, 1.0, 0.2, 1.2),  # Clipped: a larger ratio gains nothing,
      (0, -1.0, 0.2, -1.5),  # but a loss is not clipped.
      (1, 1.0, 0.2, 0.5),
      (1, -1.0, 0.2, -0.8),
  )
  def test_clips_gains_only(self, action, advantage, clip, expected):
    batch = _batch(batch_size=1, num_steps=1, num_routes=2).replace(
        mask=np.ones((1, 1), bool), actions=np.array([[action]], np.int32)
    )
    got = policy_gradient.surrogate(
        jnp.log(jnp.array([[[0.75, 0.25]]])),
        jnp.log(jnp.array([[[0.5, 0.5]]])),
        batch,
        jnp.array([[advantage]]),
        clip=clip,
    )
    np.testing.assert_allclose(got, expected, rtol=1e-6)

  def test_gradient_is_the_exact_one(self):
    ladder, batch = _ladder_and_all_trajectories(seed=0)
    rng = np.random.default_rng(1)
    values = rng.normal(size=(2, 1, 3)).astype(np.float32)  # Arbitrary critics.
    multiplier = 0.7

    def of_trajectories(logits):
      logits = jnp.broadcast_to(logits, batch.available.shape)
      new = policy_gradient.log_probs(logits, batch)
      old = jax.lax.stop_gradient(new)
      ratios = policy_gradient.importance_ratios(old, batch)
      signals = policy_gradient.signals(batch, form='budget')
      reward_advantages, constraint_advantages = (
          vtrace.targets_and_advantages(
              jnp.broadcast_to(value, ratios.shape),
              signal,
              ratios,
              batch.mask,
              rho_bar=jnp.inf,
              c_bar=jnp.inf,
          )[1]
          for value, signal in zip(values, signals, strict=True)
      )
      advantages = policy_gradient.penalised(
          reward_advantages, constraint_advantages, multiplier
      )
      reach = vtrace.reach_weights(ratios, batch.mask)
      return policy_gradient.surrogate(new, old, batch, advantages * reach)

    def of_the_ladder(logits):
      outcomes = exact.exact_outcomes(logits, ladder).mean()
      value = outcomes.correct - multiplier * outcomes.cost
      return value / (1 + multiplier)

    logits = jnp.asarray(rng.normal(size=(1, 3, 2)), jnp.float32)
    got = jax.jit(jax.grad(of_trajectories))(logits)
    expected = jax.grad(of_the_ladder)(logits)
    self.assertGreater(np.abs(expected).min(), 1e-3)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


class PolicyLossTest(parameterized.TestCase):

  _WEIGHTS = dict(clip=0.2, entropy_weight=0.3, kl_weight=0.5)

  def test_is_the_sum_of_its_parts(self):
    batch = _batch()
    old = policy_gradient.log_probs(_logits(1, batch), batch)
    advantages = jnp.where(batch.mask, _logits(2, batch)[..., 0], 0.0)
    loss, aux = policy_gradient.policy_loss(
        _logits(0, batch), batch, advantages, old, **self._WEIGHTS
    )
    np.testing.assert_allclose(
        loss,
        -aux['surrogate'] - 0.3 * aux['entropy'] + 0.5 * aux['kl'],
        rtol=1e-6,
    )
    self.assertGreater(aux['kl'], 0.0)
    self.assertBetween(aux['clipped'], 0.1, 1.0)

  def test_at_the_old_policy(self):
    batch = _batch()
    logits = _logits(0, batch)
    old = policy_gradient.log_probs(logits, batch)
    advantages = jnp.where(batch.mask, 2.0, 0.0)
    _, aux = policy_gradient.policy_loss(
        logits, batch, advantages, old, **self._WEIGHTS
    )
    self.assertEqual((aux['kl'], aux['clipped']), (0.0, 0.0))
    # 1 + 2 + 3 + 4 decisions in the four trajectories that have any.
    np.testing.assert_allclose(aux['surrogate'], 2 * 10 / 4, rtol=1e-6)

  def test_padding_and_masked_routes_have_no_effect(self):
    batch = _batch()
    advantages = jnp.where(batch.mask, _logits(2, batch)[..., 0], 0.0)
    old = policy_gradient.log_probs(_logits(1, batch), batch)

    @jax.jit
    def run(logits):
      return jax.value_and_grad(policy_gradient.policy_loss, has_aux=True)(
          logits, batch, advantages, old, **self._WEIGHTS
      )

    inert = ~(batch.available & batch.mask[..., None])
    logits = _logits(0, batch)
    (loss, _), gradient = run(logits)
    (dirty, _), dirty_gradient = run(jnp.where(inert, jnp.nan, logits))
    self.assertEqual(loss, dirty)
    np.testing.assert_array_equal(gradient, dirty_gradient)
    np.testing.assert_array_equal(gradient[inert], 0.0)
    self.assertGreater(np.abs(gradient).max(), 0.01)

  def test_a_batch_without_decisions_has_no_loss(self):
    batch = _batch()
    batch = batch.replace(mask=np.zeros_like(batch.mask))
    logits = _logits(0, batch)
    old = policy_gradient.log_probs(logits, batch)
    loss, _ = policy_gradient.policy_loss(
        logits, batch, jnp.zeros(batch.mask.shape), old, **self._WEIGHTS
    )
    self.assertEqual(loss, 0.0)


class CriticLossTest(absltest.TestCase):

  def test_by_hand(self):
    # Errors 1 and 3: half of (1 + 9) / 2 = 2.5; the rest is padding.
    got = policy_gradient.critic_loss(
        jnp.array([[1.0, 5.0], [9.0, np.nan]]),
        jnp.array([[2.0, 2.0], [0.0, 0.0]]),
        jnp.array([[True, True], [False, False]]),
    )
    self.assertEqual(got, 2.5)


if __name__ == '__main__':
  absltest.main()
