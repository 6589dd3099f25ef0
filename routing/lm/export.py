"""Saves and loads weights in the format of `transformers` and vLLM."""

import json
import os
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from routing.lm import decoder
from routing.lm import tokenizer as tokenizer_lib

# Our (module, parameter) -> Hugging Face's Llama name, for each layer.
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


def shipped(name: str) -> pathlib.Path:
  """Returns the directory of a model that ships with the package.

  Args:
    name: 'small' or 'large'.

  Raises:
    ValueError: for another name.
  """
  directory = pathlib.Path(__file__).parent / 'weights' / name
  if not (directory / 'config.json').exists():
    raise ValueError(
        f'There is no shipped model {name!r}; allowed: small, large.'
    )
  return directory


def to_tensors(config: decoder.DecoderConfig, params) -> dict[str, np.ndarray]:
  """Returns the parameters under Hugging Face's Llama names, float32."""
  tensors = {
      'model.embed_tokens.weight': params['embedding'],
      'model.norm.weight': params['norm']['scale'],
  }
  for i in range(config.num_layers):
    for (part, leaf), name in _LAYER_NAMES.items():
      weight = params[f'layer_{i}'][part][leaf]
      # Flax kernels are [in, out], torch's are [out, in]. Norm scales are
      # vectors, which .T leaves as they are.
      tensors[f'model.layers.{i}.{name}.weight'] = weight.T
  # safetensors writes the buffer as it lies in memory, ignoring strides.
  return {k: np.ascontiguousarray(v, np.float32) for k, v in tensors.items()}


def from_tensors(config: decoder.DecoderConfig, tensors) -> dict:
  """Returns parameters from tensors; the inverse of `to_tensors`."""
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
  """Returns the contents of config.json."""
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
      # Longer than any problem; vLLM refuses a max_length above it.
      'max_position_embeddings': 512,
      'bos_token_id': None,
      'eos_token_id': tokenizer_lib.Tokenizer.eos_id,
      'pad_token_id': tokenizer_lib.Tokenizer.pad_id,
      'dtype': 'float32',
  }


def from_llama_config(raw: dict) -> decoder.DecoderConfig:
  """Returns the decoder's shape from the contents of config.json."""
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

  The directory appears complete or not at all; an older one is replaced.
  """
  directory = pathlib.Path(directory)
  # Written beside the target, then renamed: an interrupted run leaves no
  # half-written model. It may have left a partial directory, removed here.
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

  Returns:
    (config, params).

  Raises:
    FileNotFoundError: if the directory has no model; names the missing file.
  """
  directory = pathlib.Path(directory)
  for name in ('config.json', 'model.safetensors'):
    if not (directory / name).exists():
      raise FileNotFoundError(
          f'{directory} contains no model: {name} is missing.'
      )
  raw = json.loads((directory / 'config.json').read_text())
  config = from_llama_config(raw)
  tensors = safetensors.numpy.load_file(directory / 'model.safetensors')
  return config, from_tensors(config, tensors)
