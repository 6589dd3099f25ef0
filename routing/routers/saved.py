"""Reads and writes a saved router's card and its record of seen problems.

The card holds the hash of the record, so that loading fails if the record is
missing or belongs to another router. Calibration adds problems to the record.
During that update the card holds the hashes of the old and of the new record,
so an interruption at any point leaves a router that loads.
"""

import json
import pathlib
from typing import Any

from routing.routers import card as card_lib
from routing.shards import manifest as manifest_lib
from routing.tasks import seen as seen_lib

CARD_FILE = 'router.json'
SEEN_FILE = 'seen.json'
_BOUND = 'seen_hashes'  # JSON key: hashes of the records that a card accepts.


def write(
    directory: pathlib.Path,
    card: card_lib.Card,
    checkpoint_hash: str,
    seen: seen_lib.Seen,
) -> None:
  """Writes the record of seen problems, then the card.

  The card comes last, because it marks the directory as complete.

  Args:
    directory: the router's directory.
    card: the router's metadata.
    checkpoint_hash: hash of the router's arrays and card.
    seen: record of the problems used to train, select and prove the router.
  """
  seen_lib.write(directory / SEEN_FILE, seen)
  _write_card(
      directory,
      {'hash': checkpoint_hash, _BOUND: [seen.hash], 'card': card.to_json()},
  )


def read_card(directory: pathlib.Path) -> dict[str, Any]:
  """Returns the content of `router.json`.

  Raises:
    ValueError: if the directory holds no finished router.
  """
  if not (directory / CARD_FILE).exists():
    raise ValueError(
        f'{directory} holds no {CARD_FILE}: no router was trained to the end '
        'there. Finish the training run, or give the directory of another.'
    )
  return json.loads((directory / CARD_FILE).read_text())


def read_seen(directory: pathlib.Path) -> seen_lib.Seen:
  """Returns the record of seen problems; `seen.UNKNOWN` for an old router.

  Raises:
    ValueError: if the card does not accept this record.
  """
  seen = seen_lib.read(directory / SEEN_FILE)
  # Older cards hold no hash of a record and accept any record.
  bound = read_card(directory).get(_BOUND, [seen.hash])
  if seen.hash not in bound:
    raise ValueError(
        f'{directory}: {SEEN_FILE} is missing or is not the record that '
        f'{CARD_FILE} belongs to (hash {seen.hash[:12]}, expected '
        f'{bound[-1][:12]}); restore the file, or train again.'
    )
  return seen


def replace_seen(directory: pathlib.Path, seen: seen_lib.Seen) -> None:
  """Replaces a saved router's record of seen problems, and the card's hash."""
  card, before = read_card(directory), read_seen(directory)
  # The directory is up to date, e.g. if a finished calibration is run again.
  if card.get(_BOUND) == [seen.hash] and before == seen:
    return
  if before != seen:
    # Three writes in this order keep the directory loadable at every moment:
    # the card accepts both records, the record changes, the card accepts the
    # new record only.
    _write_card(directory, card | {_BOUND: [before.hash, seen.hash]})
    seen_lib.write(directory / SEEN_FILE, seen)
  _write_card(directory, card | {_BOUND: [seen.hash]})


def _write_card(directory: pathlib.Path, content: dict[str, Any]) -> None:
  """Writes the card's JSON content, replacing the file atomically."""
  text = json.dumps(content, indent=2) + '\n'
  # A reader must see the old card or the new one, never part of a card.
  manifest_lib.replace_file(
      directory / CARD_FILE, lambda path: path.write_text(text)
  )
