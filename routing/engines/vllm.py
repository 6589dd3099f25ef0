"""Defines the engine that writes with a model run by vLLM, without a server.

vLLM keeps each model in a process of its own, batches its requests, and caches
prefixes in blocks. Prompt tokens are charged as cached if vLLM reports them as
found in its prefix cache. The engine uses vLLM's V1 `AsyncLLMEngine` (Kwon et
al. 2023, arXiv 2309.06180).
"""

import asyncio
from collections.abc import Mapping
import dataclasses
import functools
import itertools
import pathlib
from typing import Any

from absl import logging

from routing.engines import engine as engine_lib
from routing.engines import prefix_cache
from routing.engines import prompts
from routing.engines import repetition
from routing.engines import restarts
from routing.engines import shared_prefix
from routing.engines import shared_time
from routing.engines import speculation
from routing.engines import vllm_sessions

# Number of tokens in a cached block, by vLLM's default on most devices. If the
# default of the device differs, set `extra.block_size`: otherwise the cost of
# replies that are looked up, not written, is wrong.
_BLOCK_SIZE = 16


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings with which vLLM loads and runs a model.

  max_length: maximum number of tokens of question and answer together.
  dtype: type of weights and activations; 'auto' = as saved.
  memory_share: share of the accelerator's memory, in (0, 1], for weights and
    cache. The shares of models on one accelerator must sum to less than 1. None
    = vLLM's default.
  cache_bytes: size of the prefix cache, instead of the rest of `memory_share`.
    If the cache is too small for all concurrent traces, vLLM evicts the oldest
    blocks; their tokens are read, and charged, again.
  tensor_parallel_size: number of accelerators that share the model.
  num_slots: maximum number of concurrent requests; further requests wait.
  num_log_probs: k, the number of top log-probabilities for each token.
  speculates: whether greedy requests with `may_speculate` continue past the end
    of a step. Sampled requests never do, as each step has its own seed.
  shares_prefix: True = sessions share vLLM's cache, so that a long text with
    which all prompts begin, e.g. solved examples, is read once. Its tokens are
    charged as cached in every session. All else is charged as if each session
    had a cache of its own; only the recorded seconds may gain by another
    session. Not with `speculates`.
  enforce_eager: True = do not compile; vLLM starts sooner and runs slower.
  extra: further arguments of vLLM's `AsyncEngineArgs`; they override the above.
  """

  max_length: int = 4_096
  dtype: str = 'auto'
  memory_share: float | None = None
  cache_bytes: int | None = None
  tensor_parallel_size: int = 1
  num_slots: int = 256
  num_log_probs: int = 5
  speculates: bool = True
  shares_prefix: bool = False
  enforce_eager: bool = False
  extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    share = self.memory_share
    if share is not None and not 0 < share <= 1:
      raise ValueError(f'memory_share is {share}; allowed: > 0 and <= 1.')
    for name in ('max_length', 'tensor_parallel_size', 'num_slots'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name} is {getattr(self, name)}; allowed: >= 1.')
    if self.shares_prefix and self.speculates:
      raise ValueError(
          'shares_prefix and speculates are both True; allowed: one of them. '
          'Tokens that were written ahead cannot be charged by simulation.'
      )
    if self.num_log_probs < 0:
      raise ValueError(f'num_log_probs is {self.num_log_probs}; allowed: >= 0.')

  def engine_args(self, model: str) -> dict[str, Any]:
    """Returns the arguments for vLLM's `AsyncEngineArgs`.

    Args:
      model: directory of the weights, or a name on the Hugging Face hub.
    """
    args = dict(
        model=model,
        dtype=self.dtype,
        max_model_len=self.max_length,
        gpu_memory_utilization=self.memory_share,
        kv_cache_memory_bytes=self.cache_bytes,
        tensor_parallel_size=self.tensor_parallel_size,
        max_num_seqs=self.num_slots,
        max_logprobs=self.num_log_probs,
        enforce_eager=self.enforce_eager,
        # Cost accounting assumes a prefix cache, whatever vLLM's default is.
        enable_prefix_caching=True,
        disable_log_stats=True,
        seed=0,
    )
    # Arguments that are None are omitted, so that vLLM's defaults apply.
    args = {name: value for name, value in args.items() if value is not None}
    return args | dict(self.extra)


class VllmEngine:
  """An engine that writes steps with one model that vLLM runs.

  Concurrent requests do not change a result, except by rounding: they change
  the shapes of matrix products. A process that dies is restarted, once
  an hour, and its requests are repeated. A speculative run (`speculation.Run`)
  writes the same text as one request per step would. Only the number of wasted
  tokens depends on the concurrent requests.

  Args:
    name: the model's name.
    route: its route index.
    model: directory of the weights, or a name on the Hugging Face hub.
    settings: see `Settings`.
    prompter: makes the model's prompts. None = the plain text of question and
      trace, tokenized by the model's own tokenizer.
    num_equal: see `repetition.truncate_repetition`.
    sampling: fields of vLLM's `SamplingParams` that truncate or change the
      distribution, e.g. top_p. By default none: vLLM applies the model's
      `generation_config.json` in its server only.

  Raises:
    ValueError: if `settings.extra` has an argument that vLLM does not have.
  """

  def __init__(
      self,
      name: str,
      route: int,
      model: str | pathlib.Path,
      settings: Settings,
      prompter: prompts.Prompter | None = None,
      num_equal: int = repetition.NUM_EQUAL,
      *,
      sampling: Mapping[str, float] | None = None,
  ):
    self.name = name
    self.route = route
    self._engine_args = settings.engine_args(str(model))
    self._prompter = prompter or prompts.Prompter(prompts.load_tokenizer(model))
    self.capabilities = engine_lib.Capabilities(
        continues_prefix=True,
        num_log_probs=settings.num_log_probs,
        hidden_size=0,
        seeds=True,
        counts_tokens=True,
        reports_cached=True,
        tells_steps=True,
        names_tokens=True,
        prefix_cache=prefix_cache.PrefixCache(
            block=self._engine_args.get('block_size', _BLOCK_SIZE),
            keeps_all=True,  # A block is evicted only when memory runs out.
            shared=self._prompter.num_shared() if settings.shares_prefix else 0,
        ),
    )
    self._restarts = restarts.Restarts()
    self._settings = settings
    self._stop_ids: dict[str, list[int]] = {}  # By the text of the delimiter.
    self._num_equal = num_equal
    self._sampling = dict(sampling or {})
    self._ids = itertools.count()
    self._time = shared_time.SharedTime()
    self._restarting = asyncio.Lock()
    self._llm = self._start()

  @property
  def num_restarts(self) -> int:
    """The number of restarts of the process."""
    return self._restarts.count

  def count_tokens(self, question: str, trace: str) -> int:
    """Returns the tokens of a prompt; see `engine.Engine.count_tokens`."""
    return len(self.encode(question, trace))

  def encode(self, question: str, trace: str) -> list[int]:
    """Returns the prompt's token ids; see `engine.Engine.encode`."""
    return self._prompter.ids(question, trace)

  def open(self, question: str) -> engine_lib.Session:
    """Opens a session about a question; see `engine.Engine.open`."""
    session = vllm_sessions.VllmSession(
        question,
        self.route,
        self._begin,
        self.restart,
        self._num_equal,
        opening=self._prompter.opening,
    )
    if not self._settings.shares_prefix:
      return session
    session.salt = None
    return shared_prefix.ChargedSession(session, self)

  async def restart(self) -> None:
    """Restarts the process if it is dead; possible once an hour.

    Raises:
      engine_lib.EngineDied: if it was restarted in the last hour, or does not
        start.
    """
    # All requests of a dead process call this method at once. The lock lets the
    # first restart the process; the others then find a healthy one.
    async with self._restarting:
      if not self._llm.errored:
        return
      if not self._restarts.is_allowed:
        raise engine_lib.EngineDied(
            f'The process of {self.name} (route {self.route}) has died a '
            "second time within an hour and is not restarted. See vLLM's log "
            'above.'
        )
      self._restarts.note()
      logging.warning(
          'The process of %s has died; restarting it, once an hour.', self.name
      )
      # Shutdown and start run in threads: each blocks for seconds to minutes,
      # and the other engines share this event loop.
      await asyncio.to_thread(self._llm.shutdown)
      try:
        self._llm = await asyncio.to_thread(self._start)
      except Exception as error:
        raise engine_lib.EngineDied(
            f'The process of {self.name} (route {self.route}) has died and '
            f'failed to restart: {error}'
        ) from error

  async def close(self) -> None:
    """Ends vLLM's process; all sessions must be closed before."""
    llm, self._llm = self._llm, None
    if llm is None:
      return
    # vLLM stops this task only after the process has ended. Until then the task
    # would take the end for a failure, and log it with a traceback.
    if (handler := getattr(llm, 'output_handler', None)) is not None:
      handler.cancel()
    await asyncio.to_thread(llm.shutdown)

  def _start(self):
    """Starts vLLM's process for the model; returns vLLM's engine."""
    import vllm

    known = {field.name for field in dataclasses.fields(vllm.AsyncEngineArgs)}
    unknown = sorted(self._engine_args.keys() - known)
    if unknown:
      raise ValueError(
          f'vLLM has no engine argument {", ".join(unknown)}; allowed in '
          'extra: the fields of its AsyncEngineArgs.'
      )
    return vllm.AsyncLLMEngine.from_engine_args(
        vllm.AsyncEngineArgs(**self._engine_args)
    )

  def _begin(
      self,
      session: vllm_sessions.VllmSession,
      request: engine_lib.Request,
      stop: str | None,
  ) -> speculation.Run:
    """Starts a new vLLM request that stops at `stop`, unless it speculates.

    Args:
      session: the session that makes the request.
      request: the session's request, or what is left of it.
      stop: the stop string; None = write to the end of the answer.

    Raises:
      engine_lib.Refused: if the prompt leaves no room for a token.
    """
    import vllm

    prompt = self._prompter.ids(session.question, request.trace)
    room = engine_lib.room(
        self.name, len(prompt), request.max_tokens, self._settings.max_length
    )
    inputs = vllm.TokensPrompt(prompt_token_ids=prompt)
    # The salt is part of the hash of each cached block. Sessions with different
    # salts share no cached prefix, so their costs are independent.
    if session.salt:
      inputs['cache_salt'] = session.salt
    params = self._sampling_params(request, stop, room)
    name = f'{self.name}-{next(self._ids)}'
    return speculation.Run(
        self._llm.generate(inputs, params, name),
        functools.partial(self._llm.abort, name),
        self._prompter,
        session.question,
        request,
        prompt,
        self.route,
        self._time,
    )

  def _ids_of(self, stop: str | None, delimiter: str) -> list[int] | None:
    """Returns the tokens that contain a stop string; None = not a delimiter."""
    if stop != delimiter:
      return None
    if stop not in self._stop_ids:
      self._stop_ids[stop] = _delimiter_ids(self._prompter.tokenizer, stop)
    return self._stop_ids[stop]

  def _sampling_params(
      self, request: engine_lib.Request, stop: str | None, room: int
  ):
    """Returns vLLM's sampling parameters for at most `room` new tokens."""
    import vllm
    from vllm import sampling_params

    kinds = sampling_params.RequestOutputKind
    speculates = (
        self._settings.speculates
        and request.may_speculate
        and not request.to_end
        and not request.temperature
    )
    if speculates:
      stop = None  # vLLM must not stop; `speculation.Run` finds the step's end.
    return vllm.SamplingParams(
        **self._sampling,
        temperature=request.temperature,
        seed=request.seed,
        max_tokens=room,
        stop=stop,
        # A token that contains the delimiter stops vLLM at once. A stop string
        # is found later, in the decoded text. By then more tokens may be
        # written and cached, and cached tokens would depend on timing.
        stop_token_ids=self._ids_of(stop, request.delimiter.text),
        include_stop_str_in_output=True,
        # vLLM needs the text only to find the stop string: `speculation.Run`
        # decodes the tokens itself.
        detokenize=stop is not None,
        logprobs=self._settings.num_log_probs,
        flat_logprobs=True,  # Flat lists, not an object per alternative.
        # A request that speculates, or whose steps are told, is read while it
        # is being written, so it must send partial outputs. Others are read
        # when complete; one output each saves traffic between processes.
        output_kind=kinds.CUMULATIVE
        if speculates or request.on_step
        else kinds.FINAL_ONLY,
    )


def _delimiter_ids(tokenizer: prompts.Tokenizer, delimiter: str) -> list[int]:
  """Returns the ids of tokens that contain a whole delimiter."""
  ids = sorted(tokenizer.get_vocab().values())
  texts = tokenizer.batch_decode([[i] for i in ids])
  return [i for i, text in zip(ids, texts, strict=True) if delimiter in text]
