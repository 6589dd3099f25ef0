"""The small model of the embedded pair on a server of vLLM, a paid API as the large one.

Serve:   the small model, as configs/arithmetic_servers.py says
Collect: OPENAI_API_KEY=... python -m experiments.collect --config=configs/arithmetic_paid.py --workdir=runs/arithmetic_paid --split=train
Change:  append e.g. --config.engine.specs.large.price_output=1.6 --config.collect.limits.dollars=20
"""  # noqa: E501  Commands stay on one line.

import ml_collections

from configs import arithmetic_servers

VARIANTS = arithmetic_servers.VARIANTS


def get_config(variant: str = 'full') -> ml_collections.ConfigDict:
  config = arithmetic_servers.get_config(variant)
  config.engine.update(
      pair=('shipped', ''),
      base_url=('http://127.0.0.1:8000/v1', 'https://api.openai.com/v1'),
      model=('small', 'gpt-4.1-mini'),
      api_key_variable=('', 'OPENAI_API_KEY'),
      mode=('completions', 'instruct'),
      is_vllm=(True, False),
      num_log_probs=(5, 0),  # Of the large model nothing looks at them.
      seeds=(True, False),
      max_length=(256, 0),
  )
  config.engine.specs.large = dict(
      price_input=0.4,
      price_cached=0.1,
      price_output=1.6,
      # Estimates, since nobody outside knows; `price` needs none of them.
      parameters=8_000_000_000,
      num_layers=32,
      attention_width=4_096,
  )
  # The small model is charged what its parameters say, next to nothing here.
  config.collect.limits.update(requests=16, dollars=5.0)
  config.collect.concurrency = 16
  return config
