"""Trains one embedded model from scratch until it reaches a target accuracy.

Muon trains the matrices, Adam the rest, and a moving average of the weights is
kept. The average is the model: it is evaluated and saved. Training stops when
its accuracy on held-out problems, writing freely, reaches the target. A pair
from another seed therefore ends at the same strengths. An interrupted run can
be resumed.
"""

from collections.abc import Callable
from collections.abc import Sequence
import pathlib
import time

import chex
import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from routing.lm import corpus as corpus_lib
from routing.lm import decoder
from routing.lm import examination
from routing.problems import arithmetic

MetricFn = Callable[[int, dict[str, float]], None]


class StuckError(Exception):
  """Raised when a run has not learnt enough by a given step to ever succeed."""


@flax.struct.dataclass
class PretrainState:
  """Everything that a resumed run needs; arrays only."""

  step: jax.Array  # [] int32, gradient steps done.
  params: chex.ArrayTree
  average: chex.ArrayTree  # Moving average of params.
  opt_state: optax.OptState
  accuracy: jax.Array  # [] float32, of the average at its last evaluation.
  seconds: jax.Array  # [] float32, total training time, without interruptions.


def decoder_config(
    shape: ml_collections.ConfigDict, vocab_size: int
) -> decoder.DecoderConfig:
  """Returns the decoder's shape from the `shape` part of a configuration."""
  return decoder.DecoderConfig(vocab_size=vocab_size, **shape.to_dict())


def make_optimizer(
    config: ml_collections.ConfigDict, max_steps: int
) -> optax.GradientTransformation:
  """Returns the optimizer: Muon on dense kernels, Adam on all other parameters.

  The rates are constant after a linear warm-up. From step `decay_from` they
  fall linearly to 0 at `max_steps`.
  """

  # Muon orthogonalizes matrices of a linear map. Norm scales are vectors, and
  # the embedding is a lookup table.
  def label(path, _):
    return 'muon' if path[-1].key == 'kernel' else 'adam'

  def rate(peak):
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, peak, config.warmup_steps),
            optax.linear_schedule(peak, 0.0, max_steps - config.decay_from),
        ],
        [config.decay_from],
    )

  # Muon's updates have the same size however small the gradient. Without
  # (decoupled) weight decay, attention scores grow to hundreds: learning
  # stalls, and float32 loses digits.
  return optax.chain(
      optax.clip_by_global_norm(config.clip_norm),
      optax.partition(
          {
              'muon': optax.contrib.muon(
                  rate(config.muon_rate), weight_decay=config.weight_decay
              ),
              'adam': optax.adam(rate(config.adam_rate), b2=0.98),
          },
          lambda params: jax.tree_util.tree_map_with_path(label, params),
      ),
  )


def init_state(
    shape: decoder.DecoderConfig,
    optimizer: optax.GradientTransformation,
    seed: int,
) -> PretrainState:
  """Returns the state before the first step."""
  params = decoder.init_params(shape, jax.random.key(seed))
  return PretrainState(
      step=jnp.int32(0),
      params=params,
      # A copy: the state is donated, and one buffer cannot be donated twice.
      average=jax.tree.map(jnp.copy, params),
      opt_state=optimizer.init(params),
      accuracy=jnp.float32(0.0),
      seconds=jnp.float32(0.0),
  )


def token_loss(
    params,
    shape: decoder.DecoderConfig,
    tokens: jax.Array,
    weights: jax.Array,
) -> jax.Array:
  """Returns the weighted mean cross-entropy of the next token, in nats.

  Args:
    params: parameters of `decoder.Decoder(shape)`.
    shape: the decoder's shape.
    tokens: `[B, L]` integers.
    weights: `[B, L]` numbers, the weight of predicting each token.
  """
  chex.assert_rank(tokens, 2)
  chex.assert_equal_shape([tokens, weights])
  tokens = tokens.astype(jnp.int32)
  # Position i predicts token i + 1, so the first weight is not used.
  weight = weights[:, 1:].astype(jnp.float32)
  inputs = tokens[:, :-1]
  positions = jnp.broadcast_to(jnp.arange(inputs.shape[1]), inputs.shape)
  logits, _, _ = decoder.Decoder(shape).apply(
      {'params': params}, inputs, positions
  )
  # -log softmax(z)_y = logsumexp(z) - z_y. One-hot for the reason in `Decoder`.
  target = jax.nn.one_hot(tokens[:, 1:], shape.vocab_size)
  nats = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(logits * target, axis=-1)
  return jnp.sum(nats * weight) / jnp.sum(weight)


