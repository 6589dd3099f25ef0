"""Stands-in for embedded engines, for tests of systems that act on tokens."""

import collections
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from routing.engines import token_session
from routing.lm import draws
from routing.lm import tokenizer as tokenizer_lib

_TOKENIZER = tokenizer_lib.Tokenizer()


class Table:
  """An engine whose next-token distributions are those of a function.

  Each text is computed once, so that thousands of draws cost little.

  Args:
    route: the route index.
    log_probs: returns `[V]` log-probabilities after the tokens of a text.
    max_length: maximum number of tokens of question and answer.
  """

  def __init__(
      self,
      route: int,
      log_probs: Callable[[tuple[int, ...]], np.ndarray],
      max_length: int = 224,
  ):
    self.name, self.route = f'table {route}', route
    self.tokenizer, self.max_length = _TOKENIZER, max_length
    self._log_probs, self._known = log_probs, {}

  def after(self, tokens: Sequence[int]) -> np.ndarray:
    """Returns `[V]` log-probabilities after the tokens of a text."""
    key = tuple(tokens)
    if key not in self._known:
      self._known[key] = self._log_probs(key)
    return self._known[key]

  def open_tokens(self, question: str) -> token_session.TokenSession:
    """See `EmbeddedEngine.open_tokens`."""
    return token_session.TokenSession(self, question)

  async def next_log_probs(self, session, tokens, num_last):
    """See `embedded_tokens.TokenModel.next_log_probs`."""
    ends = range(len(tokens) - num_last + 1, len(tokens) + 1)
    return np.array([self.after(tokens[:end]) for end in ends]), 0.0

  async def write(self, session, tokens, limit, temperature, seed):
    """See `embedded_tokens.TokenModel.write`."""
    rng, ids, rows = np.random.default_rng(seed), [], []
    while len(ids) < limit and self.tokenizer.eos_id not in ids:
      rows.append(self.after([*tokens, *ids]))
      ids.append(draws.draw(rows[-1], temperature, rng))
    return ids, np.array(rows), 0.0

  def release(self, session):
    """There is nothing to free."""


def of_params(params, config) -> Callable[[tuple[int, ...]], np.ndarray]:
  """Returns the function of a trained decoder, for `Table`."""
  import jax

  from routing.lm import decoder
  from routing.lm import sampler

  @jax.jit
  def apply(tokens):
    logits, _, _ = decoder.Decoder(config).apply(
        {'params': params}, tokens, np.arange(tokens.shape[1])[None]
    )
    return sampler.log_probs(logits, _TOKENIZER.pad_id)

  def log_probs(tokens):
    padded = np.zeros((1, 16), np.int32)  # One shape, so one compilation.
    padded[0, : len(tokens)] = tokens
    return np.asarray(apply(padded)[0, len(tokens) - 1], np.float64)

  return log_probs


def law(
    engine: Table, question: str, length: int, temperature: float = 1.0
) -> dict[tuple[int, ...], float]:
  """Returns the probability of every answer, by enumeration.

  Args:
    engine: the model.
    question: the question.
    length: number of tokens at which an answer that has not ended is cut.
    temperature: at which the model samples.
  """
  start = tuple(_TOKENIZER.encode(question))
  found, open_texts = {}, {(): 1.0}
  for _ in range(length):
    longer = {}
    for text, chance in open_texts.items():
      row = draws.tempered(engine.after((*start, *text)), temperature)
      for token in np.flatnonzero(row > 0):
        here = found if token == _TOKENIZER.eos_id else longer
        here[(*text, int(token))] = chance * row[token]
    open_texts = longer
  return found | open_texts


def chi_square(
    law: dict[tuple[int, ...], float], seen: Sequence[tuple[int, ...]]
) -> float:
  """Returns the p-value that the answers `seen` are draws from `law`.

  Answers that are expected fewer than five times are counted together.
  """
  from scipy import stats

  seen = collections.Counter(seen)
  total = seen.total()
  common = [x for x, p in law.items() if p * total >= 5]
  counts = [seen[x] for x in common]
  wanted = [law[x] * total for x in common]
  # All others together; those outside of the law are among them.
  counts.append(total - sum(counts))
  wanted.append(total - sum(wanted))
  # scipy's own test wants equal sums to more digits than probabilities have.
  gaps = np.square(np.subtract(counts, wanted)) / wanted
  return float(stats.chi2.sf(gaps.sum(), len(wanted) - 1))
