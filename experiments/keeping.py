"""What was computed before is not computed again: JSON under a key."""

from collections.abc import Callable
import json
import pathlib
import time
from typing import Any

from routing.shards import manifest as manifest_lib


def kept(path: pathlib.Path, key: Any, make: Callable[[], Any]) -> Any:
  """What was made before, if for the same key; otherwise makes and keeps it.

  Args:
    path: of a JSON file.
    key: JSON-like, all that the content follows from.
    make: gives something JSON-like.

  Returns:
    The content of the file: `key`, `made`, and the `seconds` it took.
  """
  key = json.loads(json.dumps(key))
  if path.exists():
    content = json.loads(path.read_text())
    if content['key'] == key:
      return content
  start = time.monotonic()
  content = {'key': key, 'made': make()}
  content['seconds'] = time.monotonic() - start
  path.parent.mkdir(parents=True, exist_ok=True)
  text = json.dumps(content, allow_nan=False)
  manifest_lib.replace_file(path, lambda partial: partial.write_text(text))
  return content
