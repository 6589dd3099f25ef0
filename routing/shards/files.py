"""Paths of files that may be elsewhere: in S3, Google's storage, and others.

A path on this machine is a `pathlib.Path`. One with a scheme, such as
's3://bucket/run', is a `upath.UPath` of `fsspec`, which has the same methods.
Such stores replace whole objects at once, and cannot append to one.
"""

import pathlib


def path(given: pathlib.Path | str) -> pathlib.Path:
  """Returns a path, here or elsewhere, with the methods of `pathlib.Path`.

  Raises:
    ValueError: if the path has a scheme, and what reads it is not installed.
  """
  text = str(given)
  if '://' not in text:
    return pathlib.Path(given)
  try:
    import upath

    # Others write there, too, so no listing may be kept.
    return upath.UPath(text, use_listings_cache=False)  # pyrefly: ignore
  except ImportError as error:
    raise ValueError(
        f'{text} cannot be opened: {error}. Install the extra `remote`: pip '
        "install -e '.[remote]'; it reads s3:// and gs://."
    ) from error


def absolute(given: pathlib.Path | str) -> pathlib.Path:
  """Returns a path that is the same from every directory of this machine."""
  where = path(given)
  return where.absolute() if is_local(where) else where


def is_local(where: pathlib.Path) -> bool:
  """Returns whether a path is in a file system of this machine."""
  return isinstance(where, pathlib.Path)
