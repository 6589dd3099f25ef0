"""What a service keeps over a restart: usage, answers, state of thresholds."""

from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
import sqlite3
import time
from typing import Any

from routing import types

_COUNTS = ('read', 'cached', 'written')
_TABLES = """
CREATE TABLE IF NOT EXISTS usage (
  owner TEXT, route INTEGER, read INTEGER, cached INTEGER, written INTEGER,
  price REAL, PRIMARY KEY (owner, route));
CREATE TABLE IF NOT EXISTS answers (
  id TEXT PRIMARY KEY, created REAL, owner TEXT, model TEXT, text TEXT,
  is_all_large INTEGER, is_shadowed INTEGER, shadow TEXT, graded INTEGER);
CREATE INDEX IF NOT EXISTS answers_by_time ON answers (created);
CREATE TABLE IF NOT EXISTS states (name TEXT PRIMARY KEY, content BLOB);
"""


class Store:
  """A small database: one file, each change of which is whole or not there.

  Args:
    path: of the file; None = in memory, so that nothing outlives the service.
    keep_answers: number of answers that are kept; the oldest go first.

  Raises:
    ValueError: if the file is not such a database.
  """

  def __init__(self, path: pathlib.Path | None, keep_answers: int = 10_000):
    self._keep_answers = keep_answers
    if path is not None:
      path.parent.mkdir(parents=True, exist_ok=True)
    # The event loop's thread is the only one that writes; tests look from
    # another.
    self._rows = sqlite3.connect(
        path or ':memory:', check_same_thread=False, isolation_level=None
    )
    self._rows.row_factory = sqlite3.Row
    try:
      # A crash of the process loses nothing that was written; a power failure
      # may lose the latest changes, and leaves the file whole.
      self._rows.execute('PRAGMA journal_mode = WAL')
      self._rows.execute('PRAGMA synchronous = NORMAL')
      self._rows.executescript(_TABLES)
    except sqlite3.DatabaseError as error:
      raise ValueError(f'{path} is no state of a service: {error}.') from error

  def add_usages(self, paid: Sequence[tuple[str, types.Usage, float]]) -> None:
    """Adds tokens and their price to what owners have used.

    Args:
      paid: (owner, usage, price) of each.
    """
    with self._transaction():
      self._rows.executemany(
          'INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?) '
          'ON CONFLICT (owner, route) DO UPDATE SET '
          'read = read + excluded.read, cached = cached + excluded.cached, '
          'written = written + excluded.written, '
          'price = price + excluded.price',
          [
              (owner, x.route, *(int(getattr(x, y)) for y in _COUNTS), price)
              for owner, x, price in paid
          ],
      )

  def usage(self, owner: str) -> dict[int, dict[str, float]]:
    """Returns route -> tokens read, cached and written by it, and the price."""
    rows = self._rows.execute('SELECT * FROM usage WHERE owner = ?', (owner,))
    return {
        row['route']: {name: row[name] for name in (*_COUNTS, 'price')}
        for row in rows
    }

  def add_answer(self, id_: str, **fields: Any) -> None:
    """Keeps an answer: owner, model, text, is_all_large, is_shadowed."""
    self._rows.execute(
        'INSERT INTO answers (id, created, owner, model, text, is_all_large, '
        'is_shadowed, graded) VALUES (:id, :created, :owner, :model, :text, '
        ':is_all_large, :is_shadowed, 0)',
        {'id': id_, 'created': time.time(), **fields},
    )
    self._rows.execute(
        'DELETE FROM answers WHERE rowid <= (SELECT MAX(rowid) FROM answers)'
        ' - ?',
        (self._keep_answers,),
    )

  def add_shadow(self, id_: str, text: str) -> None:
    """Adds what the largest model alone answered to the same question."""
    self._rows.execute(
        'UPDATE answers SET shadow = ? WHERE id = ?', (text, id_)
    )

  def answer(self, id_: str) -> Mapping[str, Any] | None:
    """Returns a kept answer; None if there is none, or none any more."""
    row = self._rows.execute(
        'SELECT * FROM answers WHERE id = ?', (id_,)
    ).fetchone()
    return None if row is None else dict(row)

  def grade(self, id_: str, states: Mapping[str, bytes]) -> bool:
    """Marks an answer as graded, and saves the new states in one transaction.

    Returns False, and saves nothing, if it was graded before.
    """
    with self._transaction():
      marked = self._rows.execute(
          'UPDATE answers SET graded = 1 WHERE id = ? AND graded = 0', (id_,)
      ).rowcount
      if marked:
        self._rows.executemany(
            'INSERT OR REPLACE INTO states VALUES (?, ?)', states.items()
        )
    return bool(marked)

  def state(self, name: str) -> bytes | None:
    """Returns a state as it was saved last; None if it never was."""
    row = self._rows.execute(
        'SELECT content FROM states WHERE name = ?', (name,)
    ).fetchone()
    return None if row is None else row['content']

  def close(self) -> None:
    """Closes the file."""
    self._rows.close()

  def _transaction(self) -> sqlite3.Connection:
    """Begins a transaction, which ends with the context that is returned."""
    self._rows.execute('BEGIN IMMEDIATE')
    return self._rows  # As a context it commits, or rolls back on an error.
