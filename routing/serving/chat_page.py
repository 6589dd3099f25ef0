"""The chat page at `/`: one file, which loads nothing from anywhere else."""

import base64
from collections.abc import Mapping
import hashlib
import pathlib
import re

_FILE = pathlib.Path(__file__).with_name('page') / 'index.html'


def read() -> tuple[str, Mapping[str, str]]:
  """Returns the page and the headers that it is served with.

  The policy names the page's own style and script by their hashes, so that a
  browser runs no other, and lets it talk to this service alone. See Content
  Security Policy Level 3 of the W3C, section 2.3.1.
  """
  page = _FILE.read_text(encoding='utf-8')
  policy = {
      'default-src': "'none'",
      'script-src': _sources('script', page),
      'style-src': _sources('style', page),
      'img-src': 'data:',  # An empty icon, or browsers would ask for one.
      'connect-src': "'self'",
      'base-uri': "'none'",
      'form-action': "'none'",
      'frame-ancestors': "'none'",
  }
  headers = {
      'content-security-policy': '; '.join(map(' '.join, policy.items())),
      'referrer-policy': 'no-referrer',
      'x-content-type-options': 'nosniff',
      'cache-control': 'no-cache',  # A new version is seen at once.
  }
  return page, headers


def _sources(tag: str, page: str) -> str:
  """Returns the hashes of the elements of one kind, as a policy has them."""
  found = re.findall(rf'<{tag}>(.*?)</{tag}>', page, re.S)
  hashes = [hashlib.sha256(text.encode()).digest() for text in found]
  return ' '.join(f"'sha256-{base64.b64encode(x).decode()}'" for x in hashes)
