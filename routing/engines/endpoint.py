"""Servers that speak OpenAI's protocol: where they are, what they can do."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from routing.engines import engine as engine_lib

MODES = {
    'completions': 'goes on with any text (/completions)',
    'chat': 'goes on with its last message (/chat/completions of vLLM)',
    'prefill': 'goes on with a last message of the assistant',
    'instruct': 'is asked to go on with what it is shown',
}
_MAX_LOG_PROBS = 20  # Of OpenAI's chat and, by default, of vLLM.
_MAX_LEGACY_LOG_PROBS = 5  # Of OpenAI's own /completions.


@dataclasses.dataclass(frozen=True)
class Endpoint:
  """A model behind a server, and what the server can do.

  base_url: e.g. 'http://localhost:8000/v1'.
  model: the name by which the server knows the model.
  mode: one of `MODES`.
  api_key: the key; servers without one take anything.
  is_vllm: the server knows vLLM's own fields, which other servers would ignore:
    it gives token ids, says why it stopped, keeps the stop string, and keeps
    the prefix caches of sessions apart.
  num_log_probs: k, the top log-probabilities asked for; 0 = none are given.
  seeds: the server promises the same answer for the same seed.
  reports_cached: usage tells cached tokens (of vLLM's server, with
    --enable-prompt-tokens-details).
  max_length: tokens of prompt and answer together; 0 = not known.
  timeout: seconds after which a request counts as lost.
  last_message: further fields of the message to go on with, in mode 'prefill',
    e.g. {'prefix': True}.
  extra: further fields of every request.
  """

  base_url: str
  model: str
  mode: str = 'completions'
  api_key: str = 'none'
  is_vllm: bool = False
  num_log_probs: int = 0
  seeds: bool = False
  reports_cached: bool = True
  max_length: int = 0
  timeout: float = 600.0
  last_message: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if self.mode not in MODES:
      raise ValueError(
          f'Unknown mode {self.mode!r}; allowed: {", ".join(MODES)}.'
      )
    if self.mode == 'chat' and not self.is_vllm:
      raise ValueError(
          "Mode 'chat' goes on with a message by a field of vLLM's server, but "
          "is_vllm is False; allowed: 'prefill', 'instruct'."
      )
    most = _MAX_LOG_PROBS
    if self.mode == 'completions' and not self.is_vllm:
      most = _MAX_LEGACY_LOG_PROBS
    if not 0 <= self.num_log_probs <= most:
      raise ValueError(
          f'num_log_probs is {self.num_log_probs} in mode {self.mode!r}; '
          f'allowed: 0 to {most}.'
      )
    if self.timeout <= 0:
      raise ValueError(f'timeout is {self.timeout}; allowed: > 0.')


def capabilities(
    endpoint: Endpoint, has_tokenizer: bool
) -> engine_lib.Capabilities:
  """What an engine of this endpoint can do."""
  return engine_lib.Capabilities(
      continues_prefix=endpoint.mode != 'instruct',
      num_log_probs=endpoint.num_log_probs,
      hidden_size=0,
      seeds=endpoint.seeds,
      counts_tokens=has_tokenizer,
      reports_cached=endpoint.reports_cached,
  )
