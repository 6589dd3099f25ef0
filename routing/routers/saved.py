"""The files of a saved router beside its arrays: its card and its record.

The card holds the hash of the record of seen problems, so that a router without
its record, or with that of another one, is refused. Calibration adds to the
record; while it does, the card holds two hashes, and whatever ends it there
leaves a router that loads.
"""

import json
import pathlib
from typing import Any

from routing.problems import seen as seen_lib
from routing.routers import card as card_lib
from routing.shards import manifest as manifest_lib

CARD_FILE = 'router.json'
SEEN_FILE = 'seen.json'
_BOUND = 'seen_hashes'  # Of the records that the card goes with.


def write(
    directory: pathlib.Path,
    card: card_lib.Card,
    checkpoint_hash: str,
    seen: seen_lib.Seen,
) -> None:
  """Writes the record, then the card: where the card is, the rest is."""
  seen_lib.write(directory / SEEN_FILE, seen)
  _write_card(
      directory,
      {'hash': checkpoint_hash, _BOUND: [seen.hash], 'card': card.to_json()},
  )


def read_card(directory: pathlib.Path) -> dict[str, Any]:
  """What `router.json` holds.

  Raises:
    ValueError: if there is no finished router.
  """
  if not (directory / CARD_FILE).exists():
    raise ValueError(
        f'{directory} holds no {CARD_FILE}: no router was trained to its end '
        'there.'
    )
  return json.loads((directory / CARD_FILE).read_text())


def read_seen(directory: pathlib.Path) -> seen_lib.Seen:
  """The record of seen problems; unknown for an old router that has none.

  Raises:
    ValueError: if the card goes with another record.
  """
  seen = seen_lib.read(directory / SEEN_FILE)
  # Cards from before they were bound to a record hold no hash.
  bound = read_card(directory).get(_BOUND, [seen.hash])
  if seen.hash not in bound:
    raise ValueError(
        f'{directory}: {SEEN_FILE} is missing or is not the one that '
        f'{CARD_FILE} goes with (hash {seen.hash[:12]}, expected '
        f'{bound[-1][:12]}); put it back, or train again.'
    )
  return seen


def replace_seen(directory: pathlib.Path, seen: seen_lib.Seen) -> None:
  """Replaces the record of a saved router, and binds the card to it."""
  card, before = read_card(directory), read_seen(directory)
  if card.get(_BOUND) == [seen.hash] and before == seen:
    return
  if before != seen:
    _write_card(directory, card | {_BOUND: [before.hash, seen.hash]})
    seen_lib.write(directory / SEEN_FILE, seen)
  _write_card(directory, card | {_BOUND: [seen.hash]})


def _write_card(directory: pathlib.Path, content: dict[str, Any]) -> None:
  text = json.dumps(content, indent=2) + '\n'
  manifest_lib.replace_file(
      directory / CARD_FILE, lambda path: path.write_text(text)
  )
