"""What is written is so: commands, links, notebooks, the words themselves."""

import importlib
import json
import re

from absl.testing import absltest
from absl.testing import parameterized

from experiments import mistakes
from tests import checkout

MAX_CELLS = 14
TEXT = ('*.py', '*.md', '*.toml', '*.yaml', '*.cff', '*.txt', '*.ipynb')
TEXT += ('*.json', 'Makefile', '.ci/run', '.gitignore')

# A character class around one letter keeps a pattern from matching itself.
MACHINE_PATH = re.compile(
    r'(?<![\w.}/-])/(?:home|root|Users|mnt|opt|srv|wor[k]|far[m])/\w'
)
REGISTRY = re.compile(r'(?:index-ur[l]|find-link[s]) *[= ] *(?:https?|file):')
FOREIGN_WORDS = re.compile(
    r'\bCE[O]\b|\bClaud[e]\b|\bAI assistan[t]|\bdevelopers? sessio[n]'
    r'|\bhelper agen[t]|\bissues? #?\d|\bissues sho[w]|\.librar[y]\b'
    r'|\bTOD[O]\b|\bFIXM[E]\b',
    re.IGNORECASE,
)


def foreign(text: str) -> list[str]:
  """Returns what in a text speaks of a machine or a desk, not the project."""
  return [
      match[0]
      for pattern in (MACHINE_PATH, REGISTRY, FOREIGN_WORDS)
      for match in pattern.finditer(text)
  ]


def code_of(markdown: str) -> str:
  """Returns the fenced and the inline code of a page, one piece a line.

  A command that continues after a backslash is joined to one line.
  """
  fenced = re.findall(r'^ *```[^\n]*\n(.*?)^ *```', markdown, re.M | re.S)
  prose = re.sub(r'^ *```.*?^ *```', '', markdown, flags=re.M | re.S)
  # Inline code may be wrapped; the lines of a command belong together.
  inline = [' '.join(x.split()) for x in re.findall(r'`([^`]+)`', prose)]
  code = '\n'.join([*fenced, *inline])
  return re.sub(r'\s*\\\n\s*', ' ', code)


def wrong_commands(code: str) -> list[str]:
  """Returns the commands in a text that this checkout cannot run."""
  return [
      *(f'make {t}' for t in _targets(code) if t not in _make_rules()),
      *(m for m in _modules(code) if not _module_exists(m)),
      *(c for c in re.findall(r'--config=(\S+)', code) if not _is_config(c)),
      *(
          f
          for f in re.findall(r'--config\.([\w.\[\]]+)=', code)
          if not _is_field(f)
      ),
  ]


def wrong_links(markdown: str, folder) -> list[str]:
  """Returns the relative links of a page that lead nowhere."""
  links = re.findall(r'\]\(([^)\s#]+)[^)]*\)', markdown)
  local = [link for link in links if not re.match(r'[a-z]+:', link)]
  return [link for link in local if not (folder / link).exists()]


def notebook_faults(notebook: dict) -> list[str]:
  """Returns what a notebook should not have: outputs, many cells, logic."""
  cells = notebook['cells']
  faults = []
  if len(cells) > MAX_CELLS:
    faults.append(f'{len(cells)} cells, at most {MAX_CELLS}')
  for number, cell in enumerate(cells):
    if cell.get('outputs') or cell.get('execution_count'):
      faults.append(f'cell {number} has outputs; run nbstripout')
    source = ''.join(cell['source'])
    if cell['cell_type'] == 'code' and re.search(
        r'^(def|class) ', source, re.M
    ):
      faults.append(f'cell {number} defines; put it in the package')
  return faults


def _targets(code):
  for line in code.splitlines():
    if match := re.match(r'(?:\$ |.*&& *)?make((?: +[\w./=\'-]+)+)', line):
      words = match[1].split()
      yield from (word for word in words if re.fullmatch(r'[a-z-]+', word))


def _make_rules():
  text = (checkout.ROOT / 'Makefile').read_text(encoding='utf-8')
  return re.findall(r'^([a-z-]+):(?!=)', text, re.M)


def _modules(code):
  ours = r'experiments|benchmarks|third_party|routing'
  return re.findall(rf'python3? -m ((?:{ours})[\w.]*)', code)


def _module_exists(name):
  path = checkout.ROOT / name.replace('.', '/')
  return path.with_suffix('.py').exists() or (path / '__main__.py').exists()


def _is_config(value):
  """Whether a file is there and has the variant, as in `a.py:smoke`."""
  file, _, variant = value.partition(':')
  if not (checkout.ROOT / file).is_file():
    return False
  module = importlib.import_module(file.removesuffix('.py').replace('/', '.'))
  return not variant or variant in module.VARIANTS


def _is_field(field):
  """Whether any configuration has a field of this dotted name."""
  for path in (checkout.ROOT / 'configs').glob('*.py'):
    module = importlib.import_module(f'configs.{path.stem}')
    if hasattr(module, 'get_config'):
      if mistakes.unknown_field(module.get_config(), field) is None:
        return True
  return False


