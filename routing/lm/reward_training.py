"""Trains and evaluates the process reward model of the embedded pair.

The labels come from the arithmetic generator: a step is right if it follows
from the counters that the step before it states (`counters.label_steps`). So a
right step after an error counts as right.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools
import pathlib

import chex
import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import orbax.checkpoint as ocp

from routing.lm import decoder
from routing.lm import examination
from routing.lm import generation
from routing.lm import pretrain
from routing.lm import reward_head
from routing.lm import tokenizer as tokenizer_lib
from routing.tasks import counters

# Every batch has the shape [B, LENGTH] and [B, STEPS], so that the training
# step is compiled once. The longest question has 40 tokens.
LENGTH = 40 + examination.MAX_NEW
STEPS = 8
_NUM_BINS = 10  # Of the calibration error.


@dataclasses.dataclass(frozen=True)
class Examples:
  """N answers with labelled steps, padded to L tokens and T steps.

  tokens: `[N, L]` int32, from `reward_head.encode`.
  ends: `[N, T]` int32, places of the separators; 0 in padding.
  is_right: `[N, T]` bool, the labels; False in padding.
  mask: `[N, T]` bool, True where there is a step.
  is_right_so_far: `[N, L]` bool, whether the step is right up to and with the
    token; at a separator the label of the step.
  token_mask: `[N, L]` bool, True at the tokens of steps.
  """

  tokens: np.ndarray
  ends: np.ndarray
  is_right: np.ndarray
  mask: np.ndarray
  is_right_so_far: np.ndarray
  token_mask: np.ndarray

  def __post_init__(self):
    chex.assert_rank([self.tokens, self.ends], 2)
    chex.assert_equal_shape([self.ends, self.is_right, self.mask])
    chex.assert_equal_shape(
        [self.tokens, self.is_right_so_far, self.token_mask]
    )

  def __len__(self) -> int:
    return len(self.tokens)

  def arrays(self) -> tuple[np.ndarray, ...]:
    """Returns the arrays in the order of the fields."""
    return tuple(getattr(self, x.name) for x in dataclasses.fields(self))

  def rows(self, index: np.ndarray) -> 'Examples':
    """Returns the examples at the indices `[B]`."""
    return Examples(*(x[index] for x in self.arrays()))


def label(
    tasks: Sequence[counters.Exercise], answers: Sequence[Sequence[str]]
) -> Examples:
  """Returns the answers to N exercises as examples, with a label for each step.

  Steps after the first `STEPS` and after `LENGTH` tokens are left out.

  Args:
    tasks: the exercises.
    answers: texts of the steps of one answer to each.
  """
  count = len(tasks)
  found = Examples(
      tokens=np.zeros((count, LENGTH), np.int32),
      ends=np.zeros((count, STEPS), np.int32),
      is_right=np.zeros((count, STEPS), bool),
      mask=np.zeros((count, STEPS), bool),
      is_right_so_far=np.zeros((count, LENGTH), bool),
      token_mask=np.zeros((count, LENGTH), bool),
  )
  for i, (task, steps) in enumerate(zip(tasks, answers, strict=True)):
    ids, ends = reward_head.encode(counters.question_text(task), steps)
    ids, ends = ids[:LENGTH], [end for end in ends[:STEPS] if end < LENGTH]
    found.tokens[i, : len(ids)] = ids
    found.ends[i, : len(ends)] = ends
    found.mask[i, : len(ends)] = True
    expected = counters.right_steps(task, steps)
    start = len(reward_head.encode(counters.question_text(task), [''])[0]) - 1
    for t, end in enumerate(ends):
      is_right = steps[t] == expected[t]
      found.is_right[i, t] = is_right
      so_far = _is_prefix(ids[start:end], expected[t])
      found.is_right_so_far[i, start : end + 1] = [*so_far, is_right]
      found.token_mask[i, start : end + 1] = True
      start = end + 1
  return found


def _is_prefix(ids: Sequence[int], text: str | None) -> np.ndarray:
  """Returns for each of the tokens whether a text begins with those so far."""
  if text is None:
    return np.zeros(len(ids), bool)
  wanted = tokenizer_lib.Tokenizer().encode(text)
  same = [a == b for a, b in zip(ids, wanted, strict=False)]
  same += [False] * (len(ids) - len(same))
  return np.logical_and.accumulate(np.array(same, bool))


def sample_answers(
    params,
    config: decoder.DecoderConfig,
    tasks: Sequence[counters.Exercise],
    *,
    temperature: float,
    seed: int,
) -> list[list[str]]:
  """Returns the steps of one answer of a language model to each exercise.

  Args:
    params, config: the language model, see `generation.generate`.
    tasks: the exercises.
    temperature: 0 = greedy.
    seed: of the samples.
  """
  tokenizer = tokenizer_lib.Tokenizer()
  written = generation.generate(
      params,
      config,
      [tokenizer.encode(counters.question_text(task)) for task in tasks],
      max_new=examination.MAX_NEW,
      stop_id=tokenizer.eos_id,
      temperature=temperature,
      seed=seed,
  )
  return [examination.step_texts(ids) for ids, _ in written]


@flax.struct.dataclass
class RewardState:
  """The state of a training run, from which it can be resumed.

  step: [] int32, number of gradient steps done.
  params: parameters of the reward model.
  opt_state: state of the optimizer.
  """

  step: jax.Array
  params: chex.ArrayTree
  opt_state: optax.OptState


def loss(
    params,
    config: decoder.DecoderConfig,
    tokens: jax.Array,
    ends: jax.Array,
    is_right: jax.Array,
    mask: jax.Array,
    is_right_so_far: jax.Array,
    token_mask: jax.Array,
) -> jax.Array:
  """Returns the cross-entropy of the labels, in nats.

  It is the mean over steps plus the mean over their tokens. The labels of
  tokens say where a step goes wrong, which the label of the step alone teaches
  slowly.

  Args:
    params, config: the reward model.
    tokens, ends, is_right, mask, is_right_so_far, token_mask: a batch of
      examples, see `Examples`.
  """
  logits = reward_head.logits(params, config, tokens)
  nats = optax.softmax_cross_entropy_with_integer_labels(
      logits, is_right_so_far.astype(jnp.int32)
  )
  at_ends = jnp.take_along_axis(nats, ends, axis=1)
  del is_right  # The labels at the separators are these.
  steps = jnp.sum(at_ends * mask) / jnp.sum(mask)
  return steps + jnp.sum(nats * token_mask) / jnp.sum(token_mask)


def make_optimizer(
    config: ml_collections.ConfigDict,
) -> optax.GradientTransformation:
  """Returns Adam, with a rate for the trunk and one for the head.

  Both rates rise linearly during the first tenth of the steps, and then fall
  to 0 along a cosine.

  Args:
    config: see configs/arithmetic_reward.py.
  """

  def adam(peak):
    warmup = max(config.num_steps // 10, 1)
    return optax.adam(
        optax.warmup_cosine_decay_schedule(0.0, peak, warmup, config.num_steps)
    )

  return optax.chain(
      optax.clip_by_global_norm(config.clip_norm),
      optax.partition(
          {'trunk': adam(config.trunk_rate), 'head': adam(config.head_rate)},
          {'trunk': 'trunk', 'head': 'head'},
      ),
  )


def make_train_step(
    shape: decoder.DecoderConfig, optimizer: optax.GradientTransformation
):
  """Returns a jitted training step: (state, *batch) -> (state, loss).

  The buffers of the given state are donated and must not be used again.

  Args:
    shape: the trunk's shape.
    optimizer: the optimizer, from `make_optimizer`.
  """

  @functools.partial(jax.jit, donate_argnums=0)
  def train_step(state: RewardState, *batch):
    value, grads = jax.value_and_grad(loss)(state.params, shape, *batch)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return RewardState(state.step + 1, params, opt_state), value

  return train_step


def batch_index(size: int, batch_size: int, seed: int, step: int) -> np.ndarray:
  """Returns the indices of one batch, a pure function of seed and step.

  Every epoch goes through all examples in a new order; what is left after its
  last whole batch is dropped.

  Args:
    size: number of examples, at least `batch_size`.
    batch_size: number of examples in a batch.
    seed: of the order.
    step: index of the gradient step.
  """
  per_epoch = size // batch_size
  epoch, place = divmod(step, per_epoch)
  order = np.random.default_rng((seed, epoch)).permutation(size)
  return order[place * batch_size : (place + 1) * batch_size]


def train(
    config: ml_collections.ConfigDict,
    shape: decoder.DecoderConfig,
    params,
    examples: Examples,
    checkpoint_dir: str | pathlib.Path,
    *,
    write: pretrain.MetricFn,
    on_step: Callable[[int], None] = lambda step: None,
) -> dict:
  """Trains a reward model, or resumes its training.

  Args:
    config: see configs/arithmetic_reward.py.
    shape: the trunk's shape.
    params: the parameters before training.
    examples: the training examples.
    checkpoint_dir: directory of the checkpoints.
    write: called with (step, scalars) every `config.save_every` steps.
    on_step: called with the number of each completed step.

  Returns:
    The trained parameters.

  Raises:
    ValueError: if there are fewer examples than a batch has.
    FloatingPointError: if the loss is not finite.
  """
  if len(examples) < config.batch_size:
    raise ValueError(
        f'There are {len(examples)} examples and batch_size is '
        f'{config.batch_size}; it must not be larger.'
    )
  optimizer = make_optimizer(config)
  state = RewardState(jnp.int32(0), params, optimizer.init(params))

  train_step = make_train_step(shape, optimizer)
  with pretrain.open_manager(checkpoint_dir) as manager:
    if (latest := manager.latest_step()) is not None:
      state = manager.restore(latest, args=ocp.args.StandardRestore(state))
    else:
      # The state is donated; the caller's parameters must stay.
      state = jax.tree.map(jnp.copy, state)
    losses = []
    for step in range(int(state.step), config.num_steps):
      rows = examples.rows(
          batch_index(len(examples), config.batch_size, config.seed, step)
      )
      state, value = train_step(state, *rows.arrays())
      losses.append(value)
      on_step(step + 1)
      if (step + 1) % config.save_every == 0 or step + 1 == config.num_steps:
        mean = pretrain.finite_mean(losses, step + 1)
        write(step + 1, {'loss': mean})
        manager.save(step + 1, args=ocp.args.StandardSave(state))
        losses = []
    manager.wait_until_finished()
  return state.params


def probabilities(
    params,
    config: decoder.DecoderConfig,
    examples: Examples,
    batch_size: int = 32,
) -> np.ndarray:
  """Returns `[N, T]` float32, the probability that each step is right.

  Args:
    params, config: the reward model.
    examples: the answers; steps that are padding get any number.
    batch_size: number of answers in one forward pass.
  """
  apply = jax.jit(reward_head.probabilities, static_argnums=1)
  found = []
  for start in range(0, len(examples), batch_size):
    # The last batch repeats rows, so that all batches have one shape.
    index = np.arange(start, start + batch_size) % len(examples)
    rows = examples.rows(index)
    found.append(np.asarray(apply(params, config, rows.tokens, rows.ends)))
  return np.concatenate(found)[: len(examples)]


def summary(right: np.ndarray, is_right: np.ndarray) -> dict[str, float | None]:
  """Returns how well probabilities predict the labels, rounded to 4 decimals.

  Args:
    right: `[S]` float in [0, 1], the probability that each step is right.
    is_right: `[S]` bool, the labels.

  Returns:
    `auc`, of a low probability as a predictor of a wrong step, None if all
    steps have the same label; `brier`, the
    mean squared error; `calibration_error`, the mean over steps of |mean
    probability - share of right steps| in the step's bin, of ten bins of equal
    width (expected calibration error); `mean`, the mean probability;
    `share_right`; and `steps`, S.
  """
  chex.assert_equal_shape([right, is_right])
  bins = np.minimum((right * _NUM_BINS).astype(int), _NUM_BINS - 1)
  # |sum of probabilities - number of right steps| of a bin is its size times
  # the difference of the means.
  gaps = np.bincount(bins, right - is_right, _NUM_BINS)
  has_both = 0 < is_right.sum() < len(is_right)
  return {
      'auc': (
          round(examination.auc(-right, ~is_right), 4) if has_both else None
      ),
      'brier': round(float(np.mean((right - is_right) ** 2)), 4),
      'calibration_error': round(float(np.abs(gaps).sum() / len(right)), 4),
      'mean': round(float(right.mean()), 4),
      'share_right': round(float(is_right.mean()), 4),
      'steps': len(right),
  }
