"""The embedded pair on counter arithmetic, run by vLLM on a CPU.

Run:    python -m experiments.pipeline --config=configs/arithmetic_vllm.py --workdir=runs/arithmetic_vllm
Smoke:  python -m experiments.pipeline --config=configs/arithmetic_vllm.py:smoke --workdir=runs/smoke_vllm
Change: append e.g. --config.routes[0].model=runs/pair/small --config.routes[0].settings.dtype=bfloat16
"""

import ml_collections

from configs import arithmetic

VARIANTS = arithmetic.VARIANTS


def get_config(variant: str = 'full') -> ml_collections.ConfigDict:
  """Returns one of `VARIANTS`."""
  config = arithmetic.get_config(variant)
  config.routes = tuple(
      dict(
          name=name,
          engine='vllm',
          model=f'shipped/{name}',  # Or a directory, or a name on the hub.
          settings=dict(
              max_length=256,  # Tokens of question and answer together.
              dtype='float32',  # Of weights, activations; 'auto' = as saved.
              # Bytes of the prefix cache. On a GPU, write memory_share instead:
              # the share of its memory for weights and cache, in (0, 1].
              cache_bytes=256 << 20,
              tensor_parallel_size=1,  # Accelerators for this model.
              num_slots=64,  # Answers written at once; others wait.
              num_log_probs=5,  # Top log-probabilities per token.
              # A greedy model continues speculatively while the router decides.
              # Text that the router does not use is cancelled, and charged.
              speculates=True,
              enforce_eager=True,  # No compilation: starts sooner, runs slower.
              extra=dict(  # Further arguments of vLLM's AsyncEngineArgs.
                  block_size=32,  # Tokens per block of the prefix cache.
                  # On a CPU, vLLM fails on a seeded request whose prompt is
                  # chunked.
                  enable_chunked_prefill=False,
                  max_num_batched_tokens=8_192,
                  use_tqdm_on_load=False,
              ),
          ),
      )
      for name in ('small', 'large')
  )
  # Environment variables, unless they are set already. One process per model,
  # with one thread that is bound to no core: for models as small as these,
  # threads that spin while they wait cost more than they bring.
  config.environment = dict(
      VLLM_ENABLE_V1_MULTIPROCESSING='0',
      VLLM_CPU_OMP_THREADS_BIND='nobind',
      OMP_NUM_THREADS='1',
      TOKENIZERS_PARALLELISM='false',
  )
  config.collect.concurrency = 64
  # Without 'hidden': vLLM does not return hidden states.
  config.features.groups = ('confidence', 'progress', 'cost', 'text')
  if variant == 'smoke':
    config.evaluation.num_live = 4
  return config
