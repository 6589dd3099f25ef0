"""Saves and loads embedded models in the format of `transformers` and vLLM."""

import json
import os
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from routing.lm import decoder
from routing.lm import tokenizer as tokenizer_lib

# Names of the parameters of a layer: (module, parameter) in `decoder.Block` ->
# the name in Hugging Face's Llama.
_LAYER_NAMES = {
    ('attention_norm', 'scale'): 'input_layernorm',
    ('query', 'kernel'): 'self_attn.q_proj',
    ('key', 'kernel'): 'self_attn.k_proj',
    ('value', 'kernel'): 'self_attn.v_proj',
    ('output', 'kernel'): 'self_attn.o_proj',
    ('mlp_norm', 'scale'): 'post_attention_layernorm',
    ('gate', 'kernel'): 'mlp.gate_proj',
    ('up', 'kernel'): 'mlp.up_proj',
    ('down', 'kernel'): 'mlp.down_proj',
}


MODELS = ('small', 'large')  # Of an embedded pair.


def shipped(name: str) -> pathlib.Path:
  """Returns the directory of a model that ships with the package.

  Args:
    name: one of `MODELS`.

  Raises:
    ValueError: if no model of that name ships with the package.
  """
  directory = pathlib.Path(__file__).parent / 'weights' / name
  if not (directory / 'config.json').exists():
    raise ValueError(
        f'There is no shipped model {name!r}; allowed: {", ".join(MODELS)}.'
    )
  return directory


def to_tensors(config: decoder.DecoderConfig, params) -> dict[str, np.ndarray]:
  """Returns the parameters as float32 arrays by Hugging Face's Llama names.

  Args:
    config: the decoder's shape.
    params: parameters of `decoder.Decoder(config)`.
  """
  tensors = {
      'model.embed_tokens.weight': params['embedding'],
      'model.norm.weight': params['norm']['scale'],
  }
  for i in range(config.num_layers):
    for (part, leaf), name in _LAYER_NAMES.items():
      weight = params[f'layer_{i}'][part][leaf]
      # A Flax kernel has axes [in, out], a weight in torch [out, in]. Norm
      # scales are vectors, which .T does not change.
      tensors[f'model.layers.{i}.{name}.weight'] = weight.T
  # safetensors writes an array's buffer as it lies in memory, ignoring strides,
  # so transposed arrays must be copied first.
  return {k: np.ascontiguousarray(v, np.float32) for k, v in tensors.items()}


def from_tensors(config: decoder.DecoderConfig, tensors) -> dict:
  """Returns the decoder's parameters; the inverse of `to_tensors`.

  Args:
    config: the decoder's shape.
    tensors: arrays by Hugging Face's Llama names.
  """
  params = {
      'embedding': jnp.asarray(tensors['model.embed_tokens.weight']),
      'norm': {'scale': jnp.asarray(tensors['model.norm.weight'])},
  }
  for i in range(config.num_layers):
    layer = params[f'layer_{i}'] = {}
    for (part, leaf), name in _LAYER_NAMES.items():
      weight = tensors[f'model.layers.{i}.{name}.weight']
      layer[part] = {leaf: jnp.asarray(weight.T)}
  return params


def to_llama_config(config: decoder.DecoderConfig) -> dict:
  """Returns the contents of config.json, a `LlamaConfig` of `transformers`."""
  return {
      'architectures': ['LlamaForCausalLM'],
      'model_type': 'llama',
      'vocab_size': config.vocab_size,
      'hidden_size': config.hidden_size,
      'num_hidden_layers': config.num_layers,
      'num_attention_heads': config.num_heads,
      'num_key_value_heads': config.num_kv_heads,
      'head_dim': config.head_dim,
      'intermediate_size': config.mlp_size,
      'rope_theta': config.rope_theta,
      'rms_norm_eps': config.norm_eps,
      'hidden_act': 'silu',
      'attention_bias': False,
      'mlp_bias': False,
      'tie_word_embeddings': True,
      # vLLM rejects a max_length above this number. Every problem with its
      # answer is shorter.
      'max_position_embeddings': 512,
      'bos_token_id': None,
      'eos_token_id': tokenizer_lib.Tokenizer.eos_id,
      'pad_token_id': tokenizer_lib.Tokenizer.pad_id,
      'dtype': 'float32',
  }


def from_llama_config(raw: dict) -> decoder.DecoderConfig:
  """Returns the decoder's shape; the inverse of `to_llama_config`.

  Args:
    raw: the contents of config.json.
  """
  return decoder.DecoderConfig(
      vocab_size=raw['vocab_size'],
      hidden_size=raw['hidden_size'],
      num_layers=raw['num_hidden_layers'],
      num_heads=raw['num_attention_heads'],
      num_kv_heads=raw['num_key_value_heads'],
      head_dim=raw['head_dim'],
      mlp_size=raw['intermediate_size'],
      rope_theta=raw['rope_theta'],
      norm_eps=raw['rms_norm_eps'],
  )


def save_pretrained(
    directory: str | pathlib.Path, config: decoder.DecoderConfig, params
) -> None:
  """Writes config.json, model.safetensors and the tokenizer's files.

  An existing directory is replaced. The new files appear together or not at
  all, even if the call is interrupted.

  Args:
    directory: the model's directory.
    config: the decoder's shape.
    params: parameters of `decoder.Decoder(config)`.
  """
  directory = pathlib.Path(directory)
  # The files are written into a partial directory beside the target, which is
  # renamed at the end. An earlier, interrupted call may have left one behind.
  partial = directory.with_name(f'.{directory.name}.partial')
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  tokenizer_lib.Tokenizer().save(partial)
  safetensors.numpy.save_file(
      to_tensors(config, params),
      partial / 'model.safetensors',
      metadata={'format': 'pt'},  # Some versions of `transformers` require it.
  )
  (partial / 'config.json').write_text(
      json.dumps(to_llama_config(config), indent=2) + '\n'
  )
  shutil.rmtree(directory, ignore_errors=True)
  os.replace(partial, directory)


def load_pretrained(directory: str | pathlib.Path):
  """Loads a model that `save_pretrained` wrote.

  Args:
    directory: the model's directory.

  Returns:
    (config, params): the decoder's shape and its parameters.

  Raises:
    FileNotFoundError: if the directory lacks one of the model's files.
  """
  directory = pathlib.Path(directory)
  for name in ('config.json', 'model.safetensors'):
    if not (directory / name).exists():
      raise FileNotFoundError(
          f'The directory {directory} contains no model: {name} is missing.'
      )
  raw = json.loads((directory / 'config.json').read_text())
  config = from_llama_config(raw)
  tensors = safetensors.numpy.load_file(directory / 'model.safetensors')
  return config, from_tensors(config, tensors)
