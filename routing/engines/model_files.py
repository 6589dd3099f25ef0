"""The files of a model's weights, and the shape that they tell."""

import json
import math
import pathlib

import safetensors


def shape(folder: pathlib.Path) -> tuple[int, int, int]:
  """Returns (parameters, layers, attention width) of a model's directory."""
  model = json.loads((folder / 'config.json').read_text())
  num_heads = model['num_attention_heads']
  head_size = model.get('head_dim') or model['hidden_size'] // num_heads
  # Counted from the shapes in the files' headers; no weights are loaded.
  parameters = 0
  for path in weight_files(folder):
    with safetensors.safe_open(path, 'numpy') as tensors:
      for name in tensors.keys():
        parameters += math.prod(tensors.get_slice(name).get_shape())
  return parameters, model['num_hidden_layers'], num_heads * head_size


def weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files of a model's weights, sorted by name.

  Raises:
    FileNotFoundError: if the directory holds none.
  """
  files = sorted(folder.glob('*.safetensors'))
  if not files:
    raise FileNotFoundError(
        f'{folder}: no *.safetensors file; see engine.pair.'
    )
  return files
