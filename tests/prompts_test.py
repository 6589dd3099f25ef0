"""Tests of prompts: chat templates, foreign traces, and instructions."""

from absl.testing import absltest
from absl.testing import parameterized
import tokenizers
import transformers

from routing.engines import prompts
from routing.lm import export
from routing.lm import tokenizer as tokenizer_lib
from routing.tasks import arithmetic
from routing.tasks import prompt as prompt_lib

_TEMPLATE = (
    '{% for m in messages %}<|start|>{{ m["role"] }}\n{{ m["content"] }}<|end|>'
    '\n{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n'
    '{% if thinking %}<think>{% endif %}{% endif %}'
)


def _bytes_tokenizer(*merged):
  """Returns a byte-level tokenizer with the words `merged` as tokens, too."""
  levels = tokenizers.pre_tokenizers.ByteLevel
  tok = tokenizers.Tokenizer(tokenizers.models.BPE())
  tok.pre_tokenizer = levels(add_prefix_space=False)
  tok.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
      special_tokens=['<|start|>', '<|end|>'],
      initial_alphabet=levels.alphabet(),
      show_progress=False,
  )
  tok.train_from_iterator(merged * 2, trainer)
  hugging = transformers.PreTrainedTokenizerFast(
      tokenizer_object=tok, eos_token='<|end|>'
  )
  hugging.chat_template = _TEMPLATE
  return hugging


_FIRST = _bytes_tokenizer('step one\n\n')
_OTHER = _bytes_tokenizer('so the answer')


def _text(prompter, ids):
  return prompter.tokenizer.decode(ids)


class SharedTest(parameterized.TestCase):

  def test_examples_are_shared_and_questions_are_not(self):
    shots = (('1+1', '2\n\n#### 2'), ('2+2', '4\n\n#### 4'))
    for is_chat in (True, False):
      prompt = prompt_lib.Prompt('Q: {question}', 'S', shots, is_chat)
      prompter = prompts.Prompter(_FIRST, prompt)
      count = prompter.num_shared()
      first, second = prompter.ids('3+3'), prompter.ids('what is 4?')
      self.assertEqual(first[:count], second[:count])
      text = _text(prompter, first[:count])
      self.assertIn('#### 4', text)
      self.assertNotIn('3', text.replace('#### 2', ''))

  def test_without_a_template_nothing_is_shared(self):
    self.assertEqual(prompts.Prompter(_FIRST).num_shared(), 0)


class PromptTest(absltest.TestCase):

  def test_solved_examples_are_earlier_turns(self):
    prompt = prompt_lib.Prompt('Q: {question}', 'S', (('a', 'b'),))
    got = [(m['role'], m['content']) for m in prompt.messages('c', 'd')]
    self.assertEqual(
        got,
        [
            ('system', 'S'),
            ('user', 'Q: a'),
            ('assistant', 'b'),
            ('user', 'Q: c'),
            ('assistant', 'd'),
        ],
    )
    self.assertEqual(prompt.text('c'), 'S\n\nQ: a\n\nb\n\nQ: c')

  def test_an_example_has_two_parts(self):
    with self.assertRaisesRegex(ValueError, r"\('a',\); it must be \(question"):
      prompt_lib.Prompt(shots=(('a',),))

  def test_is_system_user_and_the_answer_so_far(self):
    prompt = prompt_lib.Prompt('Q: {question} {x}', 'Be brief.')
    self.assertEqual(
        prompt.messages('{trace} 1+1', 'It is '),
        [
            {'role': 'system', 'content': 'Be brief.'},
            {'role': 'user', 'content': 'Q: {trace} 1+1 {x}'},
            {'role': 'assistant', 'content': 'It is '},
        ],
    )
    (user,) = prompt_lib.Prompt().messages('1+1')
    self.assertEqual(user, {'role': 'user', 'content': '1+1'})

  def test_a_template_without_the_question_is_an_error(self):
    with self.assertRaisesRegex(ValueError, "'Q'; it must contain {question}"):
      prompt_lib.Prompt(user='Q')


