"""The values of the models in configs/, against what their sources say.

docs/paper.md has the sources and their words; each address here stands there.
"""

from absl.testing import absltest
from absl.testing import parameterized

from configs import own_models
from configs import paper
from experiments import builders
from tests import checkout

_QWEN_MATH = 'https://github.com/QwenLM/Qwen2.5-Math/'
_CARDS = 'https://github.com/ZHUI/paddlenlp_model_readme/'

# As README.md shows them to a chat model, for reasoning in words.
_SYSTEM = (
    'Please reason step by step, and put your final answer within \\boxed{}.'
)
# Model -> tokens of its context, and where this is said.
_CONTEXTS = {
    'Qwen/Qwen2.5-Math-1.5B-Instruct': (
        4_096,
        'https://github.com/Small-Model-Gap/Small-Model-Learnability-Gap/',
    ),
    'Qwen/Qwen2.5-Math-7B-Instruct': (4_096, _QWEN_MATH),
    'Qwen/Qwen2.5-0.5B-Instruct': (32_768, _CARDS),
    'Qwen/Qwen2.5-1.5B-Instruct': (32_768, _CARDS),
    'Qwen/Qwen2.5-7B-Instruct': (131_072, _CARDS),
    'gpt-4.1-mini': (
        1_047_576,
        'https://vercel.com/ai-gateway/models/gpt-4.1-mini',
    ),
}
# Tokens that a model can write at once.
_MAX_OUTPUT = {'gpt-4.1-mini': 32_768}
# Dollars per million tokens, of the same source as the context.
_PRICES = {'price_input': 0.40, 'price_cached': 0.10, 'price_output': 1.60}

_CONFIGS = [
    *((f'paper_{x}', paper.get_config(x)) for x in paper.VARIANTS),
    *((f'own_{x}', own_models.get_config(x)) for x in own_models.VARIANTS),
]


def _model(route) -> str:
  """Returns the name of a route's model, whatever a server calls it."""
  return route.weights or route.model


class RecordedValuesTest(parameterized.TestCase):

  @parameterized.named_parameters(_CONFIGS)
  def test_context_and_length_of_answers(self, config):
    limit = builders.sampling(config).max_tokens
    for route in builders.routes(config):
      context, _ = _CONTEXTS[_model(route)]
      length = route.settings.get('max_length')
      if 'Math' in route.model:
        self.assertEqual(length, context)  # All of it is used.
      elif route.engine != 'openai' or route.weights:
        self.assertLessEqual(length, context)
      # At least a quarter of the context is left to the question.
      self.assertLessEqual(limit, 0.75 * (length or context))
      self.assertLessEqual(limit, _MAX_OUTPUT.get(_model(route), limit))

  @parameterized.parameters(*paper.VARIANTS)
  def test_the_papers_models_are_asked_as_their_authors_do(self, variant):
    config = paper.get_config(variant)
    for route in builders.routes(config):
      messages = route.prompt.messages('1 + 1?')
      self.assertTrue(route.prompt.is_chat)
      self.assertEqual(
          messages,
          [
              {'role': 'system', 'content': _SYSTEM},
              {'role': 'user', 'content': '1 + 1?'},
          ],
      )
    # eval.sh: --temperature 0, --n_sampling 1; no example but for choices.
    self.assertEqual(builders.sampling(config).temperature, 0.0)
    self.assertEqual(config.collect.samples, 1)
    self.assertEqual(builders.task(config).finders[0], 'boxed')

  @parameterized.named_parameters(_CONFIGS)
  def test_no_template_adds_its_own_system_message(self, config):
    # Qwen2.5's adds "You are Qwen, created by Alibaba Cloud. You are a helpful
    # assistant." to a conversation without one.
    for route in builders.routes(config):
      self.assertNotEmpty(route.prompt.system)
      self.assertEmpty(route.template)

  @parameterized.named_parameters(_CONFIGS)
  def test_stop_tokens_are_the_models_own(self, config):
    # <|im_end|> (151645) and <|endoftext|> (151643) stand in the models' files.
    for route in builders.routes(config):
      given = dict(route.settings) | dict(route.settings.get('extra', {}))
      self.assertEmpty([x for x in given if 'stop' in x or 'eos' in x])

  def test_prices(self):
    _, large = builders.routes(paper.get_config('gpt41_mini'))
    self.assertEqual({x: large.spec[x] for x in _PRICES}, _PRICES)

  def test_the_papers_problems(self):
    # The abstract: GSM8K, MATH500 and OmniMath, open and closed models.
    tasks = {x: paper.get_config(x).task.name for x in paper.VARIANTS}
    self.assertContainsSubset(
        {'gsm8k', 'math', 'omni_math_rule'}, set(tasks.values())
    )
    engines = [
        {route.engine for route in builders.routes(paper.get_config(x))}
        for x in paper.VARIANTS
    ]
    self.assertIn({'vllm'}, engines)
    self.assertIn({'vllm', 'openai'}, engines)

  def test_every_source_is_in_the_document(self):
    text = (checkout.ROOT / 'docs' / 'paper.md').read_text('utf-8')
    for model, (context, source) in _CONTEXTS.items():
      self.assertIn(source, text)
      self.assertIn(f'{context:,}', text)
      self.assertIn(model.rpartition('/')[2], text)
    self.assertIn(_SYSTEM, text)


if __name__ == '__main__':
  absltest.main()
