"""API keys: hashed in a file, each with its limits."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import hashlib
import json
import pathlib
import re
import secrets
import time

from routing.serving import refusals
from routing.shards import manifest as manifest_lib

ANYONE = 'anyone'  # Name of who calls a service that has no keys.
# Who pays in the ledger for answers that no client asked for.
SHADOW = '(shadow)'
_BEGINNING = 'sk-routing-'
_HASH = re.compile('[0-9a-fA-F]{64}')


@dataclasses.dataclass(frozen=True)
class Key:
  """A key, without its secret.

  name: of who holds it; in logs, metrics and the ledger.
  sha256: hash of the secret. Secrets are long and random, so that a fast hash
    is enough.
  requests_per_minute: 0 = no limit; 0.5 = one in two minutes.
  max_tokens: read, cached and written by all models, in total; 0 = no limit.
  max_price: in dollars at the prices of the routes, in total; 0 = no limit.
  """

  name: str
  sha256: str = dataclasses.field(default='', repr=False)
  requests_per_minute: float = 0
  max_tokens: int = 0
  max_price: float = 0.0


def read(path: pathlib.Path) -> tuple[Key, ...]:
  """Reads a file of keys: a JSON mapping from names to the other fields.

  Raises:
    ValueError: naming the key, if an entry is not one, or two names have the
      same; it never shows a hash.
  """
  try:
    content = json.loads(path.read_text())
    if not isinstance(content, dict) or not content:
      raise ValueError('it must map one name or more to the fields of a key')
  except ValueError as error:
    raise ValueError(f'{path} is no file of keys: {error}.') from error
  fields = {x.name: x.type for x in dataclasses.fields(Key)}
  found = []
  for name, entry in content.items():
    if not isinstance(entry, dict) or not set(entry) <= set(fields) - {'name'}:
      raise ValueError(
          f'{path}, key {name!r}: allowed are the fields '
          f'{", ".join(x for x in fields if x != "name")}.'
      )
    if name in (ANYONE, SHADOW):  # Or they would pay for others.
      raise ValueError(f'{path}, key {name!r}: the name is taken.')
    digest = entry.get('sha256')
    if not isinstance(digest, str) or not _HASH.fullmatch(digest):
      raise ValueError(
          f'{path}, key {name!r}: sha256 must have 64 hexadecimal digits.'
      )
    for field, limit in entry.items():
      if field != 'sha256' and not (
          isinstance(limit, int | float) and limit >= 0
      ):
        raise ValueError(
            f'{path}, key {name!r}: {field} must be a number >= 0.'
        )
    # Compared with the digits that hashlib writes.
    found.append(Key(name, **entry | {'sha256': digest.lower()}))
  names: dict[str, str] = {}
  for key in found:
    # Or the limits and the usage of one would be the other's.
    if (other := names.setdefault(key.sha256, key.name)) != key.name:
      raise ValueError(
          f'{path}: {other!r} and {key.name!r} have the same sha256; make a '
          'key for each.'
      )
  return tuple(found)


def add(path: pathlib.Path, name: str) -> str:
  """Makes a key, adds it to a file without limits, and returns its secret.

  The secret is nowhere else: the file has its hash.

  Raises:
    ValueError: if the name is taken, or not of 1 to 64 letters, digits, - or _.
  """
  if (
      not (name.replace('-', '').replace('_', '').isalnum() and len(name) <= 64)
      or name == ANYONE
  ):
    raise ValueError(
        f'The name is {name!r}; allowed: 1 to 64 letters, digits, - and _, and '
        f'not {ANYONE!r}.'
    )
  content = json.loads(path.read_text()) if path.exists() else {}
  if name in content:
    raise ValueError(f'{path} has a key of the name {name!r} already.')
  secret = _BEGINNING + secrets.token_urlsafe(32)
  content[name] = {'sha256': _hash(secret)}
  path.parent.mkdir(parents=True, exist_ok=True)

  def write(to: pathlib.Path) -> None:
    to.touch(mode=0o600)
    to.write_text(json.dumps(content, indent=2) + '\n')

  manifest_lib.replace_file(path, write)
  return secret


class Keyring:
  """Finds who calls, and counts the requests of each.

  Args:
    keys: the keys; () = anyone may call, without a key.
    clock: seconds that rise.
  """

  def __init__(
      self,
      keys: tuple[Key, ...] = (),
      clock: Callable[[], float] = time.monotonic,
  ):
    self._by_hash = {key.sha256: key for key in keys}
    self._clock = clock
    # Name -> (requests that may come now, when that was so).
    self._buckets: dict[str, tuple[float, float]] = {}

  def find(self, authorization: str | None) -> Key:
    """Returns the key in a header `Authorization: Bearer ...`.

    Raises:
      refusals.Refusal: if there is none, or it is not known.
    """
    if not self._by_hash:
      return Key(ANYONE)
    scheme, _, secret = (authorization or '').partition(' ')
    # What is compared are hashes, which a caller cannot choose, so that the
    # time that it takes tells nothing of a secret.
    key = self._by_hash.get(_hash(secret.strip()))
    if scheme.lower() != 'bearer' or key is None:
      raise refusals.Refusal(
          401,
          'Incorrect API key provided.' if secret else 'No API key provided.',
          code='invalid_api_key',
      )
    return key

  def count(self, key: Key) -> None:
    """Counts a request.

    Raises:
      refusals.Refusal: if it is one too many in the last minute.
    """
    limit = key.requests_per_minute
    if not limit:
      return
    now = self._clock()
    most = max(float(limit), 1.0)  # Or not even one would ever have room.
    left, before = self._buckets.get(key.name, (most, now))
    left = min(left + (now - before) * limit / 60, most)
    if left < 1:
      self._buckets[key.name] = left, now
      raise refusals.Refusal(
          429,
          f'The key {key.name!r} allows {limit} requests a minute.',
          code='rate_limit_exceeded',
          kind='rate_limit_error',
          retry_after=max(1.0, round((1 - left) * 60 / limit + 0.5)),
      )
    self._buckets[key.name] = left - 1, now


def check_budget(key: Key, used: Mapping[int, Mapping[str, float]]) -> None:
  """Raises the refusal of a request whose key has used up its budget.

  What is in progress is not known to the end, so that answers that have begun
  may exceed a budget.

  Args:
    key: the key.
    used: see `store.Store.usage`.
  """
  tokens = sum(x['read'] + x['cached'] + x['written'] for x in used.values())
  price = sum(x['price'] for x in used.values())
  for what, limit, spent in (
      ('tokens', key.max_tokens, tokens),
      ('dollars', key.max_price, price),
  ):
    if limit and spent >= limit:
      raise refusals.Refusal(
          429,
          f'The key {key.name!r} has used its budget of {limit:g} {what}.',
          code='insufficient_quota',
          kind='insufficient_quota',
      )


def _hash(secret: str) -> str:
  return hashlib.sha256(secret.encode()).hexdigest()
