"""Who owns which row of the embedded engine's cache, and what the rows hold."""

from collections.abc import Sequence
import dataclasses


@dataclasses.dataclass
class Slot:
  """One row of the cache: whose it is and what it holds.

  tokens: what the session has read or written here.
  num_keys: how many of them, from the left, have passed through the model; the
    newest written one passes only when it is followed by another.
  is_busy: a request is being written here.
  last_used: the clock's time then.
  """

  session: str | None = None
  tokens: list[int] = dataclasses.field(default_factory=list)
  num_keys: int = 0
  is_busy: bool = False
  last_used: int = 0


class Slots:
  """The rows of a cache, lent to one session at a time.

  Args:
    count: rows.
  """

  def __init__(self, count: int):
    self._slots = [Slot() for _ in range(count)]
    self._clock = 0

  def __len__(self) -> int:
    return len(self._slots)

  def __getitem__(self, index: int) -> Slot:
    return self._slots[index]

  def lend(self, session: str, tokens: Sequence[int]) -> tuple[int, int] | None:
    """Makes a slot busy: the session's best one, else that unused for longest.

    Args:
      session: whose it is to be.
      tokens: of the prompt; of what the slot holds just what these begin with
        is kept.

    Returns:
      (index, tokens that are kept), or None if all slots are busy.
    """
    free = [i for i, slot in enumerate(self._slots) if not slot.is_busy]
    if not free:
      return None
    own = [
        (common_prefix(self._slots[i].tokens, tokens), -i)
        for i in free
        if self._slots[i].session == session
    ]
    common, index = max(own, default=(0, 0))
    index = (
        -index if common else min(free, key=lambda i: self._slots[i].last_used)
    )
    slot = self._slots[index]
    slot.session, slot.is_busy = session, True
    slot.tokens = slot.tokens[:common]
    slot.num_keys = min(slot.num_keys, common)
    return index, common

  def hold(self, index: int, tokens: Sequence[int]) -> None:
    """Notes what a slot holds by now: all but the last have keys."""
    self._clock += 1
    slot = self._slots[index]
    slot.tokens, slot.num_keys = list(tokens), len(tokens) - 1
    slot.last_used = self._clock

  def clear(self, index: int) -> None:
    """Makes a slot nobody's: it is the next to be lent."""
    self._slots[index] = Slot()

  def forget(self, session: str) -> None:
    """Makes the session's slots nobody's, but for those that are busy."""
    for i, slot in enumerate(self._slots):
      if slot.session == session and not slot.is_busy:
        self.clear(i)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
  """Length of the longest common prefix."""
  for i, (x, y) in enumerate(zip(a, b, strict=False)):
    if x != y:
      return i
  return min(len(a), len(b))
