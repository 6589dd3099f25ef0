"""Trains one embedded model from scratch until it reaches a target accuracy.

Muon updates the matrices and Adam the other parameters. The trained model is
the moving average of the parameters: the average is evaluated and saved.
Training stops when the average answers a target share of held-out problems
correctly. Models trained from different seeds thus have about the same
accuracy. An interrupted run can be resumed.
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
from routing.tasks import counters

# A function (step, scalars) that records the metrics of a training run.
MetricFn = Callable[[int, dict[str, float]], None]


class StuckError(Exception):
  """A training run whose loss is too high by a given step ever to recover."""


@flax.struct.dataclass
class PretrainState:
  """The state of a training run, from which it can be resumed.

  step: [] int32, number of gradient steps done.
  params: parameters of the decoder.
  average: exponential moving average of `params`.
  opt_state: state of the optimizer.
  accuracy: [] float32, accuracy of `average` at its last evaluation; 0 before
    the first one.
  seconds: [] float32, training time so far, without interruptions.
  """

  step: jax.Array
  params: chex.ArrayTree
  average: chex.ArrayTree
  opt_state: optax.OptState
  accuracy: jax.Array
  seconds: jax.Array


def decoder_config(
    shape: ml_collections.ConfigDict, vocab_size: int
) -> decoder.DecoderConfig:
  """Returns the decoder's shape.

  Args:
    shape: the part `shape` of a model's configuration.
    vocab_size: number of tokens in the vocabulary.
  """
  return decoder.DecoderConfig(vocab_size=vocab_size, **shape.to_dict())


def make_optimizer(
    config: ml_collections.ConfigDict, max_steps: int
) -> optax.GradientTransformation:
  """Returns the optimizer: Muon on dense kernels, Adam on all other parameters.

  The learning rates rise linearly during `warmup_steps`, are constant until
  step `decay_from`, and then fall linearly to 0.

  Args:
    config: the part `optimizer` of a model's configuration.
    max_steps: maximum number of training steps.
  """

  # Muon orthogonalizes the updates of a linear map's matrix. It does not suit
  # norm scales, which are vectors, and the embedding, which is a lookup table.
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

  # Muon's updates have the same size however small the gradient is. Without
  # (decoupled) weight decay, attention scores grow to hundreds. Then learning
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
  """Returns the state of a run before its first training step."""
  params = decoder.init_params(shape, jax.random.key(seed))
  return PretrainState(
      step=jnp.int32(0),
      params=params,
      # The average must be a copy of `params`: the state is donated to the
      # train step, and a buffer cannot be donated twice.
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
  """Returns the weighted mean cross-entropy of next-token prediction, in nats.

  Args:
    params: parameters of `decoder.Decoder(shape)`.
    shape: the decoder's shape.
    tokens: `[B, L]` integers, B texts of L tokens.
    weights: `[B, L]` numbers, the loss weight of each token.
  """
  chex.assert_rank(tokens, 2)
  chex.assert_equal_shape([tokens, weights])
  tokens = tokens.astype(jnp.int32)
  # The output at position i predicts token i + 1. The first token is never
  # predicted, so its weight is not used.
  weight = weights[:, 1:].astype(jnp.float32)
  inputs = tokens[:, :-1]
  positions = jnp.broadcast_to(jnp.arange(inputs.shape[1]), inputs.shape)
  logits, _, _ = decoder.Decoder(shape).apply(
      {'params': params}, inputs, positions
  )
  # The loss of target y is -log softmax(z)_y = logsumexp(z) - z_y. z_y is taken
  # by a product with a one-hot vector for speed, see the comment in `Decoder`.
  target = jax.nn.one_hot(tokens[:, 1:], shape.vocab_size)
  nats = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(logits * target, axis=-1)
  return jnp.sum(nats * weight) / jnp.sum(weight)


def make_train_step(
    shape: decoder.DecoderConfig,
    optimizer: optax.GradientTransformation,
    average_decay: float,
):
  """Returns a jitted training step: (state, tokens, weights) -> (state, loss).

  The buffers of the given state are donated and must not be used again.

  Args:
    shape: the decoder's shape.
    optimizer: the optimizer, from `make_optimizer`.
    average_decay: weight of the old value in the moving average of parameters.
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
  """Returns the step from which a run would be resumed; 0 = no checkpoint."""
  directory = pathlib.Path(checkpoint_dir).absolute()
  if not directory.exists():
    return 0
  with ocp.CheckpointManager(directory) as manager:
    return manager.latest_step() or 0


