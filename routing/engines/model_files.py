"""Finds the weight files of a model, and reads the model's size from them."""

import functools
import hashlib
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
        f'The directory {folder} contains no *.safetensors file; check the '
        'models of config.routes.'
    )
  return files


def hash_weights(folder: pathlib.Path) -> str:
  """Returns the SHA-256 of the weights; of several files, joined by '+'."""
  return '+'.join(map(hash_file, weight_files(folder)))


def hash_small_files(folder: pathlib.Path) -> str:
  """Returns one SHA-256 of all files but the weights that affect an answer.

  These are the configuration, the tokenizer, the chat template, and the
  sampling defaults that a server reads from `generation_config.json`.
  """
  digest = hashlib.sha256()
  for pattern in ('*.json', '*.jinja', '*.txt'):
    for path in sorted(folder.glob(pattern)):
      digest.update(path.name.encode() + b'\0' + hash_file(path).encode())
  return digest.hexdigest()


def hash_file(path: pathlib.Path) -> str:
  """Returns the SHA-256 of a file, computed once while it does not change."""
  status = path.stat()
  return _hash_unless_changed(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=256)
def _hash_unless_changed(path: pathlib.Path, mtime: int, size: int) -> str:
  """Returns the SHA-256 of a file; a new time or size is a new file."""
  del mtime, size
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
