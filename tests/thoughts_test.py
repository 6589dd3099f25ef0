"""Tests of models that think: templates, half-written thoughts, answers."""

import asyncio

from absl.testing import absltest
from absl.testing import parameterized
import tokenizers
import transformers

from routing.engines import endpoint as endpoint_lib
from routing.engines import engine as engine_lib
from routing.engines import openai
from routing.engines import prompts
from routing.engines import scripted
from routing.engines import thoughts
from routing.grading import answers
from routing.rollout import steps as steps_lib
from routing.tasks import prompt as prompt_lib
from tests import openai_server
from tests import sessions

_HEAD = '<|start|>assistant\n'
_MESSAGES = (
    '{% for m in messages %}<|start|>{{ m.role }}\n{% set c = m.content %}'
    '{% if m.role == "assistant" %}CONTENT{% else %}{{ c }}{% endif %}<|end|>\n'
    '{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n'
)
# The thought of a message is dropped, as in the templates of Qwen3 and R1.
_DROPS = _MESSAGES.replace('CONTENT', "{{ c.split('</think>')[-1] }}")
# An empty thought is put before a message that has none, as in Qwen3's.
_ADDS = _MESSAGES.replace('CONTENT', '<think>\n\n</think>\n\n{{ c }}')
_KEEPS = _MESSAGES.replace('CONTENT', '{{ c }}')
_OPENS = '<think>\n{% endif %}'
_PLAIN = '{% endif %}'
_SWITCH = (
    '{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}'
    '{% endif %}'
)
_TRACE = '<think>\nOne.\n\nTwo.\n</think>\n\nSo.\n\n'


def _prompter(template, **fields):
  """Returns a prompter whose tokens are bytes, as the scripted model's."""
  # Byte-level tokenizers write the bytes that print nothing as other letters.
  printed = {*range(33, 127), *range(161, 173), *range(174, 256)}
  others = iter(range(256, 512))
  vocabulary = {
      chr(byte if byte in printed else next(others)): byte
      for byte in range(256)
  }
  tok = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
  levels = tokenizers.pre_tokenizers.ByteLevel
  tok.pre_tokenizer = levels(add_prefix_space=False)
  tok.decoder = tokenizers.decoders.ByteLevel()
  tok.add_special_tokens(['<|start|>', '<|end|>'])
  hugging = transformers.PreTrainedTokenizerFast(
      tokenizer_object=tok, eos_token='<|end|>'
  )
  hugging.chat_template = template
  return prompts.Prompter(hugging, prompt_lib.Prompt(), fields)


class TemplateTest(parameterized.TestCase):

  @parameterized.parameters(
      (_KEEPS + _PLAIN, _TRACE, _TRACE),
      (_DROPS + _SWITCH, _TRACE, _TRACE),
      (_DROPS + _OPENS, _TRACE, _TRACE),
      (_DROPS + _OPENS, '', '<think>\n'),
      (_DROPS + _OPENS, '<think>\nOne.\n\n', '<think>\nOne.\n\n'),
      # Another model began, and did not think: no thought is opened before it.
      (_DROPS + _OPENS, 'One.\n\n', 'One.\n\n'),
  )
  def test_the_answer_reaches_the_model_as_it_is(self, template, trace, end):
    prompter = _prompter(template)
    text = prompter.tokenizer.decode(prompter.ids('q', trace))
    self.assertEndsWith(text, _HEAD + end)

  def test_no_thinking_is_a_field_of_the_template(self):
    prompter = _prompter(_DROPS + _SWITCH, enable_thinking=False)
    text = prompter.tokenizer.decode(prompter.ids('q', 'One.\n\n'))
    self.assertEndsWith(text, _HEAD + '<think>\n\n</think>\n\nOne.\n\n')
    self.assertEqual(prompter.opening, '')

  @parameterized.parameters(
      (_KEEPS + _PLAIN, _TRACE, True),
      (_KEEPS + _OPENS, _TRACE, True),
      (_DROPS + _PLAIN, _TRACE, False),
      (_DROPS + _OPENS, '<think>\nOne.\n\n', True),
      (_DROPS + _OPENS, _TRACE, False),
      (_ADDS + _PLAIN, '<think>\nOne.\n\n', False),
      (_ADDS + _PLAIN, 'One.\n\n', False),
      (_DROPS + _PLAIN, 'One.\n\n', True),
  )
  def test_a_server_that_changes_the_thought_is_refused(
      self, template, trace, is_kept
  ):
    check = lambda: thoughts.check_shown(_prompter(template), 'q', trace, 'm')
    if is_kept:
      check()
    else:
      with self.assertRaisesRegex(engine_lib.Refused, 'drops or changes'):
        check()

  def test_a_thought_and_an_unknown_template(self):
    thoughts.check_shown(None, 'q', 'One.\n\n', 'm')
    with self.assertRaisesRegex(engine_lib.Refused, 'is not known'):
      thoughts.check_shown(None, 'q', _TRACE, 'm')


