"""Finds the weight files of a model, and reads the model's size from them."""

import json
import math
import pathlib

import safetensors


def shape(folder: pathlib.Path) -> tuple[int, int, int]:
  """Reads the size of a model, which determines its FLOPs per token.

  Args:
    folder: the model's directory, in the format of `transformers`.

  Returns:
    (number of parameters, number of layers, attention width), where the
    attention width is the number of heads times the size of a head.
  """
  model = json.loads((folder / 'config.json').read_text())
  num_heads = model['num_attention_heads']
  head_size = model.get('head_dim') or model['hidden_size'] // num_heads
  # The parameters are counted from the shapes in the files' headers, without
  # loading any weights.
  parameters = 0
  for path in weight_files(folder):
    with safetensors.safe_open(path, 'numpy') as tensors:
      for name in tensors.keys():
        parameters += math.prod(tensors.get_slice(name).get_shape())
  return parameters, model['num_hidden_layers'], num_heads * head_size


def weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the *.safetensors files of a model's directory, sorted by name.

  Raises:
    FileNotFoundError: if the directory contains no such file.
  """
  files = sorted(folder.glob('*.safetensors'))
  if not files:
    raise FileNotFoundError(
        f'The directory {folder} contains no *.safetensors file; check '
        'engine.pair in the configuration.'
    )
  return files