class InstructTest(parameterized.TestCase):

  def test_asks_just_the_question_for_a_whole_answer(self):
    prompt = prompt_lib.Prompt('Q: {question}', 'S')
    got = prompts.instruct(prompt, '1+1', '', to_end=True)
    self.assertEqual(got, prompt.messages('1+1'))

  @parameterized.parameters(True, False)
  def test_shows_the_trace_word_for_word(self, to_end):
    prompt = prompt_lib.Prompt('Q: {question}', 'S')
    trace = 'of {question}\n\nand {trace}\n\n'
    system, user = prompts.instruct(prompt, '1+1', trace, to_end=to_end)
    self.assertEqual(system['content'], 'S')
    self.assertEqual(user['role'], 'user')
    self.assertStartsWith(user['content'], 'Q: 1+1\n\n')
    self.assertIn(f'\n\n{trace}', user['content'])
    self.assertEqual(prompts.DONE in user['content'], not to_end)

  def test_asks_for_one_step_of_an_empty_trace(self):
    (user,) = prompts.instruct(prompt_lib.Prompt(), '1+1', '', to_end=False)
    self.assertStartsWith(user['content'], '1+1\n\nWrite only the next step')


class PrompterTest(parameterized.TestCase):

  def test_the_plain_prompt_is_that_of_the_embedded_pair(self):
    prompter = prompts.Prompter(prompts.load_tokenizer(export.shipped('small')))
    own = tokenizer_lib.Tokenizer()
    for problem in arithmetic.load(1, test=20)['test']:
      trace = problem.meta.get('solution', 'P = 1\n\n')
      for text in ('', trace):
        self.assertEqual(
            prompter.ids(problem.question, text),
            own.encode(problem.question + text),
        )

  @parameterized.parameters(_FIRST, _OTHER)
  def test_a_foreign_trace_is_read_in_tokens_of_its_own(self, tokenizer):
    prompter = prompts.Prompter(tokenizer, prompt_lib.Prompt(system='S'))
    head = '<|start|>system\nS<|end|>\n<|start|>user\nq?<|end|>\n'
    head += '<|start|>assistant\n'
    trace = 'step one\n\nso the answer ä\n\n'
    alone = prompter.ids('q?')
    whole = prompter.ids('q?', trace)
    self.assertEqual(_text(prompter, alone), head)
    self.assertEqual(_text(prompter, whole), head + trace)
    # The prompt without the answer is read the same way.
    self.assertEqual(whole[: len(alone)], alone)

  def test_the_two_tokenizers_differ(self):
    trace = 'step one\n\nso the answer\n\n'
    first, other = (
        prompts.Prompter(t, prompt_lib.Prompt()).ids('', trace)
        for t in (_FIRST, _OTHER)
    )
    self.assertNotEqual(len(first), len(other))

  def test_a_special_token_in_a_trace_is_plain_text(self):
    prompter = prompts.Prompter(_FIRST, prompt_lib.Prompt())
    end = _FIRST.convert_tokens_to_ids('<|end|>')
    alone = prompter.ids('q')
    whole = prompter.ids('q', 'it reads <|end|> there')
    self.assertEqual(whole.count(end), alone.count(end))
    self.assertEndsWith(_text(prompter, whole), 'it reads <|end|> there')

  def test_fields_reach_the_template(self):
    prompter = prompts.Prompter(_FIRST, prompt_lib.Prompt(), {'thinking': True})
    self.assertEndsWith(_text(prompter, prompter.ids('q')), '<think>')

  @parameterized.parameters(
      ('step one\n\n', 'so ä', True),
      ('', 'step one\n\n', True),
      # The second half of one word.
      ('step ', 'one\n\n', False),
  )
  def test_reads_a_text_as_its_own_tokens(self, before, text, expected):
    prompter = prompts.Prompter(_FIRST)
    ids = prompter.ids(text)
    self.assertEqual(prompter.reads(ids, before, text), expected)
    # The text could also be written letter by letter.
    letters = [i for letter in text for i in prompter.ids(letter)]
    self.assertEqual(prompter.reads(letters, before, text), letters == ids)

  def test_decodes_each_token_and_a_character_with_its_last_one(self):
    prompter = prompts.Prompter(_FIRST)
    prompt = prompter.ids('x')
    end = _FIRST.convert_tokens_to_ids('<|end|>')
    ids = [*prompter.ids('step one\n\nä'), end]
    pieces = prompter.decode_tokens(prompt, ids)
    self.assertLen(pieces, len(ids))
    self.assertEqual(''.join(pieces), 'step one\n\nä')
    self.assertEqual(pieces[-3:], ['', 'ä', ''])


if __name__ == '__main__':
  absltest.main()