def is_done(state: PretrainState, config: ml_collections.ConfigDict) -> bool:
  """Checks whether the target accuracy or the last step is reached."""
  reached = float(state.accuracy) >= config.target_accuracy
  return reached or int(state.step) >= config.max_steps


def finite_mean(losses: Sequence[jax.Array], step: int) -> float:
  """Returns the mean of some steps' losses.

  Args:
    losses: the loss of each step, on the device.
    step: the last of these steps, for the error message.

  Raises:
    FloatingPointError: if the mean is not finite.
  """
  # All losses are transferred at once. Reading each loss when it is computed
  # would make every training step wait for the device.
  mean = float(np.mean(jax.device_get(losses)))
  if not np.isfinite(mean):
    raise FloatingPointError(
        f'The mean loss is {mean} at step {step}; it must be finite. Lower the '
        'learning rates or clip_norm.'
    )
  return mean


def open_manager(
    checkpoint_dir: str | pathlib.Path,
) -> ocp.CheckpointManager:
  """Opens a checkpoint directory, in which only the latest state is kept."""
  options = ocp.CheckpointManagerOptions(
      preservation_policy=preservation_policy.LatestN(1)
  )
  directory = pathlib.Path(checkpoint_dir).absolute()
  return ocp.CheckpointManager(directory, options=options)


def _check_learning(
    give_up: ml_collections.ConfigDict, start: int, stop: int, loss: float
) -> None:
  """Raises StuckError if the loss is above `give_up.loss` at `give_up.step`.

  Args:
    give_up: the part `give_up` of a model's configuration: the `step` at which
      to check, and the maximum `loss`.
    start, stop: the steps just done are start + 1 to stop. Nothing is checked
      unless `give_up.step` is among them.
    loss: mean loss of these steps.
  """
  if start < give_up.step <= stop and loss > give_up.loss:
    raise StuckError(
        f'The loss is {loss:.3f} at step {stop}; a run whose loss is above '
        f'{give_up.loss} then does not recover. Try another seed.'
    )


def train(
    config: ml_collections.ConfigDict,
    shape: decoder.DecoderConfig,
    corpus: corpus_lib.Corpus,
    tasks: Sequence[counters.Exercise],
    checkpoint_dir: str | pathlib.Path,
    *,
    seed: int,
    write: MetricFn,
    on_step: Callable[[int], None] = lambda step: None,
) -> PretrainState:
  """Trains a model, or resumes its training, until `is_done`.

  Args:
    config: a model's configuration, see configs/arithmetic_pair.py.
    shape: the decoder's shape.
    corpus: the training batches.
    tasks: held-out tasks, on which the target accuracy must be reached.
    checkpoint_dir: directory of the checkpoints.
    seed: seed of the initial parameters.
    write: called with (step, scalars) every `config.examine_every` steps.
    on_step: called with the number of each completed step.

  Returns:
    The final state, whose `average` is the trained model.

  Raises:
    FloatingPointError: if the loss is not finite.
    StuckError: if the loss is too high to recover, see `_check_learning`.
  """
  optimizer = make_optimizer(config.optimizer, config.max_steps)
  state = init_state(shape, optimizer, seed)
  train_step = make_train_step(shape, optimizer, config.average_decay)
  with open_manager(checkpoint_dir) as manager:
    if (latest := manager.latest_step()) is not None:
      state = manager.restore(latest, args=ocp.args.StandardRestore(state))
    # The start time, moved back by the training time before an interruption.
    clock = time.monotonic() - float(state.seconds)
    while not is_done(state, config):
      start = int(state.step)
      stop = min(start + config.examine_every, config.max_steps)
      losses = []
      for step in range(start + 1, stop + 1):
        state, loss = train_step(state, *corpus.batch(step))
        losses.append(loss)
        on_step(step)
      scalars = {'loss': finite_mean(losses, stop)}
      # An evaluation is slow. Before `examine_from`, all answers are wrong.
      if stop >= config.examine_from:
        scalars['accuracy'] = examination.accuracy(state.average, shape, tasks)
      state = state.replace(
          accuracy=jnp.float32(scalars.get('accuracy', 0.0)),
          seconds=jnp.float32(time.monotonic() - clock),
      )
      write(stop, {'seconds': float(state.seconds), **scalars})
      # A failed check leaves no checkpoint, so a resumed run repeats it.
      _check_learning(config.give_up, start, stop, scalars['loss'])
      manager.save(stop, args=ocp.args.StandardSave(state))
    manager.wait_until_finished()  # Saving is asynchronous.
  return state
