"""The embedded pair on counter arithmetic, as vLLM runs it on a CPU.

Run:    python -m experiments.pipeline --config=configs/arithmetic_vllm.py --workdir=runs/arithmetic_vllm
Smoke:  python -m experiments.pipeline --config=configs/arithmetic_vllm.py:smoke --workdir=runs/smoke_vllm
Change: append e.g. --config.engine.pair=runs/pair --config.engine.dtype=bfloat16
"""

import ml_collections

from configs import arithmetic

VARIANTS = arithmetic.VARIANTS


def get_config(variant: str = 'full') -> ml_collections.ConfigDict:
  config = arithmetic.get_config(variant)
  # Of memory_share, cache_bytes and tensor_parallel_size: one a route.
  config.engine = dict(
      kind='vllm',
      pair='shipped',  # Or a directory with small/ and large/.
      user='',  # '{question}' and more fills a chat template; '' = no template.
      system='',  # System message of the chat template.
      max_length=256,  # Tokens of question and answer.
      dtype='float32',
      cache_bytes=(256 << 20, 256 << 20),  # On a GPU, leave it to a share.
      tensor_parallel_size=(1, 1),
      num_slots=64,  # Answers written at once, by each model.
      num_log_probs=5,
      speculates=True,  # The writer writes on while the router decides.
      enforce_eager=True,
      extra=dict(
          block_size=32,  # What is cached comes in blocks of so many tokens.
          # A seeded request whose prompt is read in parts fails on a CPU.
          enable_chunked_prefill=False,
          max_num_batched_tokens=8_192,
          use_tqdm_on_load=False,
      ),
      # Set where it is not: one process a model, one thread a process, bound to
      # no core. Threads that wait by spinning make small models slower.
      environment=dict(
          VLLM_ENABLE_V1_MULTIPROCESSING='0',
          VLLM_CPU_OMP_THREADS_BIND='nobind',
          OMP_NUM_THREADS='1',
          TOKENIZERS_PARALLELISM='false',
          VLLM_LOGGING_LEVEL='WARNING',
      ),
  )
  config.collect.concurrency = 64
  # vLLM gives no hidden states.
  config.features.groups = ('confidence', 'progress', 'cost', 'text')
  if variant == 'smoke':
    config.evaluation.num_live = 4
  return config
