"""JSON files that say what they were made from, and count for nothing else."""

import json
import pathlib
from typing import Any

from routing.shards import manifest as manifest_lib


def kept(path: pathlib.Path, key: Any) -> Any:
  """Returns what `keep` wrote for the same key, or None.

  Args:
    path: of a JSON file, which need not exist.
    key: JSON-like, all that the content follows from.
  """
  if not path.exists():
    return None
  content = json.loads(path.read_text())
  return content['made'] if content['key'] == _as_json(key) else None


def keep(path: pathlib.Path, key: Any, made: Any) -> None:
  """Writes something JSON-like and its key to a file, whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  text = json.dumps({'key': _as_json(key), 'made': made}, allow_nan=False)
  manifest_lib.replace_file(path, lambda partial: partial.write_text(text))


def _as_json(value: Any) -> Any:
  """A value as JSON gives it back: with lists for tuples."""
  return json.loads(json.dumps(value))
