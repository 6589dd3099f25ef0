"""Caches JSON results in files, each with the key for which it is valid."""

import json
import pathlib
from typing import Any

from routing.shards import manifest as manifest_lib


def load(path: pathlib.Path, key: Any) -> Any:
  """Returns the result that `save` wrote to a file, if it has the same key.

  Returns None if the file does not exist or has another key.

  Args:
    path: a JSON file.
    key: everything that the result depends on, JSON-like.
  """
  if not path.exists():
    return None
  content = json.loads(path.read_text())
  return content['made'] if content['key'] == _as_json(key) else None


def save(path: pathlib.Path, key: Any, made: Any) -> None:
  """Writes a JSON-like result and its key to a file, atomically.

  Args:
    path: the file; an earlier one is replaced.
    key: everything that the result depends on, JSON-like.
    made: the result, JSON-like, without NaN and infinity.

  Raises:
    ValueError: if the key or the result has a number that is not finite.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  # JSON has no NaN, and a key with NaN would not equal itself when read back.
  text = json.dumps({'key': _as_json(key), 'made': made}, allow_nan=False)
  manifest_lib.replace_file(path, lambda partial: partial.write_text(text))


def _as_json(value: Any) -> Any:
  """Returns the value as it would be read from JSON, e.g. tuples as lists."""
  # `load` compares a key from Python code with one that was read from a file.
  return json.loads(json.dumps(value))
