"""Makes tiny models of Qwen2's shape with a ChatML template, for tests."""

import pathlib

import tokenizers
import torch
import transformers

_CHATML = (
    '{% for m in messages %}<|im_start|>{{ m["role"] }}\n{{ m["content"] }}'
    '<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>'
    'assistant\n{% endif %}'
)
_SPECIAL = ('<|endoftext|>', '<|im_start|>', '<|im_end|>')


def save(directory: pathlib.Path, seed: int, num_layers: int) -> None:
  """Saves a model with random weights, whose tokens are single bytes.

  Args:
    directory: where it is saved, in the format of `transformers`.
    seed: of the weights.
    num_layers: number of decoder blocks.
  """
  tokenizer = _bytes()
  tokenizer.save_pretrained(directory)
  torch.manual_seed(seed)
  end = tokenizer.convert_tokens_to_ids('<|im_end|>')
  config = transformers.Qwen2Config(
      vocab_size=len(tokenizer),
      hidden_size=64,
      intermediate_size=64,
      num_hidden_layers=num_layers,
      num_attention_heads=2,  # vLLM's attention on a CPU needs 32 per head.
      num_key_value_heads=1,
      max_position_embeddings=4_096,
      initializer_range=0.3,  # Larger than usual, so that texts differ.
      eos_token_id=end,
      bos_token_id=None,
      dtype='float32',
  )
  transformers.Qwen2ForCausalLM(config).save_pretrained(directory)


def _bytes() -> transformers.PreTrainedTokenizerFast:
  """Returns a byte-level tokenizer without merges."""
  levels = tokenizers.pre_tokenizers.ByteLevel
  alphabet = sorted(levels.alphabet())
  model = tokenizers.models.BPE({x: i for i, x in enumerate(alphabet)}, [])
  inner = tokenizers.Tokenizer(model)
  inner.pre_tokenizer = levels(add_prefix_space=False)
  inner.decoder = tokenizers.decoders.ByteLevel()
  inner.add_special_tokens(list(_SPECIAL))
  outer = transformers.PreTrainedTokenizerFast(
      tokenizer_object=inner,
      eos_token='<|im_end|>',
      pad_token='<|endoftext|>',
  )
  outer.chat_template = _CHATML
  return outer
