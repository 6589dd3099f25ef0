"""The embedded pair on counter arithmetic, behind two vLLM servers.

Serve:  python -m vllm.entrypoints.openai.api_server --model routing/lm/weights/small --served-model-name small --port 8000 --max-model-len 256 --enable-prompt-tokens-details
        and the same with large, on port 8001
Run:    python -m experiments.pipeline --config=configs/arithmetic_servers.py --workdir=runs/arithmetic_servers
Change: append e.g. --config.engine.base_url="('http://a:8000/v1', 'http://b:8000/v1')" --config.collect.limits.dollars=5
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
      kind='openai',
      # Directories of weights and tokenizer, for prices and prompts; '' = not
      # available, then specs must give the prices.
      pair=('shipped', 'shipped'),
      base_url=('http://127.0.0.1:8000/v1', 'http://127.0.0.1:8001/v1'),
      model=('small', 'large'),  # Names of the models on the servers.
      # Environment variables that hold the API keys; '' = no key is needed.
      api_key_variable=('', ''),
      # How a model is asked to continue a trace: 'completions', 'chat',
      # 'prefill' or 'instruct'; see routing/engines/endpoint.py.
      mode=('completions', 'completions'),
      is_vllm=(True, True),  # Sends and reads vLLM's extensions of the API.
      num_log_probs=(5, 5),  # Top log-probabilities per token; 0 = none.
      seeds=(True, True),  # The same seed gives the same answer.
      # The server reports cached tokens; otherwise all count as newly read.
      reports_cached=(True, True),
      max_length=(256, 256),  # Tokens of question and answer together.
      timeout=600.0,  # Seconds after which a request counts as lost.
      # User message of the chat template; must contain '{question}'. '' = the
      # question is sent as plain text.
      user='',
      system='',  # System message of the chat template; '' = none.
      # Overrides by route name: prices in dollars per million tokens, and model
      # sizes that are otherwise read from the weights, e.g.
      # large=dict(price_input=0.4, price_cached=0.1, price_output=1.6, ...).
      specs=dict(small=dict(), large=dict()),
  )
  config.collect.concurrency = 64
  # Without 'hidden': servers do not return hidden states.
  config.features.groups = ('confidence', 'progress', 'cost', 'text')
  if variant == 'smoke':
    config.evaluation.num_live = 4
  return config
