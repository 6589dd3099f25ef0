"""Assigns the rows of the embedded engine's KV cache to sessions."""

from collections.abc import Sequence
import dataclasses

from routing.engines import engine as engine_lib


@dataclasses.dataclass
class Slot:
  """One row of the KV cache: the session that owns it, and its contents.

  session: the owner; None = no session owns the row.
  tokens: token ids of the sequence that the session has read and written here.
  num_keys: number of leading tokens whose keys and values are cached. The
    newest token is not among them: it passes through the model only when the
    next token is written.
  is_busy: a request is writing into this row.
  last_used: logical time of the last use; larger is more recent.
  """

  session: engine_lib.Session | None = None
  tokens: list[int] = dataclasses.field(default_factory=list)
  num_keys: int = 0
  is_busy: bool = False
  last_used: int = 0


class Slots:
  """The rows of a KV cache, each owned by at most one session at a time.

  A session may own several rows, one for each of its concurrent requests.

  Args:
    count: number of rows that can be owned.
  """

  def __init__(self, count: int):
    self._slots = [Slot() for _ in range(count)]
    # Session -> indices of its slots: with hundreds of slots and answers, to
    # search for them would take longer than all else that is done here.
    self._owned: dict[engine_lib.Session, set[int]] = {}
    self._clock = 0

  def __len__(self) -> int:
    return len(self._slots)

  def __getitem__(self, index: int) -> Slot:
    return self._slots[index]

  def lend(
      self, session: engine_lib.Session, tokens: Sequence[int]
  ) -> tuple[int, int] | None:
    """Assigns a slot to a session, for one request, and marks it as busy.

    Among the slots that are not busy, the session gets its own slot with the
    longest common prefix with the prompt. If it owns no slot that shares a
    token, it gets the least recently used slot, whoever owns that slot.

    Args:
      session: the session that makes the request.
      tokens: the prompt. Only its common prefix with the slot's tokens is kept
        in the slot.

    Returns:
      (index of the slot, number of tokens kept), or None if all slots are busy.
    """
    # A busy slot cannot be used by a second request, not even of the session
    # that owns it: the requests would overwrite each other's keys.
    # (length of the common prefix, -index): ties go to the lowest index, so
    # that runs are repeatable.
    own = [
        (common_prefix(self._slots[i].tokens, tokens), -i)
        for i in self._owned.get(session, ())
        if not self._slots[i].is_busy
    ]
    common, index = max(own, default=(0, 0))
    index = -index
    if not common:
      free = [i for i, slot in enumerate(self._slots) if not slot.is_busy]
      if not free:
        return None
      index = min(free, key=lambda i: self._slots[i].last_used)
      self._disown(index)
      self._owned.setdefault(session, set()).add(index)
    slot = self._slots[index]
    slot.session, slot.is_busy = session, True
    slot.tokens = slot.tokens[:common]
    # The key of a token depends on all tokens before it. Keys past the common
    # prefix are therefore invalid, and the engine computes them anew.
    slot.num_keys = min(slot.num_keys, common)
    return index, common

  def num_kept(self, session: engine_lib.Session, tokens: Sequence[int]) -> int:
    """Returns how many of the first tokens of a prompt `lend` would keep."""
    return max(
        (
            common_prefix(self._slots[i].tokens, tokens)
            for i in self._owned.get(session, ())
            if not self._slots[i].is_busy
        ),
        default=0,
    )

  def update(self, index: int, tokens: Sequence[int]) -> None:
    """Records the tokens of a slot; only the last one's keys are not cached.

    Args:
      index: index of the slot.
      tokens: the whole sequence that was read and written in the slot.
    """
    # Time is a counter here, not wall-clock time, so that which slot is evicted
    # does not depend on speed.
    self._clock += 1
    slot = self._slots[index]
    slot.tokens, slot.num_keys = list(tokens), len(tokens) - 1
    slot.last_used = self._clock

  def clear(self, index: int) -> None:
    """Empties a slot and frees it, as the first to be assigned again."""
    self._disown(index)
    self._slots[index] = Slot()  # last_used = 0: the least recently used slot.

  def give_back(self, index: int) -> None:
    """Ends the use of a slot by one request; its session keeps the slot."""
    if self._slots[index].session is None:  # Released in the meantime.
      self.clear(index)
    else:
      self._slots[index].is_busy = False

  def release(self, session: engine_lib.Session) -> None:
    """Frees the slots of a session, those that are busy once they are not."""
    for i in self._owned.pop(session, ()):
      if self._slots[i].is_busy:
        self._slots[i].session = None
      else:
        self.clear(i)

  def _disown(self, index: int) -> None:
    """Forgets whose slot this is."""
    session = self._slots[index].session
    if (owned := self._owned.get(session)) is not None:
      owned.discard(index)
      if not owned:
        del self._owned[session]


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
  """Returns the length of the longest common prefix of two sequences."""
  for i, (x, y) in enumerate(zip(a, b, strict=False)):
    if x != y:
      return i
  return min(len(a), len(b))
