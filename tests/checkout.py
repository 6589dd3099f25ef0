"""The files of this checkout, for the tests of the house."""

import ast
from collections.abc import Iterator
import pathlib
import subprocess
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def files(*patterns: str) -> list[pathlib.Path]:
  """Returns what git tracks, or would add, and matches any of `patterns`."""
  try:
    listed = subprocess.run(
        ['git', 'ls-files', '-z', '-co', '--exclude-standard'],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
  except (OSError, subprocess.CalledProcessError) as error:
    raise unittest.SkipTest(f'Not a git checkout: {error}') from error
  paths = [ROOT / name for name in sorted(set(listed.split('\0'))) if name]
  return [
      path
      for path in paths
      if path.is_file() and any(path.match(pattern) for pattern in patterns)
  ]


def name(path: pathlib.Path) -> str:
  """Returns a path as messages show it."""
  return path.relative_to(ROOT).as_posix()


def imports(tree: ast.AST) -> Iterator[str]:
  """Yields the dotted names that a piece of source imports, at any depth."""
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom):
      prefix = '.' * node.level + (node.module or '')
      yield from (f'{prefix}.{alias.name}' for alias in node.names)
    elif isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)


def imports_at_load(tree: ast.Module) -> Iterator[str]:
  """Yields what is imported as soon as the module is: not inside functions."""
  pending = list(tree.body)
  while pending:
    node = pending.pop()
    if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING':
      pending.extend(node.orelse)  # The rest is for type checkers.
    elif isinstance(node, ast.Import | ast.ImportFrom):
      yield from imports(node)
    elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      pending.extend(ast.iter_child_nodes(node))