class EngineTest(parameterized.TestCase):

  def _served(self, mode, requests):
    """Returns the texts that a model whose template opens a thought writes."""
    prompter = _prompter(_DROPS + _OPENS)
    head = ''.join(map(chr, prompter.ids('q')))
    model = openai_server.Model(
        scripted.ScriptedEngine(
            's', 0, scripted.recite('One.\n\nTwo.\n</think>\n\n\\boxed{2}')
        ),
        split=lambda text: (
            (head, text[len(head) :]) if head in text else (text, '')
        ),
        is_vllm=False,
    )
    with openai_server.serve(openai_server.make_app(model)) as url:

      async def run():
        engine = openai.OpenAIEngine(
            'm',
            0,
            endpoint_lib.Endpoint(url, 'm', mode=mode),
            prompter=prompter,
        )
        try:
          return await sessions.write_all(engine, requests)
        finally:
          await engine.close()

      return asyncio.run(run())

  def test_the_opening_is_text_and_no_token(self):
    ((step,),) = self._served('completions', [sessions.ask('q')])
    self.assertEqual(step.text, '<think>\nOne.\n\n')
    # One token a letter.
    self.assertEqual(step.usage.written, len('One.\n\n'))

  def test_a_thought_that_the_server_would_drop_is_refused(self):
    with self.assertRaisesRegex(engine_lib.Refused, 'drops or changes'):
      self._served('prefill', [sessions.ask('q', trace=_TRACE)])

  def test_the_next_step_continues_the_thought(self):
    # Were the opening there twice, the model would not go on with 'Two'.
    request = sessions.ask('q', trace='<think>\nOne.\n\n')
    ((step,),) = self._served('completions', [request])
    self.assertEqual(step.text, 'Two.\n</think>\n\n')

  @parameterized.parameters('completions', 'prefill')
  def test_steps_of_a_thought_are_steps(self, mode):
    (steps,) = self._served(mode, [sessions.ask('q', to_end=True)])
    self.assertEqual(
        [step.text for step in steps],
        ['<think>\nOne.\n\n', 'Two.\n</think>\n\n', '\\boxed{2}'],
    )
    self.assertEqual(answers.find(steps_lib.join(steps)), '2')


class AnswerTest(parameterized.TestCase):

  @parameterized.parameters(
      ('<think>\n\\boxed{1}\n\n', None),
      ('<think>\n\\boxed{1}\n</think>\n\n\\boxed{2}\n', '2'),
      # A model that thinks goes on where one that does not has begun.
      ('Let x.\n\n<think>\n\\boxed{1}\n</think>\n\n\\boxed{2}\n', '2'),
      ('Let x.\n\n<think>\n\\boxed{1}\n\n', None),
      ('<think>\n\\boxed{1}\n</think>\n<think>\n\\boxed{2}\n', None),
      # The answer was complete before the thought.
      ('\\boxed{2}\n\n<think>\n\\boxed{1}\n', '2'),
      # Quoted, not opened.
      ('The tag <think> is 3: \\boxed{3}\n', '3'),
  )
  def test_no_answer_stands_in_a_thought(self, text, expected):
    finders = ('boxed', 'hash', 'number')
    self.assertEqual(answers.find(text, ('boxed', 'hash')), expected)
    self.assertEqual(answers.end(text, finders) is None, expected is None)


if __name__ == '__main__':
  absltest.main()
