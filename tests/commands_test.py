"""Every command in a document is one that its program would accept.

Each program is started in this process as far as reading its flags: the real
flags, the real configuration with all overrides, the checks before a run. What
a program then does is tested elsewhere.
"""

import ast
import contextlib
import functools
import importlib
import importlib.util
import io
import json
import re
import runpy
import shlex
import sys
from unittest import mock
import warnings

from absl import app
from absl import flags
from absl.testing import absltest
from absl.testing import parameterized

import routing
from tests import checkout
from tests import documents_test
from tests import packaging_test

_OURS = re.compile(r'(experiments|benchmarks|third_party|routing)\.')
# Words that end a command, or give what it prints to something else.
_ENDS = ('&&', '||', '|', ';', '>', '#')
_CALLS = re.compile(r'\bpython3? -m ([\w.]+)')


_HELP = frozenset(('--help', '--helpfull', '--helpshort'))


class _Accepted(Exception):
  """Raised in place of running a program whose flags were read."""


def programs(code: str) -> list[list[str]]:
  """Returns [module, word, ...] of each command that runs a program of ours.

  A module without words is a mention, not a command, and is left out.
  """
  found = []
  for line in code.splitlines():
    for call in _CALLS.finditer(line):
      if not _OURS.match(call[1]):
        continue
      words = []
      for word in _split(line[call.end() :]):
        if word in _ENDS:
          break
        words.append(word)
      if words:
        found.append([call[1], *words])
  return found


def _split(line):
  """Returns the words of a line; '#' ends it only as a word of its own."""
  return shlex.split(line.replace('...', '1'), posix=True)


def fault(module: str, words: list[str]) -> str:
  """Returns why a program would not start with these words; '' if it would."""
  # absl answers these itself, before it looks at any other flag.
  if _HELP.intersection(words):
    return '' if importlib.util.find_spec(module) else f'No module {module}.'
  printed = io.StringIO()
  with _as_program(module, words, printed):
    try:
      runpy.run_module(module, run_name='__main__', alter_sys=False)
    except _Accepted:
      return ''
    except SystemExit as error:
      return f'{error.code} {printed.getvalue()}'.strip()
    except Exception as error:  # A value that a configuration refuses.
      return repr(error)
  return f'{module} has no flags.'


def short_help(module: str) -> str:
  """Returns what a program prints for --helpshort."""
  app.define_help_flags()  # Once, for all programs.
  printed = io.StringIO()
  with _as_program(module, ['--helpshort'], printed):
    try:
      # absl prints the docstring of the module `__main__`.
      runpy.run_module(module, run_name='__main__', alter_sys=True)
    except SystemExit:
      pass
  return printed.getvalue()


@contextlib.contextmanager
def _as_program(module: str, words: list[str], printed: io.StringIO):
  """Gives a program its words and its own flags; what it prints is kept."""
  # Other tests may have imported programs, whose flags stay defined.
  others = {
      flag.name: (module_of, flag)
      for module_of, found in flags.FLAGS.flags_by_module_dict().items()
      if _OURS.match(module_of)
      for flag in found
  }
  for name in others:
    delattr(flags.FLAGS, name)
  before = set(flags.FLAGS)

  def stop(main, argv=None, flags_parser=app.parse_flags_with_usage):
    del main
    flags_parser(argv or sys.argv)
    raise _Accepted()

  with (
      contextlib.chdir(checkout.ROOT),
      mock.patch.object(app, 'run', stop),
      mock.patch.object(sys, 'argv', [module, *words]),
      contextlib.redirect_stdout(printed),
      contextlib.redirect_stderr(printed),
      warnings.catch_warnings(),
  ):
    # Programs import one another, so most are imported already.
    warnings.simplefilter('ignore', RuntimeWarning)
    try:
      yield
    finally:
      for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
      for name, (module_of, flag) in others.items():
        flags.FLAGS[name] = flag
        flags.FLAGS.register_flag_by_module(module_of, flag)
      flags.FLAGS.mark_as_parsed()


def wrong_extras(code: str) -> list[str]:
  """Returns the extras that `pip install -e '.[a,b]'` names and nobody has."""
  known = packaging_test.declared('EXTRAS_REQUIRE')
  named = re.findall(r"pip install [^\n]*?'\.\[([\w,-]+)\]'", code)
  return [x for group in named for x in group.split(',') if x not in known]


def python_blocks(markdown: str) -> list[str]:
  """Returns the fenced pieces of Python of a page, without IPython's lines."""
  found = re.findall(r'^```python\n(.*?)^```', markdown, re.M | re.S)
  return [re.sub(r'^%.*$', '', block, flags=re.M) for block in found]


def wrong_imports(source: str) -> list[str]:
  """Returns what a piece of Python imports from this project in vain."""
  wrong = []
  for name in checkout.imports(ast.parse(source)):
    module, _, attribute = name.rpartition('.')
    if name.split('.')[0] in ('configs', 'experiments', 'routing'):
      try:
        importlib.import_module(name)
      except ImportError:
        if not hasattr(importlib.import_module(module), attribute):
          wrong.append(name)
  return wrong


