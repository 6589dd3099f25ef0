"""Writes a page of charts and data: one file, which loads nothing.

The page is a template of plain HTML, CSS and JavaScript in the folder `page`.
Vega-Lite is put in from a released package, and the data compressed.
"""

import base64
from collections.abc import Mapping
import functools
import gzip
import json
import pathlib
from typing import Any

_FOLDER = pathlib.Path(__file__).with_name('page')
MAX_BYTES = 5_000_000
# Scripts of each page, in order; all of them share one scope.
SCRIPTS = {
    'report.html': (
        'elements.js',
        'charts.js',
        'dial.js',
        'answers.js',
        'report.js',
    ),
    'gallery.html': ('elements.js', 'charts.js', 'gallery.js'),
}


def render(template: str, data: Mapping[str, Any]) -> str:
  """Returns the page as one HTML text.

  Args:
    template: a key of `SCRIPTS`.
    data: JSON-like; the page's scripts read it.
  """
  read = lambda name: (_FOLDER / name).read_text(encoding='utf-8')
  parts = {
      'style': read('style.css'),
      'library': vega(),
      'script': '\n'.join(map(read, SCRIPTS[template])),
      'data': packed(data),
  }
  page = read(template)
  # The data come last: they hold no marker, and the scripts no data.
  for name, text in parts.items():
    page = page.replace(f'[[{name}]]', text)
  return page


def packed(data: Mapping[str, Any]) -> str:
  """Returns JSON-like data, compressed by gzip and written in base64."""
  text = json.dumps(data, allow_nan=False, separators=(',', ':'))
  # Without a time of day in it, the same data give the same page.
  return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def unpacked(page: str) -> dict[str, Any]:
  """Returns the data of a page that `render` made."""
  text = page.split('id="data">', 1)[1].split('</script>', 1)[0]
  return json.loads(gzip.decompress(base64.b64decode(text)))


@functools.cache
def vega() -> str:
  """Returns Vega, Vega-Lite and Vega-Embed as JavaScript, about 900 kB."""
  # Slow to load, and only pages need it.
  import vl_convert

  return vl_convert.javascript_bundle('window.vegaEmbed = vegaEmbed;')
