"""Makes mutants: copies of a module with one small error each.

`make` lists all mutants of a module. Each changes one operator, comparison,
constant, argument or guard in its text. Docstrings, annotations, decorators and
error messages stay as they are.
"""

import ast
from collections.abc import Iterator
import dataclasses
import hashlib
import re

_BINARY = {
    ast.Add: ('+', '-'),
    ast.Sub: ('-', '+'),
    ast.Mult: ('*', '/'),
    ast.Div: ('/', '*'),
    ast.FloorDiv: ('//', '*'),
    ast.Mod: ('%', '*'),
    ast.Pow: ('**', '*'),
    ast.MatMult: ('@', '*'),
    ast.BitAnd: ('&', '|'),
    ast.BitOr: ('|', '&'),
}
_COMPARE = {
    ast.Lt: ('<', ['<=', '>']),
    ast.LtE: ('<=', ['<', '>']),
    ast.Gt: ('>', ['>=', '<']),
    ast.GtE: ('>=', ['>', '<']),
    ast.Eq: ('==', ['!=']),
    ast.NotEq: ('!=', ['==']),
    ast.Is: ('is', ['is not']),
    ast.IsNot: ('is not', ['is']),
    ast.In: ('in', ['not in']),
    ast.NotIn: ('not in', ['in']),
}
_TWINS = (
    ('min', 'max'),
    ('minimum', 'maximum'),
    ('argmin', 'argmax'),
    ('any', 'all'),
    ('floor', 'ceil'),
    ('sum', 'mean'),
    ('zeros', 'ones'),
    ('zeros_like', 'ones_like'),
    ('logical_and', 'logical_or'),
)
_RENAMED = {a: b for pair in _TWINS for a, b in (pair, pair[::-1])}
# Calls of these functions are replaced by their first argument.
_SKIPPED = ('stop_gradient', 'clip', 'abs', 'sorted', 'sort', 'square', 'round')


@dataclasses.dataclass(frozen=True)
class Mutant:
  """A small error in one module.

  module: path from the root of the repository.
  function: dotted name of the function or class; '' at the top level.
  line: number of the first changed line, from 1.
  operator: kind of change, e.g. comparison.
  start, end: range of bytes of the source that `text` replaces.
  text: the replacement.
  number: index among equal changes of one function, from 0.
  """

  module: str
  function: str
  line: int
  operator: str
  start: int
  end: int
  text: str
  number: int = 0

  def apply(self, source: str) -> str:
    """Returns the source with the error."""
    raw = source.encode()
    return (raw[: self.start] + self.text.encode() + raw[self.end :]).decode()

  def changed_lines(self, source: str) -> tuple[list[str], list[str]]:
    """Returns removed and added lines, without indentation."""
    raw = source.encode()
    first = raw.rfind(b'\n', 0, self.start) + 1
    last = raw.find(b'\n', self.end)
    new = raw[first : self.start] + self.text.encode() + raw[self.end : last]
    lines = lambda text: [x.strip() for x in text.decode().splitlines()]
    return lines(raw[first:last]), lines(new)

  def rank(self, seed: int) -> bytes:
    """Returns the sampling rank under a seed, which ignores line numbers."""
    name = f'{seed}|{self.module}|{self.function}|{self.operator}|{self.text}'
    return hashlib.sha256(f'{name}|{self.number}'.encode()).digest()


