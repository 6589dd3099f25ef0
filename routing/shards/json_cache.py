"""A cache of JSON results; a file is valid for the key stored in it only."""

import json
import pathlib
from typing import Any

from routing.shards import manifest as manifest_lib


def load(path: pathlib.Path, key: Any) -> Any:
  """Returns the result that `save` wrote for the same key, or None.

  Args:
    path: a JSON file, which need not exist.
    key: JSON-like; everything that the result depends on.
  """
  if not path.exists():
    return None
  content = json.loads(path.read_text())
  return content['made'] if content['key'] == _as_json(key) else None


def save(path: pathlib.Path, key: Any, made: Any) -> None:
  """Writes a JSON-like result and its key to a file, atomically.

  Args:
    path: the file; an earlier one is replaced.
    key: JSON-like; everything that the result depends on.
    made: the result; it may contain no NaN or infinity.

  Raises:
    ValueError: if a number is not finite.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  # NaN is not JSON, and would not compare equal when read back.
  text = json.dumps({'key': _as_json(key), 'made': made}, allow_nan=False)
  manifest_lib.replace_file(path, lambda partial: partial.write_text(text))


def _as_json(value: Any) -> Any:
  """Returns the value as JSON reads it back, e.g. with lists for tuples."""
  # A key from Python code must equal the same key from a file.
  return json.loads(json.dumps(value))
