"""A process reward model: a step-correctness head on a decoder's trunk.

The head reads the trunk's last hidden state at the end of each step, where a
separator token stands, and gives the probability that the step is right. The
trunk is initialized with a language model of the embedded pair.

The files have the format of Qwen2.5-Math-PRM, so `engines.process_reward` can
read them as well. Source: Zhang et al. 2025, arXiv 2501.07301.
"""

from collections.abc import Sequence
import json
import pathlib

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from routing.lm import decoder
from routing.lm import export
from routing.lm import tokenizer as tokenizer_lib

ARCHITECTURE = 'Qwen2ForProcessRewardModel'
SEPARATOR = '<extra_0>'
# The separator is a token of its own, after those of the vocabulary.
SEPARATOR_ID = len(tokenizer_lib.VOCABULARY)
# Puts question and answer one after the other, as the embedded models read
# them; they have no system message.
_CHAT_TEMPLATE = (
    '{% for message in messages %}{% if message["role"] != "system" %}'
    '{{ message["content"] }}{% endif %}{% endfor %}'
)
# Names of the head's layers: in `Head` -> in Hugging Face's format.
_HEAD_NAMES = {'inner': 'score.0', 'classes': 'score.2'}
# Qwen2 adds biases to these projections; the embedded models have none.
_BIASED = ('q_proj', 'k_proj', 'v_proj')


class Head(nn.Module):
  """Two layers from a hidden state to the logits of 'wrong' and 'right'.

  width: width of the inner layer.
  """

  width: int

  @nn.compact
  def __call__(self, hidden: jax.Array) -> jax.Array:
    """Returns logits `[..., 2]` of hidden states `[..., D]`."""
    inner = nn.relu(nn.Dense(self.width, name='inner')(hidden))
    return nn.Dense(2, name='classes')(inner)


