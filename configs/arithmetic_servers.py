"""The embedded pair on counter arithmetic, behind two vLLM servers.

Serve:  python -m vllm.entrypoints.openai.api_server --model routing/lm/weights/small --served-model-name small --port 8000 --max-model-len 256 --enable-prompt-tokens-details
        and the same with large, on port 8001
Run:    python -m experiments.pipeline --config=configs/arithmetic_servers.py --workdir=runs/arithmetic_servers
Change: append e.g. --config.routes[1].settings.base_url=http://b:8000/v1 --config.collect.limits.dollars=5
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
          engine='openai',
          model=name,  # The server's name of the model.
          # Weights and tokenizer of the same model, for prices and prompts;
          # '' = not available, then `spec` must give size and prices.
          weights=f'shipped/{name}',
          # Environment variable that holds the API key; '' = none is needed.
          api_key_variable='',
          # Prices in dollars per million tokens, and sizes, instead of those
          # that follow from the weights, e.g. price_output=1.6.
          spec=dict(),
          settings=dict(
              base_url=f'http://127.0.0.1:{port}/v1',
              # How a model is asked to continue a trace: 'completions', 'chat',
              # 'prefill' or 'instruct'; see routing/engines/endpoint.py.
              mode='completions',
              is_vllm=True,  # Sends and reads vLLM's extensions of the API.
              num_log_probs=5,  # Top log-probabilities per token; 0 = none.
              seeds=True,  # The same seed gives the same answer.
              # The server reports cached tokens; otherwise all count as read.
              reports_cached=True,
              max_length=256,  # Tokens of question and answer together.
              timeout=600.0,  # Seconds after which a request counts as lost.
          ),
      )
      for name, port in (('small', 8_000), ('large', 8_001))
  )
  config.collect.concurrency = 64
  # Without 'hidden': servers do not return hidden states.
  config.features.groups = ('confidence', 'progress', 'cost', 'text')
  if variant == 'smoke':
    config.evaluation.num_live = 4
  return config
