"""Writes the embedded models as GGUF files, the format of llama.cpp."""

import json
import pathlib

import gguf
import numpy as np
from safetensors import numpy as safetensors_numpy

from routing.lm import tokenizer as tokenizer_lib

# Name of a matrix of a layer in `transformers` -> in llama.cpp.
_LAYER = {
    'input_layernorm': 'attn_norm',
    'self_attn.q_proj': 'attn_q',
    'self_attn.k_proj': 'attn_k',
    'self_attn.v_proj': 'attn_v',
    'self_attn.o_proj': 'attn_output',
    'post_attention_layernorm': 'ffn_norm',
    'mlp.gate_proj': 'ffn_gate',
    'mlp.up_proj': 'ffn_up',
    'mlp.down_proj': 'ffn_down',
}


def _rotated(weight: np.ndarray, num_heads: int) -> np.ndarray:
  """Returns a projection with the rotated pairs side by side.

  `transformers` rotates feature i of a head with i + half, llama.cpp 2i with
  2i + 1.
  """
  parts = weight.reshape(num_heads, 2, -1, weight.shape[1])
  return parts.swapaxes(1, 2).reshape(weight.shape)


def write(folder: pathlib.Path, path: pathlib.Path) -> None:
  """Writes an embedded model to a GGUF file, in float32.

  Args:
    folder: the model's directory, in the format of `transformers`.
    path: the file to write.
  """
  config = json.loads((folder / 'config.json').read_text())
  num_heads = config['num_attention_heads']
  writer = gguf.GGUFWriter(path, 'llama')
  writer.add_block_count(config['num_hidden_layers'])
  writer.add_context_length(config['max_position_embeddings'])
  writer.add_embedding_length(config['hidden_size'])
  writer.add_feed_forward_length(config['intermediate_size'])
  writer.add_head_count(num_heads)
  writer.add_head_count_kv(config['num_key_value_heads'])
  writer.add_key_length(config['head_dim'])
  writer.add_value_length(config['head_dim'])
  writer.add_rope_dimension_count(config['head_dim'])
  writer.add_rope_freq_base(config['rope_theta'])
  writer.add_layer_norm_rms_eps(config['rms_norm_eps'])
  writer.add_vocab_size(config['vocab_size'])
  # Prompts come as ids, so llama.cpp needs only the texts of tokens.
  special = (tokenizer_lib.PAD, tokenizer_lib.EOS)
  writer.add_tokenizer_model('llama')
  writer.add_token_list(tokenizer_lib.VOCABULARY)
  writer.add_token_scores([0.0] * config['vocab_size'])
  writer.add_token_types(
      [
          gguf.TokenType.CONTROL
          if text in special
          else gguf.TokenType.USER_DEFINED
          for text in tokenizer_lib.VOCABULARY
      ]
  )
  writer.add_eos_token_id(config['eos_token_id'])
  writer.add_add_bos_token(False)
  writer.add_add_space_prefix(False)
  for name, weight in safetensors_numpy.load_file(
      folder / 'model.safetensors'
  ).items():
    if name.endswith(('q_proj.weight', 'k_proj.weight')):
      weight = _rotated(weight, num_heads)
    writer.add_tensor(_renamed(name), weight)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


def _renamed(name: str) -> str:
  """Returns llama.cpp's name of a tensor."""
  name = name.removeprefix('model.')
  if name.startswith('layers.'):
    _, layer, rest = name.split('.', 2)
    return f'blk.{layer}.{_LAYER[rest.removesuffix(".weight")]}.weight'
  return {
      'embed_tokens.weight': 'token_embd.weight',
      'norm.weight': 'output_norm.weight',
  }[name]
