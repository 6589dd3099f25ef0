"""Reads the stream in which llama.cpp's server sends a reply."""

from collections.abc import AsyncIterator
import json
from typing import Any

import numpy as np

from routing import types
from routing.engines import segmentation

# The id of a token that the server does not report: it sends a character that
# consists of several tokens with the id of the last one only.
UNKNOWN_ID = -1
_MASKED = -1e4  # llama.cpp writes log(0) as a large negative number.


class Reply:
  """What the server has written so far, one entry per token.

  Attributes:
    pieces: the text that each token adds.
    token_ids: their ids.
    entries: their log-probabilities as the server sends them; None = not sent.
    num_cached: prompt tokens that the server found in its cache.
    stop_type: 'eos', 'word' or 'limit'; '' = the reply is not complete.
  """

  def __init__(self):
    self.pieces: list[str] = []
    self.token_ids: list[int] = []
    self.entries: list[dict[str, Any] | None] = []
    self.num_cached = 0
    self.stop_type = ''

  def add(self, event: dict[str, Any]) -> None:
    """Appends what one event of the stream adds."""
    self.num_cached = event.get('timings', {}).get('cache_n', self.num_cached)
    new = event.get('tokens', [])
    # Tokens that are only a part of a character come with no event.
    silent = event['tokens_predicted'] - len(self.pieces) - len(new)
    for token in [UNKNOWN_ID] * silent + new:
      self.pieces.append('')
      self.token_ids.append(token)
      self.entries.append(None)
    if new:
      self.entries[-1] = next(
          iter(event.get('completion_probabilities', [])), None
      )
    if event['content']:
      # Text without a token is what the server held back because it might have
      # been the beginning of the stop string.
      self.pieces[-1] += event['content']
    if event['stop']:
      self.stop_type = event['stop_type']

  def usage(self, route: int, num_read: int, seconds: float) -> types.Usage:
    """Returns the usage of a request whose prompt has `num_read` tokens."""
    cached = min(self.num_cached, num_read)
    return types.Usage(
        route, num_read - cached, cached, len(self.pieces), seconds
    )

  def written(self, num_log_probs: int, stop: str | None):
    """Returns the tokens as the module `segmentation` takes them."""
    pieces = list(self.pieces)
    if self.stop_type == 'word':
      pieces[-1] += stop  # The server removes the stop string from the text.
    chosen = np.full(len(pieces), np.nan, np.float32)
    top = np.full((len(pieces), num_log_probs), np.nan, np.float32)
    for i, entry in enumerate(self.entries if num_log_probs else ()):
      if entry is None:
        continue
      values = [x['logprob'] for x in entry['top_logprobs']]
      top[i, : len(values)] = sorted(values, reverse=True)
      chosen[i] = entry['logprob']
    chosen[chosen <= _MASKED] = np.nan
    return segmentation.Written(
        pieces=pieces,
        token_ids=self.token_ids,
        log_probs=chosen if num_log_probs else chosen[:0],
        top_log_probs=top if num_log_probs else top[:0],
        is_final=self.stop_type == 'eos',
    )


async def events(
    lines: AsyncIterator[str],
) -> AsyncIterator[dict[str, Any]]:
  """Yields the events of a stream, which are lines `data: <JSON>`."""
  async for line in lines:
    name, _, content = line.partition(':')
    if name == 'error':
      yield {'error': json.loads(content)}
    elif name == 'data' and content.strip() != '[DONE]':
      yield json.loads(content)
