"""Token sessions: running texts of a model, read and written by tokens.

A token session reads tokens that others wrote, gives the distribution of what
follows, and writes tokens of its own. It may go back: the text up to the first
token that differs stays in its context.
"""

from collections.abc import Sequence
import dataclasses
from typing import Protocol

import numpy as np

from routing import types
from routing.engines import engine as engine_lib
from routing.engines import jitted_batches
from routing.engines import slots as slots_lib
from routing.lm import generation
from routing.lm import tokenizer as tokenizer_lib


@dataclasses.dataclass(frozen=True)
class Written:
  """Tokens that a session wrote, or the distributions after given tokens.

  ids: the n tokens that the model wrote; empty if it only read.
  log_probs: `[n, V]` float64, log-probability of every token of the vocabulary
    at each place, at temperature 1.
  usage: what the call read and wrote. Tokens that the session has read or
    written before are `in_context`, as in a request that is still running.
  """

  ids: tuple[int, ...]
  log_probs: np.ndarray
  usage: types.Usage


class Model(Protocol):
  """What a token session needs of its model; see `embedded_tokens.TokenModel`.

  name: the model's name.
  route: its route index.
  tokenizer: the tokenizer of the model.
  max_length: maximum number of tokens of question and answer.
  """

  name: str
  route: int
  tokenizer: tokenizer_lib.Tokenizer
  max_length: int

  async def next_log_probs(
      self, session: 'TokenSession', tokens: Sequence[int], num_last: int
  ) -> tuple[np.ndarray, float]:
    """Returns what follows each of the last tokens of a text, and seconds."""
    ...

  async def write(
      self,
      session: 'TokenSession',
      tokens: Sequence[int],
      limit: int,
      temperature: float,
      seed: int,
  ) -> tuple[list[int], np.ndarray, float]:
    """Returns new tokens, their distributions, and seconds."""
    ...

  def release(self, session: 'TokenSession') -> None:
    """Frees what is kept for a session."""
    ...


class TokenSession:
  """One running text of one model; makes one call at a time.

  Attributes:
    model: the model.
    text: the question.
    question: token ids of the question.
    route: the route index of the model.
    tokenizer: the tokenizer of the model.
  """

  def __init__(self, model: Model, question: str):
    self.model, self.text = model, question
    self.route, self.tokenizer = model.route, model.tokenizer
    try:
      self.question = tuple(self.tokenizer.encode(question))
    except ValueError as error:
      raise engine_lib.Refused(str(error)) from error
    # All that the model has read or written, to the newest token.
    self._known: list[int] = []

  def num_known(self, tokens: Sequence[int]) -> int:
    """Returns how many of the first tokens of a text are in the context."""
    return slots_lib.common_prefix(self._known, tokens)

  async def read(self, answer: Sequence[int], num_last: int = 1) -> Written:
    """Reads an answer so far; returns what follows its last tokens.

    Args:
      answer: token ids, the question not included.
      num_last: for how many of the last tokens of question and answer.
    """
    tokens = [*self.question, *answer]
    in_context = self.num_known(tokens)
    log_probs, seconds = await self.model.next_log_probs(self, tokens, num_last)
    self._known = tokens
    usage = types.Usage(
        route=self.route,
        read=len(tokens) - in_context,
        cached=0,
        written=0,
        seconds=seconds,
        in_context=in_context,
    )
    return Written((), log_probs, usage)

  def wrote(self, answer: Sequence[int]) -> None:
    """Records that the model wrote the last token of an answer.

    The token then need not be read. A caller that draws from the distributions
    of `read` calls this; `write` does so itself.

    Args:
      answer: token ids of the answer, the question not included.

    Raises:
      ValueError: if the model has not read the tokens before the last one.
    """
    tokens = [*self.question, *answer]
    if self.num_known(tokens) < len(tokens) - 1:
      raise ValueError(
          f'The model knows {self.num_known(tokens)} tokens of this text; '
          f'before it can write token {len(tokens)}, it must read the others.'
      )
    self._known = tokens

  def room(self, max_tokens: int) -> int:
    """Returns how many tokens an answer may have; see `engine.room`."""
    return engine_lib.room(
        self.model.name,
        len(self.question),
        max_tokens,
        self.model.max_length,
    )

  async def write(
      self,
      answer: Sequence[int],
      max_tokens: int,
      *,
      temperature: float,
      rng: np.random.Generator,
  ) -> Written:
    """Continues an answer until it ends, or by `max_tokens` tokens.

    Args:
      answer: token ids of the answer so far, the question not included.
      max_tokens: the largest number of new tokens.
      temperature: 0 = greedy.
      rng: the source of randomness, from which each segment draws its seed.
    """
    ids, rows, seconds = [], [], 0.0
    in_context = self.num_known([*self.question, *answer])
    while len(ids) < max_tokens and self.tokenizer.eos_id not in ids[-1:]:
      tokens = [*self.question, *answer, *ids]
      new, log_probs, spent = await self.model.write(
          self,
          tokens,
          max_tokens - len(ids),
          temperature,
          # The draws of a call depend on its seed and on the places of tokens.
          int(rng.integers(2**32)),
      )
      self._known = [*tokens, *new]
      ids, rows, seconds = [*ids, *new], [*rows, *log_probs], seconds + spent
    usage = types.Usage(
        route=self.route,
        read=len(self.question) + len(answer) - in_context if ids else 0,
        cached=0,
        written=len(ids),
        seconds=seconds,
        in_context=in_context,
    )
    shape = len(rows), len(self.tokenizer)
    return Written(tuple(ids), np.reshape(rows, shape), usage)

  async def __aenter__(self) -> 'TokenSession':
    return self

  async def __aexit__(self, *error) -> None:
    self.model.release(self)


def to_steps(
    ids: Sequence[int],
    log_probs: np.ndarray,
    route: int,
    tokenizer: tokenizer_lib.Tokenizer,
) -> tuple[types.Step, ...]:
  """Cuts the tokens of an answer into steps.

  The usage of a step counts its own tokens as written by `route`; what was paid
  for them is in the calls of the trajectory.

  Args:
    ids: the n tokens of the answer.
    log_probs: `[n, V]` float64, log-probabilities of all tokens at each place.
    route: the route that the steps are ascribed to.
    tokenizer: the tokenizer of the embedded models.
  """
  bounds = [0, *generation.step_ends(ids, tokenizer.delimiter_id), len(ids)]
  steps = []
  for start, stop in zip(bounds, bounds[1:], strict=False):
    own = tuple(ids[start:stop])
    if not own:
      continue
    is_final = own[-1] == tokenizer.eos_id
    rows = log_probs[start:stop]
    steps.append(
        types.Step(
            text=tokenizer.decode(own[:-1] if is_final else own),
            token_ids=own,
            log_probs=rows[np.arange(len(own)), list(own)].astype(np.float32),
            top_log_probs=-np.sort(-rows)[:, : jitted_batches.TOP_K].astype(
                np.float32
            ),
            is_final=is_final,
            usage=types.Usage(route, 0, 0, len(own), in_context=start),
        )
    )
  return tuple(steps)
