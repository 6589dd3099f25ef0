"""Remembers what models say after texts, for greedy systems that act on tokens.

Such systems ask for the same tokens again and again: with every threshold, with
every length of a draft, and after going back in a text. What a model says after
a text is a function of the text, so it is computed once.
"""

from collections.abc import Sequence

import numpy as np

from routing.engines import token_session

_MAX_ROWS = 1_000_000  # About half a gigabyte.

# Text of an answer, a byte for each token -> `[V]` float32, log-probabilities
# of the next token; and the seconds that it took to compute them.
_Known = dict[bytes, tuple[np.ndarray, float]]


class TokenMemory:
  """A store of next-token distributions of one model.

  Args:
    max_rows: number of distributions from which on the oldest question is
      forgotten.
  """

  def __init__(self, max_rows: int = _MAX_ROWS):
    self._max_rows = max_rows
    self._of: dict[tuple[int, ...], _Known] = {}  # By question, oldest first.
    self._num_rows = 0

  def __len__(self) -> int:
    return self._num_rows

  def known(self, question: tuple[int, ...]) -> _Known:
    """Returns what is known of a question; empty if nothing is."""
    return self._of.get(question, {})

  def add(
      self,
      question: tuple[int, ...],
      texts: Sequence[bytes],
      log_probs: np.ndarray,
      seconds: float,
  ) -> None:
    """Stores what follows some texts; what is stored is never replaced.

    Args:
      question: its token ids.
      texts: n answers so far, a byte for each token.
      log_probs: `[n, V]` log-probabilities of the token after each.
      seconds: that it took to compute all of them.
    """
    known = self._of.setdefault(question, {})
    before = len(known)
    for text, row in zip(texts, log_probs.astype(np.float32), strict=True):
      known.setdefault(text, (row, seconds / len(texts)))
    self._num_rows += len(known) - before
    while self._num_rows > self._max_rows and len(self._of) > 1:
      self._num_rows -= len(self._of.pop(next(iter(self._of))))

  def session(
      self, session: token_session.TokenSession
  ) -> token_session.TokenSession:
    """Returns a new session like another one, with this memory."""
    return token_session.TokenSession(
        _Remembering(session.model, self), session.text
    )


class _Remembering:
  """A model of token sessions that looks into a memory first.

  Args:
    model: computes what is not in the memory.
    memory: of this model.
  """

  def __init__(self, model: token_session.Model, memory: TokenMemory):
    self.name, self.route = model.name, model.route
    self.tokenizer, self.max_length = model.tokenizer, model.max_length
    self._model, self._memory = model, memory

  async def next_log_probs(self, session, tokens, num_last):
    """See `token_session.Model.next_log_probs`."""
    start = len(session.question)
    # What follows a text that ends in the question is asked for once, if ever.
    if len(tokens) - num_last + 1 < start:
      return await self._model.next_log_probs(session, tokens, num_last)
    text = bytes(tokens[start:])
    texts = [
        text[:end] for end in range(len(text) - num_last + 1, len(text) + 1)
    ]
    known = self._memory.known(session.question)
    rows = [known.get(x) for x in texts]
    if all(rows):
      return _joined(rows)
    log_probs, seconds = await self._model.next_log_probs(
        session, tokens, num_last
    )
    self._memory.add(session.question, texts, log_probs, seconds)
    return log_probs, seconds

  async def write(self, session, tokens, limit, temperature, seed):
    """See `token_session.Model.write`; what is known makes a segment."""
    if temperature:
      return await self._model.write(session, tokens, limit, temperature, seed)
    start = len(session.question)
    text, rows, ids = bytes(tokens[start:]), [], []
    known = self._memory.known(session.question)
    room = min(limit, self.max_length - len(tokens))
    while len(ids) < room and self.tokenizer.eos_id not in ids[-1:]:
      if (row := known.get(text)) is None:
        break
      rows.append(row)
      # The token that the model chose: the first of the most likely ones.
      ids.append(int(row[0].argmax()))
      text += bytes(ids[-1:])
    if ids:
      return ids, *_joined(rows)
    ids, log_probs, seconds = await self._model.write(
        session, tokens, limit, temperature, seed
    )
    whole = text + bytes(ids)
    texts = [whole[: len(text) + i] for i in range(len(ids))]
    self._memory.add(session.question, texts, log_probs, seconds)
    return ids, log_probs, seconds

  def release(self, session) -> None:
    """See `token_session.Model.release`."""
    self._model.release(session)


def _joined(rows) -> tuple[np.ndarray, float]:
  """Returns distributions as `[n, V]` float64, and their seconds."""
  log_probs = np.stack([row for row, _ in rows]).astype(np.float64)
  return log_probs, sum(seconds for _, seconds in rows)
