"""The embedded pair on counter arithmetic, run by vLLM on a CPU.

Run:    python -m experiments.pipeline --config=configs/arithmetic_vllm.py --workdir=runs/arithmetic_vllm
Smoke:  python -m experiments.pipeline --config=configs/arithmetic_vllm.py:smoke --workdir=runs/smoke_vllm
Change: append e.g. --config.engine.pair=runs/pair --config.engine.dtype=bfloat16
"""

import ml_collections

from configs import arithmetic

VARIANTS = arithmetic.VARIANTS


def get_config(variant: str = 'full') -> ml_collections.ConfigDict:
  """Returns one of `VARIANTS`.

  In config.engine, a tuple gives one value for each route, smallest model
  first. A single value serves both routes.
  """
  config = arithmetic.get_config(variant)
  config.engine = dict(
      kind='vllm',
      pair='shipped',  # Or a directory with small/ and large/.
      # User message of the chat template; must contain '{question}'. '' = the
      # question is sent as plain text.
      user='',
      system='',  # System message of the chat template; '' = none.
      max_length=256,  # Tokens of question and answer together.
      dtype='float32',  # Of weights and activations; 'auto' = as saved.
      # Bytes of the prefix cache. For a GPU, write memory_share here instead:
      # the share of its memory for weights and cache, in (0, 1].
      cache_bytes=(256 << 20, 256 << 20),
      tensor_parallel_size=(1, 1),  # Accelerators per model.
      num_slots=64,  # Answers that a model writes at once; others wait.
      num_log_probs=5,  # Top log-probabilities per token.
      # A greedy model continues speculatively while the router decides. Text
      # that the router does not use is cancelled, and charged.
      speculates=True,
      enforce_eager=True,  # No compilation: starts sooner, runs slower.
      extra=dict(  # Further arguments of vLLM's AsyncEngineArgs.
          block_size=32,  # Tokens per block of the prefix cache.
          # On a CPU, vLLM fails on a seeded request whose prompt is chunked.
          enable_chunked_prefill=False,
          max_num_batched_tokens=8_192,
          use_tqdm_on_load=False,
      ),
      # Environment variables, unless they are set already. One process per
      # model, with one thread that is bound to no core: for small models,
      # threads that spin while they wait cost more than they bring.
      environment=dict(
          VLLM_ENABLE_V1_MULTIPROCESSING='0',
          VLLM_CPU_OMP_THREADS_BIND='nobind',
          OMP_NUM_THREADS='1',
          TOKENIZERS_PARALLELISM='false',
          VLLM_LOGGING_LEVEL='WARNING',
      ),
  )
  config.collect.concurrency = 64
  # Without 'hidden': vLLM does not return hidden states.
  config.features.groups = ('confidence', 'progress', 'cost', 'text')
  if variant == 'smoke':
    config.evaluation.num_live = 4
  return config
