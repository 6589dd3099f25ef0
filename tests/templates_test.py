"""Tests of prompts for templates that trim or refuse, and odd tokenizers."""

import random

from absl.testing import absltest
from absl.testing import parameterized
import tokenizers
import transformers

from routing.engines import back_ends
from routing.engines import prompts
from routing.engines import route as route_lib
from routing.tasks import prompt as prompt_lib

# As Llama 3's: BOS, and every message trimmed.
_LLAMA = (
    '{{ bos_token }}{% for m in messages %}<h>{{ m["role"] }}</h>\n\n'
    '{{ m["content"] | trim }}<e>{% endfor %}'
    '{% if add_generation_prompt %}<h>assistant</h>\n\n{% endif %}'
)
# As Gemma's: no system role, and roles must alternate.
_GEMMA = (
    '{{ bos_token }}{% if messages[0]["role"] == "system" %}'
    '{{ raise_exception("System role not supported") }}{% endif %}'
    '{% for m in messages %}'
    '{% if (m["role"] == "user") != (loop.index0 % 2 == 0) %}'
    '{{ raise_exception("Roles must alternate") }}{% endif %}'
    '<h>{{ m["role"] }}\n{{ m["content"] | trim }}<e>\n{% endfor %}'
    '{% if add_generation_prompt %}<h>model\n{% endif %}'
)
_KEEPS = _LLAMA.replace(' | trim', '')
_LOSES_LAST = _LLAMA.replace('in messages', 'in messages[:-1]')
_LOSES_SYSTEM = _LLAMA.replace(
    'in messages', 'in messages if m["role"] != "system"'
)


def _tokenizer(template=None):
  """Returns a SentencePiece-like tokenizer with byte fallback, as Llama 2's.

  It puts BOS before every text, as the post-processors of such models do.
  """
  words = ['<unk>', '<s>', '</s>', '<h>', '</h>', '<e>']
  words += [f'<0x{byte:02X}>' for byte in range(256)]
  words += ['▁', '▁a', *map(chr, range(33, 127)), '\n', 'é']
  tok = tokenizers.Tokenizer(
      tokenizers.models.BPE(
          vocab={word: i for i, word in enumerate(words)},
          merges=[('▁', 'a')],
          byte_fallback=True,
          unk_token='<unk>',
      )
  )
  tok.normalizer = tokenizers.normalizers.Replace(' ', '▁')
  decoders = tokenizers.decoders
  tok.decoder = decoders.Sequence(
      [
          decoders.Replace('▁', ' '),
          decoders.ByteFallback(),
          decoders.Fuse(),
      ]
  )
  tok.add_special_tokens(['<s>', '</s>', '<h>', '</h>', '<e>'])
  tok.post_processor = tokenizers.processors.TemplateProcessing(
      single='<s> $A', special_tokens=[('<s>', 1)]
  )
  hugging = transformers.PreTrainedTokenizerFast(
      tokenizer_object=tok, bos_token='<s>', eos_token='</s>'
  )
  hugging.chat_template = template
  return hugging


def _prompter(template, **fields):
  return prompts.Prompter(_tokenizer(template), prompt_lib.Prompt(**fields))


class TemplateTest(parameterized.TestCase):

  @parameterized.parameters(_LLAMA, _GEMMA, _KEEPS)
  def test_the_answer_so_far_arrives_byte_for_byte(self, template):
    prompter = _prompter(template)
    prompter.check_template()
    for trace in ('A step.\n\n', ' \n\nx\n\n', 'a\n\n\n\n'):
      text = prompter.tokenizer.decode(prompter.ids('why?', trace))
      self.assertEndsWith(text, '\n' + trace)
      self.assertEqual(text.count('why?'), 1)

  @parameterized.parameters(True, False)
  def test_one_bos_with_and_without_a_template(self, is_chat):
    prompter = _prompter(_LLAMA, is_chat=is_chat)
    for trace in ('', 'a\n\n'):
      ids = prompter.ids('why?', trace)
      self.assertEqual((ids[0], ids.count(1)), (1, 1))

  @parameterized.parameters(
      (_GEMMA, dict(system='S'), 'of system, user: System role not'),
      (_LOSES_LAST, {}, "loses the message .*'user'"),
      (_LOSES_SYSTEM, dict(system='Be brief.'), "loses .*'Be brief.'"),
      (None, {}, 'set prompt.is_chat to False'),
  )
  def test_what_a_template_cannot_show_is_an_error(
      self, template, fields, message
  ):
    with self.assertRaisesRegex(ValueError, message):
      _prompter(template, **fields).check_template()

  @parameterized.parameters(_LLAMA, _GEMMA)
  def test_a_server_that_fills_a_trimming_template_is_refused(self, template):
    prompter = _prompter(template)
    with self.assertRaisesRegex(ValueError, "with '.*A step.', not 'A step"):
      prompter.check_template(continues=True)
    _prompter(_KEEPS).check_template(continues=True)

  def test_a_route_is_refused_by_name_unless_it_declares_trims_end(self):
    folder = self.create_tempdir().full_path
    _tokenizer(_LLAMA).save_pretrained(folder)

    def make(**settings):
      settings = dict(base_url='http://x', is_vllm=True) | settings
      route = route_lib.Route(
          'big', 'openai', 'm', weights=folder, settings=settings
      )
      return back_ends.make(route, 0)

    with self.assertRaisesRegex(ValueError, "'big': .* loses the blank line"):
      make(mode='chat')
    make(mode='chat', trims_end=True)
    make(mode='completions')


class ByteFallbackTest(absltest.TestCase):

  def test_pieces_join_to_the_text_and_never_change(self):
    prompter = prompts.Prompter(_tokenizer())
    rng = random.Random(0)
    for _ in range(500):
      text = ''.join(rng.choices('ab 字😀é\n', k=rng.randrange(1, 9)))
      before = rng.choice(['', 'a b\n', '字'])
      prompt, ids = prompter.ids(before), prompter.ids(text)[1:]
      pieces = prompter.decode_tokens(prompt, ids)
      self.assertLen(pieces, len(ids))
      self.assertEqual(''.join(pieces), text)
      # Cut within a character, the whole characters before it stay.
      count = rng.randrange(len(ids) + 1)
      self.assertEqual(
          prompter.decode_tokens(prompt, ids[:count]), pieces[:count]
      )

  def test_a_row_of_padding_adds_no_text(self):
    # Models have more rows than their tokenizer has tokens, e.g. 152,064 and
    # 151,936; a row without a token may be written all the same.
    prompter = prompts.Prompter(_tokenizer())
    ids = prompter.ids('ab')[1:]
    beyond = len(prompter.tokenizer)
    self.assertEqual(
        prompter.decode_tokens([1], [ids[0], beyond, ids[1]]), ['a', '', 'b']
    )

  def test_a_character_comes_with_its_last_byte(self):
    prompter = prompts.Prompter(_tokenizer())
    ids = prompter.ids('字a')[1:]
    self.assertLen(ids, 4)
    self.assertEqual(prompter.decode_tokens([1], ids), ['', '', '字', 'a'])


if __name__ == '__main__':
  absltest.main()
