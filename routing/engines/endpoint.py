"""Describes OpenAI-compatible servers: their addresses and capabilities."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from routing.engines import engine as engine_lib
from routing.engines import prefix_cache
from routing.engines import prompts

# The ways in which a half-written answer can be continued. Each text says what
# a model behind such a server does.
MODES = {
    'completions': 'continues any text (/completions)',
    'chat': "continues the last message (vLLM's /chat/completions)",
    'prefill': 'continues a last message whose role is assistant',
    'instruct': 'is shown the answer so far and asked to continue it',
}
# Temperature of models that think before they answer (OpenAI's o-series and
# GPT-5). They allow no other.
REASONING_TEMPERATURE = 1.0
# Maximum numbers of top log-probabilities. Servers reject larger numbers, but
# only once requests are made; the check of `Endpoint` fails earlier.
_MAX_LOG_PROBS = 20  # OpenAI's chat limit, and vLLM's default.
_MAX_LEGACY_LOG_PROBS = 5  # OpenAI's limit for /completions.


@dataclasses.dataclass(frozen=True)
class Endpoint:
  """A model behind a server, and the capabilities of the server.

  base_url: e.g. 'http://localhost:8000/v1'.
  model: the server's name for the model.
  mode: one of `MODES`.
  api_key: the key of the account; any text if the server needs no key.
  is_vllm: the server is vLLM's, which has request fields of its own. The engine
    uses them to get token ids and the stop reason, to keep the stop string in
    the text, and to separate the prefix caches of sessions.
  num_log_probs: k, the number of top log-probabilities to request; 0 = none.
  seeds: the server promises the same answer for the same seed.
  reports_cached: the reported usage includes cached tokens (vLLM's server needs
    --enable-prompt-tokens-details).
  shares_prefix: True = sessions share the server's cache, so that a long text
    with which all prompts begin is read once. Its tokens are charged as cached,
    all else as if each session had a cache of its own. Needs the model's
    tokenizer.
  max_length: maximum number of tokens of prompt and answer together; 0 = not
    known.
  timeout: seconds without a reply after which a request counts as failed.
  reasoning_effort: for a model that thinks before it answers, and whose server
    rejects `temperature` and `max_tokens` (OpenAI's o-series and GPT-5): how
    long it thinks, e.g. 'low'. Thoughts are paid as written tokens, and are no
    part of the answer. Mode 'instruct' only. '' = a model of another kind.
  streams: the server can stream a reply and say its usage in the last chunk
    (`stream_options`). Whoever listens then hears of steps while they are
    written, except in mode 'instruct' and with `trims_end`, where a reply is
    looked at as a whole.
  trims_end: in modes 'chat' and 'prefill': the message that is continued must
    not end in white space (Anthropic's servers refuse it; chat templates with
    `| trim` drop it). It is sent without, so the model begins with the blank
    line, which is dropped from its reply. As the model would stop at this blank
    line, each request asks for the rest of the answer, and all steps but the
    first are dropped and paid.
  last_message: fields to add to the message that is continued in mode
    'prefill', e.g. {'prefix': True}.
  extra: fields to add to the body of every request.
  """

  base_url: str
  model: str
  mode: str = 'completions'
  # Not in the repr, which may end in a log or in an error message.
  api_key: str = dataclasses.field(default='none', repr=False)
  is_vllm: bool = False
  num_log_probs: int = 0
  seeds: bool = False
  reports_cached: bool = True
  shares_prefix: bool = False
  max_length: int = 0
  timeout: float = 600.0
  reasoning_effort: str = ''
  streams: bool = True
  trims_end: bool = False
  last_message: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if self.mode not in MODES:
      raise ValueError(
          f'Unknown endpoint mode {self.mode!r}; allowed: {", ".join(MODES)}.'
      )
    if self.mode == 'chat' and not self.is_vllm:
      raise ValueError(
          "The endpoint's mode is 'chat' and is_vllm is False, but mode 'chat' "
          "needs a request field that only vLLM's server has. Allowed for "
          "other servers: 'completions', 'prefill', 'instruct'."
      )
    maximum = _MAX_LOG_PROBS
    if self.mode == 'completions' and not self.is_vllm:
      maximum = _MAX_LEGACY_LOG_PROBS
    if not 0 <= self.num_log_probs <= maximum:
      raise ValueError(
          f'num_log_probs is {self.num_log_probs} in mode {self.mode!r}; '
          f'allowed: 0 to {maximum}.'
      )
    if self.reasoning_effort and (
        self.mode != 'instruct' or self.num_log_probs or self.seeds
    ):
      raise ValueError(
          f'reasoning_effort is {self.reasoning_effort!r}, mode {self.mode!r}, '
          f'num_log_probs {self.num_log_probs} and seeds {self.seeds}; a model '
          "with a reasoning_effort needs mode 'instruct', num_log_probs 0 and "
          'seeds False.'
      )
    if self.trims_end and self.mode not in ('chat', 'prefill'):
      raise ValueError(
          f'trims_end is True in mode {self.mode!r}; allowed in modes: '
          "'chat', 'prefill'."
      )
    if self.timeout <= 0:
      raise ValueError(f'timeout is {self.timeout} seconds; allowed: > 0.')


def capabilities(
    endpoint: Endpoint, prompter: prompts.Prompter | None
) -> engine_lib.Capabilities:
  """Returns the capabilities of an engine that uses this endpoint.

  Args:
    endpoint: the server.
    prompter: builds prompts with the model's tokenizer; None = not known.

  Raises:
    ValueError: if sessions share a prefix whose tokens cannot be counted.
  """
  if endpoint.shares_prefix and prompter is None:
    raise ValueError(
        'shares_prefix is True, but the tokenizer is not known; name the '
        "model's weights, or set it to False."
    )
  return engine_lib.Capabilities(
      # In mode 'instruct' the model is only asked to continue the answer; it
      # may start a new one instead.
      continues_prefix=endpoint.mode != 'instruct',
      num_log_probs=endpoint.num_log_probs,
      hidden_size=0,
      seeds=endpoint.seeds,
      counts_tokens=prompter is not None,
      reports_cached=endpoint.reports_cached,
      tells_steps=endpoint.streams
      and endpoint.mode != 'instruct'
      and not endpoint.trims_end,
      # A reply in mode `instruct` is changed before it is a part of an answer.
      names_tokens=bool(endpoint.num_log_probs) and endpoint.mode != 'instruct',
      temperature=REASONING_TEMPERATURE if endpoint.reasoning_effort else None,
      prefix_cache=prefix_cache.PrefixCache(
          shared=prompter.num_shared() if endpoint.shares_prefix else 0
      ),
  )