@dataclasses.dataclass
class _Finder:
  """Finds the changes of one source by walking its syntax tree."""

  source: str

  def __post_init__(self):
    self.raw = self.source.encode()
    self.starts = [0]
    for line in self.raw.splitlines(keepends=True):
      self.starts.append(self.starts[-1] + len(line))

  def span(self, node: ast.AST) -> tuple[int, int]:
    return (
        self.starts[node.lineno - 1] + node.col_offset,
        self.starts[node.end_lineno - 1] + node.end_col_offset,
    )

  def text(self, node: ast.AST) -> str:
    start, end = self.span(node)
    return self.raw[start:end].decode()

  def walk(self, node: ast.AST, scope: str = '') -> Iterator[tuple]:
    """Yields (scope, start, end, text, operator) of a node and its children."""
    # Without `strict`, zip fails later or not at all, but no result changes.
    is_strict = isinstance(node, ast.keyword) and node.arg == 'strict'
    if isinstance(node, ast.Raise | ast.JoinedStr) or is_strict:
      return
    for change in self.changes(node):
      yield scope, *change
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      scope = f'{scope}.{node.name}'.lstrip('.')
      inner = list(node.body)
      if isinstance(node, ast.FunctionDef):
        args = node.args
        inner += args.defaults + [x for x in args.kw_defaults if x is not None]
    elif isinstance(node, ast.AnnAssign):
      inner = [node.value] if node.value else []
    else:
      inner = list(ast.iter_child_nodes(node))
    for child in inner:
      yield from self.walk(child, scope)

  def changes(self, node: ast.AST) -> Iterator[tuple[int, int, str, str]]:
    """Yields (start, end, text, operator) of one node without its children."""
    match node:
      case ast.BinOp():
        yield from self.between(node.left, node.right, *_two(_BINARY, node.op))
      case ast.AugAssign() if type(node.op) in _BINARY:
        old, new = _BINARY[type(node.op)]
        yield from self.between(
            node.target, node.value, f'{old}=', [f'{new}='], 'arithmetic'
        )
      case ast.Compare():
        sides = [node.left, *node.comparators]
        for op, left, right in zip(node.ops, sides, sides[1:], strict=False):
          old, new = _COMPARE[type(op)]
          yield from self.between(left, right, old, new, 'comparison')
      case ast.BoolOp():
        is_and = isinstance(node.op, ast.And)
        both = ('and', ['or']) if is_and else ('or', ['and'])
        for left, right in zip(node.values, node.values[1:], strict=False):
          yield from self.between(left, right, *both, 'boolean')
      case ast.UnaryOp():
        yield *self.span(node), f'({self.text(node.operand)})', 'sign'
      case ast.Constant():
        for value in _other_constants(node.value):
          yield *self.span(node), value, 'constant'
      case ast.IfExp():
        yield *self.span(node.test), f'(not ({self.text(node.test)}))', 'branch'
      case ast.If():
        yield from self.branches(node)
      case ast.comprehension():
        for test in node.ifs:
          yield *self.span(test), 'True', 'branch'
      case ast.Expr(value=ast.Call()):
        yield *self.span(node), 'pass', 'statement'
      case ast.Return(value=ast.expr() as value):
        yield *self.span(value), self.flipped(value), 'return'
      case ast.Call():
        yield from self.calls(node)

  def between(self, left, right, old, new, kind):
    """Yields changes of the operator between two nodes."""
    start, end = self.span(left)[1], self.span(right)[0]
    gap = self.raw[start:end].decode()
    at = re.search(rf'\b{old}\b' if old.isalpha() else re.escape(old), gap)
    if '#' in gap or not at:
      return
    start += len(gap[: at.start()].encode())
    for text in new:
      yield start, start + len(old), text, kind

  def branches(self, node):
    start, end = self.span(node.test)
    if isinstance(node.body[0], ast.Raise):
      yield start, end, 'False', 'guard'
    else:
      yield start, end, f'not ({self.text(node.test)})', 'branch'

  def flipped(self, value):
    text = self.text(value)
    if isinstance(value, ast.Compare | ast.BoolOp):
      return f'not ({text})'
    numeric = isinstance(value, ast.BinOp | ast.Call)
    return f'-({text})' if numeric else 'None'

  def calls(self, node):
    """Yields changes of a call: its function, its arguments or its branches."""
    attribute = isinstance(node.func, ast.Attribute)
    name = node.func.attr if attribute else getattr(node.func, 'id', '')
    end = self.span(node.func)[1]
    if name in _RENAMED:
      yield end - len(name), end, _RENAMED[name], 'function'
    if name in _SKIPPED and node.args:
      yield *self.span(node), f'({self.text(node.args[0])})', 'call'
    if name == 'where' and len(node.args) == 3:
      start, end = self.span(node.args[1])[0], self.span(node.args[2])[1]
      swapped = f'{self.text(node.args[2])}, {self.text(node.args[1])}'
      yield start, end, swapped, 'branch'
    parts = sorted([*node.args, *node.keywords], key=lambda x: self.span(x))
    for k, part in enumerate(parts):
      if isinstance(part, ast.keyword) and part.arg not in (None, 'strict'):
        start, end = self.span(part)
        if k + 1 < len(parts):
          end = self.span(parts[k + 1])[0]
        elif k:
          start = self.span(parts[k - 1])[1]
        elif trailing := re.match(rb'\s*,', self.raw[end:]):
          end += trailing.end()
        yield start, end, '', 'keyword'


def _two(table, op):
  old, new = table.get(type(op), ('', ''))
  return old, [new] if new else [], 'arithmetic'


def _other_constants(value: object) -> list[str]:
  if isinstance(value, bool):
    return [str(not value)]
  if isinstance(value, int):
    return [str(value + 1), f'({value - 1})']
  if isinstance(value, float):
    # A doubled tolerance rarely changes a result, so a tolerance becomes 0.
    return ['1.0' if value == 0 else '0.0' if value < 1e-5 else str(2 * value)]
  return []


def make(module: str, source: str) -> list[Mutant]:
  """Returns all mutants of a module, in the order of its text.

  Args:
    module: path from the root of the repository.
    source: text of the module.
  """
  finder, seen, found = _Finder(source), {}, []
  tree = ast.parse(source)
  plain = ast.dump(tree)
  for scope, start, end, text, operator in finder.walk(tree):
    line = finder.raw[:start].count(b'\n') + 1
    name = scope, operator, text
    mutant = Mutant(
        module, scope, line, operator, start, end, text, seen.get(name, 0)
    )
    try:
      differs = ast.dump(ast.parse(mutant.apply(source))) != plain
    except SyntaxError:
      continue
    if differs:
      seen[name] = mutant.number + 1
      found.append(mutant)
  return sorted(found, key=lambda x: (x.start, x.end, x.text))
