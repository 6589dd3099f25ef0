"""Your own models on your own problems: two names, a data set, one command.

Run:     python -m experiments.pipeline --config=configs/own_models.py --workdir=runs/mine '--config.routes[0].model=Qwen/Qwen2.5-0.5B-Instruct' '--config.routes[1].model=Qwen/Qwen2.5-7B-Instruct' --config.task.files.all=problems.jsonl
CPU:     the same with --config=configs/own_models.py:cpu
Servers: the same with --config=configs/own_models.py:servers '--config.routes[0].settings.base_url=http://127.0.0.1:8000/v1' '--config.routes[1].settings.base_url=http://127.0.0.1:8001/v1'
Other problems: --config.task.fields.question=problem names a field; a copy of this file may name another task of routing/tasks/, e.g. dict(name='gsm8k')
"""  # noqa: E501  Commands stay on one line.

import ml_collections

from configs import arithmetic

# One GPU for both models; two cores or more; servers of OpenAI's protocol.
VARIANTS = ('gpu', 'cpu', 'servers')


def _vllm(variant: str, memory_share: float) -> dict:
  """Returns the settings of a model that vLLM runs on this machine.

  Args:
    variant: 'gpu' or 'cpu'.
    memory_share: of a GPU, for weights and cache of this model.
  """
  settings = dict(
      max_length=4_096,  # Tokens of question and answer together.
      num_slots=256,  # Answers written at once; others wait.
      num_log_probs=5,  # Top log-probabilities per token.
      # Continue while the router decides. Tokens that are not used are charged.
      speculates=False,
      # Read what all prompts begin with (solved examples) once; it is then
      # charged as cached.
      shares_prefix=False,
  )
  if variant == 'gpu':
    return settings | dict(dtype='auto', memory_share=memory_share)
  return settings | dict(
      dtype='float32',  # bfloat16 is slow on CPUs without AVX-512.
      cache_bytes=2 << 30,  # Bytes of the prefix cache.
      num_slots=32,
      enforce_eager=True,  # No compilation: starts sooner.
      extra=dict(
          block_size=32,
          # On a CPU, vLLM fails on a seeded request whose prompt is chunked.
          enable_chunked_prefill=False,
          max_num_batched_tokens=8_192,
          use_tqdm_on_load=False,
      ),
  )


def get_config(variant: str = 'gpu') -> ml_collections.ConfigDict:
  """Returns one of `VARIANTS`."""
  if variant not in VARIANTS:
    raise ValueError(f'Unknown variant {variant!r}; use {", ".join(VARIANTS)}.')
  config = arithmetic.get_config()
  config.task = dict(
      name='jsonl',
      path='',  # Directory of the files.
      # Part -> file. Parts may be called train, select, prove and test; any
      # other is divided into these four.
      files=dict(all='problems.jsonl'),
      # Which fields of a row are question and reference answer. `finder` says
      # where in the field the reference stands, e.g. 'hash' after ####; '' =
      # the field is the reference.
      fields=dict(question='question', answer='answer', finder=''),
      # Where the answer stands in a model's text: the first that is found.
      finders=('boxed', 'hash', 'number'),
      grader='math_verify',  # Or 'exact': the same words.
      # The prompt of both models; {question} is replaced.
      system=(
          'Reason step by step, with a blank line after each step, and put your '
          'final answer within \\boxed{}.'
      ),
      user='{question}',
      shots=(),  # Solved examples, ((question, answer), ...).
  )
  # -1 = all problems of the split.
  config.problems.update(train=-1, select=-1, prove=-1, test=-1)
  if variant == 'servers':
    config.routes = tuple(
        dict(
            name=name,
            engine='openai',
            model=name,  # The server's name of the model.
            # Hub name or directory of the same model, for tokenizer and size.
            weights='Qwen/Qwen2.5-' + size,
            api_key_variable='',  # Environment variable of the key; '' = none.
            spec=dict(),  # E.g. price_output, in dollars per million tokens.
            template=dict(),  # Further arguments of the chat template.
            settings=dict(
                base_url=f'http://127.0.0.1:{port}/v1',
                mode='completions',  # See docs/engines.md.
                is_vllm=True,
                num_log_probs=5,
                reports_cached=True,
                shares_prefix=False,
                seeds=True,
                max_length=4_096,
                timeout=600.0,
            ),
        )
        for name, size, port in (
            ('small', '0.5B-Instruct', 8_000),
            ('large', '7B-Instruct', 8_001),
        )
    )
  else:
    config.routes = tuple(
        dict(
            name=name,
            engine='vllm',
            model='Qwen/Qwen2.5-' + size,  # A hub name or a directory.
            revision='',  # Commit on the hub; '' = the newest.
            spec=dict(),  # E.g. price_output, in dollars per million tokens.
            template=dict(),  # Further arguments of the chat template.
            settings=_vllm(variant, memory_share),
        )
        for name, size, memory_share in (
            ('small', '0.5B-Instruct', 0.25),
            ('large', '7B-Instruct', 0.6),
        )
    )
  # Variables that vLLM reads, unless they are set already.
  config.environment = dict(
      TOKENIZERS_PARALLELISM='false',
      # Threads bound to cores wait by spinning, and both models share the cores.
      VLLM_CPU_OMP_THREADS_BIND='nobind',
  )
  config.protocol.max_decisions = 16
  config.collect.update(max_tokens=1_024, concurrency=32, shard_size=64)
  config.features.groups = ('confidence', 'progress', 'cost', 'text')
  config.objective.levels = ()  # Spread by what the small model costs.
  config.num_steps = 400
  config.batch_size = 256
  config.evaluation.update(num_live=50, num_coverage_samples=0)
  return config
