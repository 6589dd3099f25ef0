"""The small embedded model on a vLLM server, and a paid API as the large one.

Serve:   the small model, with the command of configs/arithmetic_servers.py
Collect: OPENAI_API_KEY=... python -m experiments.collect --config=configs/arithmetic_paid.py --workdir=runs/arithmetic_paid --split=train
Change:  append e.g. --config.routes[1].spec.price_output=1.6 --config.collect.limits.dollars=20
"""  # noqa: E501  Commands stay on one line.

import ml_collections

from configs import arithmetic_servers

VARIANTS = arithmetic_servers.VARIANTS


def bought_route() -> dict:
  """Returns the entry of `routes` for GPT-4.1-mini."""
  return dict(
      name='large',
      engine='openai',
      model='gpt-4.1-mini',
      api_key_variable='OPENAI_API_KEY',
      spec=dict(
          # Dollars per million tokens; check the provider's price list.
          price_input=0.4,
          price_cached=0.1,
          price_output=1.6,
          # Guesses, because the provider publishes none. Only the cost metrics
          # 'flops' and 'decoded_tokens' depend on them; 'price' does not.
          parameters=8_000_000_000,
          num_layers=32,
          attention_width=4_096,
      ),
      settings=dict(
          base_url='https://api.openai.com/v1',
          # A chat API cannot continue a given text; it is instructed to.
          mode='instruct',
          is_vllm=False,
          num_log_probs=0,  # No feature uses the large model's.
      ),
      prompt=dict(is_chat=True),
  )


def get_config(variant: str = 'full') -> ml_collections.ConfigDict:
  """Returns one of `VARIANTS`."""
  config = arithmetic_servers.get_config(variant)
  config.routes = (config.routes[0], bought_route())
  # The small model is charged a price derived from its parameters, close to 0
  # here, so the dollars are practically those of the API.
  config.collect.limits.update(requests=16, dollars=5.0)
  config.collect.concurrency = 16
  return config
