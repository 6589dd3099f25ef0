"""The embedded pair on counter arithmetic, behind two servers of vLLM.

Serve:  python -m vllm.entrypoints.openai.api_server --model routing/lm/weights/small --served-model-name small --port 8000 --max-model-len 256 --enable-prompt-tokens-details
        and the same with large, on port 8001
Run:    python -m experiments.pipeline --config=configs/arithmetic_servers.py --workdir=runs/arithmetic_servers
Change: append e.g. --config.engine.base_url="('http://a:8000/v1', 'http://b:8000/v1')" --config.collect.limits.dollars=5
"""

import ml_collections

from configs import arithmetic

VARIANTS = arithmetic.VARIANTS


def get_config(variant: str = 'full') -> ml_collections.ConfigDict:
  config = arithmetic.get_config(variant)
  # Of a tuple, each route has its own entry.
  config.engine = dict(
      kind='openai',
      # Directories of weights and tokenizer; '' where they are not at hand.
      pair=('shipped', 'shipped'),
      base_url=('http://127.0.0.1:8000/v1', 'http://127.0.0.1:8001/v1'),
      model=('small', 'large'),  # As the servers call them.
      api_key_variable=('', ''),  # Environment variables that hold the keys.
      # 'completions', 'chat', 'prefill' or 'instruct'; see engines/endpoint.py.
      mode=('completions', 'completions'),
      is_vllm=(True, True),
      num_log_probs=(5, 5),
      seeds=(True, True),
      reports_cached=(True, True),
      max_length=(256, 256),  # Tokens of question and answer.
      timeout=600.0,  # Seconds.
      user='',  # '{question}' and more fills a chat template; '' = no template.
      system='',  # System message of the chat template.
      # Prices in dollars per million tokens, and what weights would tell, e.g.
      # large=dict(price_input=0.4, price_cached=0.1, price_output=1.6, ...).
      specs=dict(small=dict(), large=dict()),
  )
  config.collect.concurrency = 64
  # Servers give no hidden states.
  config.features.groups = ('confidence', 'progress', 'cost', 'text')
  if variant == 'smoke':
    config.evaluation.num_live = 4
  return config
