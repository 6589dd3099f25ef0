"""Hooks of the documentation site: pages from outside `docs/`, API reference.

The files in `docs/` link to one another as on GitHub, and also to README.md,
notebooks and folders of the source, which are outside this directory. The hooks
make pages of these, and point the links to them. A link that is left without a
page stops the build, and so does a page that loads something from elsewhere.
Formulas become MathML.
"""

import html
import pathlib
import posixpath
import re

from latex2mathml import converter
from mkdocs import exceptions
from mkdocs.structure import files as files_lib

_ROOT = pathlib.Path(__file__).parents[1]
# File of the repository -> file of the site.
_FROM_OUTSIDE = {
    'README.md': 'index.md',
    'CONTRIBUTING.md': 'contributing.md',
    'CHANGELOG.md': 'changelog.md',
    'experiments/LOG.md': 'log.md',
    'routing/lm/weights/README.md': 'embedded_pair.md',
    'routing/shards/shipped/qwen25_coder/README.md': 'qwen25_coder.md',
    'LICENSE': 'LICENSE.txt',
    'CITATION.cff': 'CITATION.cff.txt',
}
_NOTEBOOKS = 'experiments/colab/'
_RESULTS = 'docs/results'  # A folder of files that GitHub lists.
# Packages of which the reference has a page, and the modules beside them.
ROOMS = tuple(
    sorted(x.parent.name for x in (_ROOT / 'routing').glob('*/__init__.py'))
)
_TOP = (
    'routing',
    *sorted(f'routing.{x.stem}' for x in (_ROOT / 'routing').glob('[!_]*.py')),
)
_LINK = re.compile(
    r'(?P<before>!?\[[^\]]*\]\(|<img\b[^>]*\bsrc=")'
    r'(?P<target>[^)"\s#]+)(?P<after>[^)"]*[)"])'
)
_FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S
)
_LOADED = re.compile(
    r'<(?:script|img|iframe|source)\b[^>]*\bsrc="(?:https?:)?//[^"]*"'
    r'|<link\b(?=[^>]*\brel="(?:stylesheet|preconnect|preload)")[^>]*'
    r'\bhref="(?:https?:)?//[^"]*"'
)


def modules(room: str) -> list[str]:
  """Returns the dotted names of the public modules of a package."""
  paths = sorted((_ROOT / 'routing' / room).glob('[!_]*.py'))
  return [f'routing.{room}.{path.stem}' for path in paths]


def _pages() -> dict[str, str]:
  """Returns the text of each page of the reference, and of a folder."""
  pages = {'api/index.md': _reference('routing', _TOP)}
  for room in ROOMS:
    pages[f'api/{room}.md'] = _reference(f'routing.{room}', modules(room))
  files = sorted(path.name for path in (_ROOT / _RESULTS).glob('*.json'))
  pages['results/index.md'] = '# Files of results\n\n' + '\n'.join(
      f'- [{name}]({name})' for name in files
  )
  return pages


def _reference(title, names):
  return f'# {title}\n\n' + '\n\n'.join(f'::: {name}' for name in names)


def on_config(config):
  """Fills in the navigation of the reference."""
  for entry in config.nav:
    if entry.get('API reference'):
      pages = [name for name in _pages() if name.startswith('api/')]
      entry['API reference'] = pages
  return config


def on_files(files, config):
  """Adds the pages whose sources stand outside `docs/`."""
  for path, name in _FROM_OUTSIDE.items():
    if not (_ROOT / path).exists():
      continue  # A link to it is then an error.
    text = (_ROOT / path).read_text(encoding='utf-8')
    files.append(files_lib.File.generated(config, name, content=text))
  for name, text in _pages().items():
    files.append(files_lib.File.generated(config, name, content=text))
  return files


def on_page_markdown(markdown, page, config, files):
  """Points links to files of the repository to their pages."""
  del config, files
  name = page.file.src_uri
  outside = {site: path for path, site in _FROM_OUTSIDE.items()}
  source = outside.get(name, f'docs/{name}')
  here = posixpath.dirname(name)

  def point(match):
    before, target, after = match.group('before', 'target', 'after')
    if re.match(r'[a-z]+:', target):
      return match[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    return before + posixpath.relpath(_place(path), here or '.') + after

  return _LINK.sub(point, markdown)


def _place(path: str) -> str:
  """Returns where a file of the repository stands in the site."""
  if path in _FROM_OUTSIDE:
    return _FROM_OUTSIDE[path]
  if path == _RESULTS:
    return 'results/index.md'
  if path.startswith(_NOTEBOOKS):
    return f'notebooks/{pathlib.PurePosixPath(path).stem}.md'
  if re.match(r'routing(/|$)', path):
    room = path.removeprefix('routing').strip('/').split('/')[0]
    return f'api/{room if room in ROOMS else "index"}.md'
  # What is neither there nor in docs/ has no page: mkdocs says which it is.
  return path.removeprefix('docs/')


def on_page_content(content, page, config, files):
  """Converts formulas to MathML, which browsers show without a script."""
  del page, config, files

  def convert(match):
    latex = html.unescape(match[2])
    if match[1] == 'span':
      return converter.convert(latex)
    return f'<p>{converter.convert(latex, display="block")}</p>'

  return _FORMULA.sub(convert, content)


def on_post_page(output, page, config):
  """Raises an error if a page loads something from elsewhere."""
  del config
  if found := _LOADED.search(output):
    raise exceptions.PluginError(
        f'{page.file.src_uri} loads from elsewhere: {found[0]}'
    )
  return output