class CheckoutTest(parameterized.TestCase):
  """The documents of the checkout have no fault."""

  def test_the_pages_are_found(self):
    pages = {checkout.name(path) for path in checkout.files('*.md')}
    self.assertContainsSubset({'README.md', 'docs/coverage.md'}, pages)
    self.assertLess(len(pages), len(checkout.files(*TEXT)))

  def test_no_foreign_words(self):
    for path in checkout.files(*TEXT):
      text = path.read_text(encoding='utf-8')
      self.assertEmpty(foreign(text), checkout.name(path))

  def test_commands_can_be_run(self):
    for path in checkout.files('*.md'):
      code = code_of(path.read_text(encoding='utf-8'))
      self.assertEmpty(wrong_commands(code), checkout.name(path))

  def test_commands_of_configs_can_be_run(self):
    for path in checkout.files('*.py'):
      if checkout.name(path).startswith('configs/'):
        text = path.read_text(encoding='utf-8')
        self.assertEmpty(wrong_commands(text), checkout.name(path))

  def test_links_lead_somewhere(self):
    for path in checkout.files('*.md'):
      text = path.read_text(encoding='utf-8')
      self.assertEmpty(wrong_links(text, path.parent), checkout.name(path))

  def test_readme_names_the_two_commands(self):
    path = checkout.ROOT / 'README.md'
    if not path.exists():
      self.skipTest('There is no README.md yet.')
    targets = set(_targets(code_of(path.read_text(encoding='utf-8'))))
    self.assertContainsSubset({'demo', 'test'}, targets)

  def test_readme_is_short_enough_to_read_whole(self):
    text = (checkout.ROOT / 'README.md').read_text(encoding='utf-8')
    self.assertLessEqual(len(text.splitlines()), 130)

  def test_contributing_draws_every_room(self):
    text = (checkout.ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
    rooms = {
        checkout.name(path).split('/')[1].removesuffix('.py')
        for path in checkout.files('*.py')
        if checkout.name(path).startswith('routing/')
    }
    for room in rooms - {'__init__'}:
      self.assertRegex(text, rf'(?m)^  {room}(\.py|/)', 'The picture lacks it.')

  def test_notebooks(self):
    notebooks = checkout.files('*.ipynb')
    if not notebooks:
      self.skipTest('There are no notebooks yet.')
    for path in notebooks:
      notebook = json.loads(path.read_text(encoding='utf-8'))
      self.assertEmpty(notebook_faults(notebook), checkout.name(path))


class RulesTest(parameterized.TestCase):
  """Each rule sees a fault, and only that."""

  @parameterized.parameters(
      'see /hom' + 'e/me/run',
      "open('/roo" + "t/x')",
      'pip --extra-index-ur' + 'l=https://x',
      'closes issu' + 'e 12',
      'TOD' + 'O(me)',
  )
  def test_foreign(self, text):
    self.assertLen(foreign(text), 1)

  @parameterized.parameters(
      'runs/demo',
      '/tm' + 'p/run',
      'network/wo' + 'rk/x',
      'https://a.org/ho' + 'me/b',
  )
  def test_not_foreign(self, text):
    self.assertEmpty(foreign(text))

  def test_code_of(self):
    page = 'make sure\n```bash\nmake a \\\n  B=1\n```\nand `make b`.\n'
    self.assertEqual(code_of(page), 'make a B=1\n\nmake b')
    self.assertEqual(code_of('run `make b\nC=2`.').strip(), 'make b C=2')

  @parameterized.parameters(
      ('make nothing', ['make nothing']),
      ('make demo VARIANT=smoke', []),
      ('cd x && make test', []),
      ('python -m experiments.nothing', ['experiments.nothing']),
      ('python -m experiments.collect', []),
      ('--config=configs/nothing.py', ['configs/nothing.py']),
      ('--config=configs/arithmetic.py:no', ['configs/arithmetic.py:no']),
      ('--config=configs/arithmetic.py:smoke', []),
      ('--config.protocol.nam=x', ['protocol.nam']),
      ('--config.protocol.name=x', []),
  )
  def test_wrong_commands(self, code, expected):
    self.assertEqual(wrong_commands(code), expected)

  def test_wrong_links(self):
    page = '[a](setup.py) [b](nowhere.md#x) [c](https://a.org) [d](#here)'
    self.assertEqual(wrong_links(page, checkout.ROOT), ['nowhere.md'])

  def test_notebook_faults(self):
    clean = {'cell_type': 'code', 'source': ['x = 1'], 'outputs': []}
    self.assertEmpty(notebook_faults({'cells': [clean] * MAX_CELLS}))
    self.assertLen(notebook_faults({'cells': [clean] * (MAX_CELLS + 1)}), 1)
    self.assertLen(notebook_faults({'cells': [clean | {'outputs': [1]}]}), 1)
    self.assertLen(
        notebook_faults({'cells': [clean | {'source': ['a\n', 'def f():']}]}), 1
    )


if __name__ == '__main__':
  absltest.main()
