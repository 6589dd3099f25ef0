"""Assigns the rows of the embedded engine's KV cache to sessions."""

from collections.abc import Sequence
import dataclasses


@dataclasses.dataclass
class Slot:
  """One row of the KV cache: its owner and its contents.

  session: the owner; None = free for anyone.
  tokens: what the session has read or written in this row.
  num_keys: number of leading tokens whose keys and values are cached. The
    newest token has none yet: it passes through the model only when the next
    one is written.
  is_busy: a request is being written in this row.
  last_used: logical time of the last use; larger is more recent.
  """

  session: str | None = None
  tokens: list[int] = dataclasses.field(default_factory=list)
  num_keys: int = 0
  is_busy: bool = False
  last_used: int = 0


class Slots:
  """The rows of a KV cache, each owned by one session at a time.

  Args:
    count: number of rows.
  """

  def __init__(self, count: int):
    self._slots = [Slot() for _ in range(count)]
    self._clock = 0

  def __len__(self) -> int:
    return len(self._slots)

  def __getitem__(self, index: int) -> Slot:
    return self._slots[index]

  def lend(self, session: str, tokens: Sequence[int]) -> tuple[int, int] | None:
    """Assigns a free slot to a session and marks it as busy.

    It is the session's slot with the longest common prefix. If none shares a
    token, it is the least recently used slot.

    Args:
      session: the session that is to own the slot.
      tokens: the prompt. The slot keeps only its common prefix with the prompt.

    Returns:
      (index, number of kept tokens), or None if all slots are busy.
    """
    # A busy slot cannot be shared, not even by its own session: two requests
    # would overwrite each other's keys.
    free = [i for i, slot in enumerate(self._slots) if not slot.is_busy]
    if not free:
      return None
    # -i breaks ties in favour of the lowest index, so that runs are repeatable.
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
    # Keys depend on all tokens before them, so those past the common prefix are
    # invalid and are computed anew.
    slot.num_keys = min(slot.num_keys, common)
    return index, common

  def update(self, index: int, tokens: Sequence[int]) -> None:
    """Records the contents of a slot: all tokens but the last have keys."""
    # A counter, not wall-clock time: eviction must not depend on speed.
    self._clock += 1
    slot = self._slots[index]
    slot.tokens, slot.num_keys = list(tokens), len(tokens) - 1
    slot.last_used = self._clock

  def clear(self, index: int) -> None:
    """Frees a slot; it is the next one to be assigned."""
    self._slots[index] = Slot()  # last_used = 0, hence least recently used.

  def forget(self, session: str) -> None:
    """Frees the slots of a session, except those that are busy."""
    for i, slot in enumerate(self._slots):
      if slot.session == session and not slot.is_busy:
        self.clear(i)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
  """Returns the length of the longest common prefix."""
  for i, (x, y) in enumerate(zip(a, b, strict=False)):
    if x != y:
      return i
  return min(len(a), len(b))