def encode(question: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
  """Returns the token ids of an answer and the places of its separators.

  The separator stands after each step, in place of the delimiter.

  Args:
    question: the question.
    steps: texts of the T steps, with or without delimiter; T >= 1.

  Returns:
    The token ids, and T indices into them, one for each step.

  Raises:
    ValueError: if there is no step, or a text is not in the vocabulary.
  """
  if not steps:
    raise ValueError(f'The answer to {question!r} has 0 steps; needs 1.')
  tokenizer = tokenizer_lib.Tokenizer()
  ids, ends = tokenizer.encode(question), []
  for step in steps:
    # Spaces at the ends are parts of tokens, so only newlines are removed.
    ids += [*tokenizer.encode(step.rstrip('\n')), SEPARATOR_ID]
    ends.append(len(ids) - 1)
  return ids, ends


def init_params(
    config: decoder.DecoderConfig, trunk, key: jax.Array
) -> tuple[decoder.DecoderConfig, dict]:
  """Returns shape and parameters of a reward model before its training.

  Args:
    config: shape of the language model that the trunk is initialized with.
    trunk: its parameters.
    key: a PRNG key for the head, which must not be used again.

  Returns:
    The trunk's shape, whose vocabulary includes the separator, and the
    parameters `{'trunk': ..., 'head': ...}`.
  """
  shape = decoder.DecoderConfig(
      **vars(config) | {'vocab_size': config.vocab_size + 1}
  )
  # The separator begins as what it replaces, the delimiter.
  embedding = trunk['embedding']
  delimiter = embedding[tokenizer_lib.Tokenizer.delimiter_id]
  trunk = trunk | {'embedding': jnp.concatenate([embedding, delimiter[None]])}
  head = Head(config.hidden_size).init(key, jnp.zeros((1, config.hidden_size)))
  return shape, {'trunk': trunk, 'head': head['params']}


def logits(
    params, config: decoder.DecoderConfig, tokens: jax.Array
) -> jax.Array:
  """Returns the logits of 'wrong' and 'right' at each token.

  Those of a step are at its separator.

  Args:
    params: parameters of a reward model.
    config: the trunk's shape.
    tokens: `[B, L]` int32, answers from `encode`, padded at the end.

  Returns:
    `[B, L, 2]` float32. Those at a token do not depend on what follows it.
  """
  chex.assert_rank(tokens, 2)
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  _, hidden, _ = decoder.Decoder(config).apply(
      {'params': params['trunk']}, tokens, positions
  )
  head = Head(params['head']['inner']['bias'].shape[0])
  return head.apply({'params': params['head']}, hidden)


def probabilities(
    params, config: decoder.DecoderConfig, tokens: jax.Array, ends: jax.Array
) -> jax.Array:
  """Returns `[B, T]` float32, the probability that each step is right.

  Args:
    params, config, tokens: see `logits`.
    ends: `[B, T]` int32, places of the separators; padding may have any place.
  """
  chex.assert_rank([tokens, ends], 2)
  right = jax.nn.softmax(logits(params, config, tokens))[..., 1]
  return jnp.take_along_axis(right, ends, axis=1)


def save(
    directory: str | pathlib.Path, config: decoder.DecoderConfig, params
) -> None:
  """Writes a reward model in the format of Qwen2.5-Math-PRM.

  The weights are rounded to float16. A file that exists is replaced.

  Args:
    directory: where to write config.json, model.safetensors and the tokenizer.
    config: the trunk's shape.
    params: parameters of the reward model.
  """
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  tokenizer_lib.Tokenizer().save(
      directory, added=(SEPARATOR,), chat_template=_CHAT_TEMPLATE
  )
  tensors = export.to_tensors(config, params['trunk'])
  for name in [n for n in tensors if n.split('.')[-2] in _BIASED]:
    bias = np.zeros(len(tensors[name]), np.float32)
    tensors[name.replace('weight', 'bias')] = bias
  for ours, theirs in _HEAD_NAMES.items():
    layer = params['head'][ours]
    tensors[f'{theirs}.weight'] = np.ascontiguousarray(layer['kernel'].T)
    tensors[f'{theirs}.bias'] = np.asarray(layer['bias'])
  safetensors.numpy.save_file(
      {name: x.astype(np.float16) for name, x in tensors.items()},
      directory / 'model.safetensors',
      metadata={'format': 'pt'},
  )
  raw = export.to_llama_config(config) | {
      'architectures': [ARCHITECTURE],
      'model_type': 'qwen2',
      'use_sliding_window': False,
      'dtype': 'float16',
  }
  # Fields of Llama that Qwen2 does not have.
  for field in ('attention_bias', 'mlp_bias'):
    del raw[field]
  # Last, because a directory with this file counts as a reward model.
  (directory / 'config.json').write_text(json.dumps(raw, indent=2) + '\n')


def load(directory: str | pathlib.Path) -> tuple[decoder.DecoderConfig, dict]:
  """Loads a reward model that `save` wrote; the weights become float32.

  Args:
    directory: the model's directory.

  Returns:
    The trunk's shape, and the parameters.

  Raises:
    ValueError: if the directory holds no reward model of the embedded pair.
  """
  directory = pathlib.Path(directory)
  if not is_reward_model(directory):
    raise ValueError(
        f'{directory} holds no process reward model of the embedded pair, as '
        '`experiments.train_reward_head` writes it.'
    )
  raw = json.loads((directory / 'config.json').read_text())
  tensors = {
      name: x.astype(np.float32)
      for name, x in safetensors.numpy.load_file(
          directory / 'model.safetensors'
      ).items()
  }
  head = {
      ours: {
          'kernel': jnp.asarray(tensors[f'{theirs}.weight'].T),
          'bias': jnp.asarray(tensors[f'{theirs}.bias']),
      }
      for ours, theirs in _HEAD_NAMES.items()
  }
  config = export.from_llama_config(raw)
  return config, {'trunk': export.from_tensors(config, tensors), 'head': head}


def is_reward_model(directory: str | pathlib.Path) -> bool:
  """Returns whether a directory holds a reward model of the embedded pair."""
  path = pathlib.Path(directory) / 'config.json'
  if not path.exists():
    return False
  raw = json.loads(path.read_text())
  # Other models of the architecture have other, much larger vocabularies.
  return (
      ARCHITECTURE in (raw.get('architectures') or ())
      and raw.get('vocab_size') == SEPARATOR_ID + 1
  )