@functools.cache
def _pages() -> dict[str, str]:
  """Returns the text of each document, notebook and configuration."""
  return {
      checkout.name(path): path.read_text(encoding='utf-8')
      for path in checkout.files('*.md', '*.ipynb', 'configs/*.py')
  }


def _code(name: str, text: str) -> str:
  """Returns what is code in a document."""
  if name.endswith('.md'):
    return documents_test.code_of(text)
  if name.endswith('.ipynb'):
    cells = json.loads(text)['cells']
    return '\n'.join(
        documents_test.code_of(''.join(cell['source']))
        if cell['cell_type'] == 'markdown'
        else ''.join(cell['source'])
        for cell in cells
    )
  return text


class DocumentsTest(absltest.TestCase):

  def test_every_program_would_start(self):
    commands = {
        tuple(command): name
        for name, text in _pages().items()
        for command in programs(_code(name, text))
    }
    self.assertGreater(len(commands), 30)
    wrong = {
        f'{name}: {shlex.join(command)}': found
        for command, name in sorted(commands.items())
        if (found := fault(command[0], list(command[1:])))
    }
    self.assertEmpty(wrong)

  def test_every_extra_exists(self):
    for name, text in _pages().items():
      self.assertEmpty(wrong_extras(_code(name, text)), name)

  def test_every_import_in_python_exists(self):
    for name, text in _pages().items():
      for block in python_blocks(text) if name.endswith('.md') else ():
        self.assertEmpty(wrong_imports(block), name)

  def test_the_python_of_readme_and_tutorial_runs(self):
    for name in ('README.md', 'docs/tutorial.md'):
      blocks = python_blocks(_pages()[name])
      self.assertNotEmpty(blocks, name)
      shipped = mock.patch.object(
          routing, 'load', functools.partial(_load_shipped, routing.load)
      )
      for block in blocks:
        with shipped, contextlib.redirect_stdout(io.StringIO()) as printed:
          exec(compile(block, name, 'exec'), {})
        self.assertIn('operating points', printed.getvalue(), name)


def _load_shipped(load, path):
  """Loads the shipped router in place of one that the reader trained."""
  if path != 'shipped':
    assert path.startswith('runs/'), path
  return load('shipped')


class HelpTest(parameterized.TestCase):

  @parameterized.parameters(
      *('collect', 'train', 'calibrate', 'evaluate', 'report', 'pipeline'),
      *('compare', 'sweep', 'pretrain', 'serve', 'train_reward_head'),
      'scoring.score_steps',
  )
  def test_the_short_help_of_a_stage(self, stage):
    module = f'experiments.{stage}'
    said = short_help(module)
    said = said.removeprefix('Loading the libraries ...\n')
    # First what it is, then a command to copy.
    self.assertRegex(said, r'^[A-Z][^\n]*[.]\n')
    run = rf'(?m)^Run: +python -m {re.escape(module)} --'
    self.assertRegex(said, run)
    # Then its own flags, and not those of all the libraries.
    folder = '--router' if stage == 'serve' else '--workdir'
    self.assertIn(f'  {folder}: ', said)
    self.assertLess(said.count('\n'), 120)
    self.assertNotIn('logtostderr', said)


class RulesTest(parameterized.TestCase):
  """Each rule sees a fault, and only that."""

  def test_programs(self):
    code = (
        "A=1 python -m experiments.collect --split='train' && x\n"
        'python -m experiments.report\n'
        'python -m pytest tests\n'
        'python -m benchmarks.kills --kills=2  # twice'
    )
    self.assertEqual(
        programs(code),
        [
            ['experiments.collect', '--split=train'],
            ['benchmarks.kills', '--kills=2'],
        ],
    )

  @parameterized.parameters(
      ('--config=configs/arithmetic.py:demo --workdir=x --dry_run', ''),
      ('--config=configs/arithmetic.py --workdir=x --split=dev', 'split'),
      ('--config=configs/arithmetic.py --workdir=x --jobs=2', 'jobs'),
      ('--config=configs/arithmetic.py --workdir=x --config.sed=1', 'sed'),
      ('--config=configs/arithmetic.py --workdir=x --config.num_steps=a', 'a'),
      ('--config=configs/arithmetic.py:tiny --workdir=x', 'tiny'),
      ('--config=configs/nothing.py --workdir=x', 'no such file'),
      ('--config=configs/arithmetic.py', 'workdir'),
  )
  def test_fault(self, words, expected):
    found = fault('experiments.collect', words.split())
    self.assertIn(expected, found)
    self.assertEqual(bool(expected), bool(found))

  def test_flags_are_as_they_were(self):
    before = set(flags.FLAGS)
    fault('benchmarks.kills', ['--kills=3'])
    self.assertEqual(set(flags.FLAGS), before)

  def test_wrong_extras(self):
    code = "pip install -e '.[serve,nothing]'\npip install -e '.[vllm-cpu]'"
    self.assertEqual(wrong_extras(code), ['nothing'])

  def test_wrong_imports(self):
    source = 'from routing import types, nothing\nimport routing.costs, numpy'
    self.assertEqual(wrong_imports(source), ['routing.nothing'])


if __name__ == '__main__':
  absltest.main()
