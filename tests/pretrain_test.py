"""Tests of pretraining: resuming, and the conditions that stop it."""

from unittest import mock

from absl.testing import absltest
import chex
import jax
import jax.numpy as jnp
import numpy as np

from configs import arithmetic_pair
from routing.lm import corpus as corpus_lib
from routing.lm import decoder
from routing.lm import examination
from routing.lm import pretrain
from routing.lm import tokenizer

_SHAPE = decoder.DecoderConfig(len(tokenizer.VOCABULARY), 8, 1, 1, 1, 32, 8)
_init_params = jax.jit(decoder.init_params, static_argnums=0)
_token_loss = jax.jit(pretrain.token_loss, static_argnums=1)


def _config(**fields):
  config = arithmetic_pair.get_config('smoke').small
  config.update(fields)
  return config


def _train(config, directory, scores=None, rows=None):
  """Trains; evaluations return `scores` one after the other, then 0."""
  scores = iter(scores or ())
  rows = [] if rows is None else rows
  corpus = corpus_lib.Corpus('test', **config.corpus.to_dict())
  with mock.patch.object(
      examination, 'accuracy', side_effect=lambda *_: next(scores, 0.0)
  ):
    return pretrain.train(
        config,
        _SHAPE,
        corpus,
        [],
        directory,
        seed=0,
        write=lambda step, scalars: rows.append((step, scalars)),
    )


class TrainTest(absltest.TestCase):

  def test_resumed_run_equals_uninterrupted_run(self):
    config = _config()
    whole = _train(config, self.create_tempdir().full_path)
    directory = self.create_tempdir().full_path

    class Killed(Exception):
      pass

    def die(step, _):
      if step == 4:
        raise Killed

    # Killed after step 2 was saved and before step 4 was.
    corpus = corpus_lib.Corpus('test', **config.corpus.to_dict())
    with (
        mock.patch.object(examination, 'accuracy', return_value=0.0),
        self.assertRaises(Killed),
    ):
      pretrain.train(config, _SHAPE, corpus, [], directory, seed=0, write=die)
    self.assertEqual(pretrain.latest_step(directory), 2)
    rows = []
    resumed = _train(config, directory, rows=rows)
    self.assertEqual([step for step, _ in rows], [4])
    for part in ('step', 'params', 'average', 'opt_state'):
      chex.assert_trees_all_equal(getattr(whole, part), getattr(resumed, part))

  def test_stops_if_it_has_not_learnt(self):
    config = _config(give_up=dict(step=3, loss=0.01))
    rows = []
    with self.assertRaisesRegex(
        pretrain.StuckError, 'at step 4; .* above 0.01'
    ):
      _train(config, self.create_tempdir().full_path, rows=rows)
    self.assertEqual([step for step, _ in rows], [2, 4])
    config.give_up.loss = 1e3
    state = _train(config, self.create_tempdir().full_path)
    self.assertEqual(state.step, 4)

  def test_stops_at_the_target_and_stays_stopped(self):
    config = _config(target_accuracy=0.5)
    directory = self.create_tempdir().full_path
    rows = []
    state = _train(config, directory, scores=[0.6], rows=rows)
    self.assertEqual(int(state.step), 2)
    self.assertEqual(rows[0][1]['accuracy'], 0.6)
    again = _train(config, directory, rows=rows)
    self.assertEqual(int(again.step), 2)
    self.assertLen(rows, 1)

  def test_a_loss_that_is_not_finite_is_an_error_with_the_step(self):
    config = _config()
    config.optimizer.update(adam_rate=float('inf'))
    with self.assertRaisesRegex(FloatingPointError, 'at step 2'):
      _train(config, self.create_tempdir().full_path)


class TokenLossTest(absltest.TestCase):

  def test_by_hand_on_a_uniform_model(self):
    # A zero embedding gives equal logits: log(V) nats, whatever the weights.
    params = _init_params(_SHAPE, jax.random.key(0))
    params = params | {'embedding': jnp.zeros_like(params['embedding'])}
    tokens = np.array([[3, 4, 5, 6], [7, 8, 9, 3]])
    weights = np.array([[9.0, 0.0, 2.0, 1.0], [0.0, 0.0, 0.0, 5.0]])
    loss = _token_loss(params, _SHAPE, tokens, weights)
    np.testing.assert_allclose(loss, np.log(_SHAPE.vocab_size), rtol=1e-6)

  def test_only_weighted_tokens_count(self):
    params = _init_params(_SHAPE, jax.random.key(0))
    tokens, other = np.array([[3, 4, 5, 6], [3, 4, 9, 6]])[:, None]
    weights = np.array([[0.0, 0.0, 1.0, 0.0]])
    loss = _token_loss(params, _SHAPE, tokens, weights)
    # The last token has no weight, the first is never predicted.
    same = _token_loss(
        params,
        _SHAPE,
        np.array([[3, 4, 5, 9]]),
        np.array([[7.0, 0.0, 1.0, 0.0]]),
    )
    np.testing.assert_allclose(loss, same, rtol=1e-6)
    changed = _token_loss(params, _SHAPE, other, weights)
    self.assertNotAlmostEqual(float(loss), float(changed), places=4)


class OptimizerTest(absltest.TestCase):

  def test_rates_rise_stay_and_fall(self):
    config = arithmetic_pair.get_config().small.optimizer
    config.update(warmup_steps=2, decay_from=4, adam_rate=1.0)
    optimizer = pretrain.make_optimizer(config, max_steps=8)
    params = {'scale': jnp.ones(3)}
    state, sizes = optimizer.init(params), []
    for _ in range(9):
      # Adam on a constant gradient steps by the rate.
      update, state = optimizer.update(params, state, params)
      sizes.append(-float(update['scale'][0]))
    np.testing.assert_allclose(
        sizes, [0, 0.5, 1, 1, 1, 0.75, 0.5, 0.25, 0], atol=1e-4
    )


if __name__ == '__main__':
  absltest.main()