def make_train_step(
    shape: decoder.DecoderConfig,
    optimizer: optax.GradientTransformation,
    average_decay: float,
):
  """Returns a jitted (state, tokens, weights) -> (state, loss).

  The state is donated.
  """

  def train_step(state: PretrainState, tokens, weights):
    loss, grads = jax.value_and_grad(token_loss)(
        state.params, shape, tokens, weights
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = optax.incremental_update(
        params, state.average, step_size=1 - average_decay
    )
    state = state.replace(
        step=state.step + 1,
        params=params,
        average=average,
        opt_state=opt_state,
    )
    return state, loss

  return jax.jit(train_step, donate_argnums=0)


def latest_step(checkpoint_dir: str | pathlib.Path) -> int:
  """Returns the step that a run would resume from; 0 = from scratch."""
  directory = pathlib.Path(checkpoint_dir).absolute()
  if not directory.exists():
    return 0
  with ocp.CheckpointManager(directory) as manager:
    return manager.latest_step() or 0


def is_done(state: PretrainState, config: ml_collections.ConfigDict) -> bool:
  """Checks whether the target is reached or all steps are used."""
  reached = float(state.accuracy) >= config.target_accuracy
  return reached or int(state.step) >= config.max_steps


def _finite_mean(losses: Sequence[jax.Array], step: int) -> float:
  """Returns the mean loss up to `step`.

  Raises:
    FloatingPointError: if it is not finite.
  """
  # One transfer for all steps: reading each loss would wait for each step.
  mean = float(np.mean(jax.device_get(losses)))
  if not np.isfinite(mean):
    raise FloatingPointError(
        f'The mean loss is {mean} by step {step}; it must be finite. Lower the '
        'learning rates or clip_norm.'
    )
  return mean


def _open_manager(
    checkpoint_dir: str | pathlib.Path,
) -> ocp.CheckpointManager:
  """Opens the checkpoint directory, which keeps the latest state only."""
  options = ocp.CheckpointManagerOptions(
      preservation_policy=preservation_policy.LatestN(1)
  )
  directory = pathlib.Path(checkpoint_dir).absolute()
  return ocp.CheckpointManager(directory, options=options)


def _check_learning(
    give_up: ml_collections.ConfigDict, start: int, stop: int, loss: float
) -> None:
  """Raises StuckError if the loss is too high at the step `give_up.step`.

  Args:
    give_up: the step of the check and the maximum loss.
    start, stop: the check is made if start < give_up.step <= stop.
    loss: mean loss of the steps in between.
  """
  if start < give_up.step <= stop and loss > give_up.loss:
    raise StuckError(
        f'The loss is {loss:.3f} at step {stop}, above {give_up.loss}; such a '
        'run does not recover. Try another seed.'
    )


def train(
    config: ml_collections.ConfigDict,
    shape: decoder.DecoderConfig,
    corpus: corpus_lib.Corpus,
    tasks: Sequence[arithmetic.Task],
    checkpoint_dir: str | pathlib.Path,
    *,
    seed: int,
    write: MetricFn,
    on_step: Callable[[int], None] = lambda step: None,
) -> PretrainState:
  """Trains, or resumes training, until `is_done`.

  Args:
    config: a model's configuration, see configs/arithmetic_pair.py.
    shape: the decoder's shape.
    corpus: the training batches.
    tasks: held-out tasks that decide when to stop.
    checkpoint_dir: where the state is saved.
    seed: seed of the initial weights.
    write: called with (step, scalars) every `config.examine_every` steps.
    on_step: called with each completed step, for progress.

  Returns:
    The final state; `average` is the model.

  Raises:
    FloatingPointError: if the loss is not finite.
    StuckError: if it is above `config.give_up.loss` at `config.give_up.step`.
  """
  optimizer = make_optimizer(config.optimizer, config.max_steps)
  state = init_state(shape, optimizer, seed)
  train_step = make_train_step(shape, optimizer, config.average_decay)
  with _open_manager(checkpoint_dir) as manager:
    if (latest := manager.latest_step()) is not None:
      state = manager.restore(latest, args=ocp.args.StandardRestore(state))
    # Set back by the time spent before an interruption.
    clock = time.monotonic() - float(state.seconds)
    while not is_done(state, config):
      start = int(state.step)
      stop = min(start + config.examine_every, config.max_steps)
      losses = []
      for step in range(start + 1, stop + 1):
        state, loss = train_step(state, *corpus.batch(step))
        losses.append(loss)
        on_step(step)
      scalars = {'loss': _finite_mean(losses, stop)}  # Since the last call.
      # Writing whole answers is slow, and early ones are all wrong.
      if stop >= config.examine_from:
        scalars['accuracy'] = examination.accuracy(state.average, shape, tasks)
      state = state.replace(
          accuracy=jnp.float32(scalars.get('accuracy', 0.0)),
          seconds=jnp.float32(time.monotonic() - clock),
      )
      write(stop, {'seconds': float(state.seconds), **scalars})
      # Checked before saving, so that a resumed run meets the same check.
      _check_learning(config.give_up, start, stop, scalars['loss'])
      manager.save(stop, args=ocp.args.StandardSave(state))
    manager.wait_until_finished()  # Saving is asynchronous.
  return state
