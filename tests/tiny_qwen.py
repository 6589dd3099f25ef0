"""Makes tiny models of Qwen2's shape with a ChatML template, for tests."""

import json
import pathlib

from safetensors import torch as safetensors_torch
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
  tokenizer = _bytes(_SPECIAL)
  tokenizer.save_pretrained(directory)
  torch.manual_seed(seed)
  config = _config(tokenizer, num_layers)
  transformers.Qwen2ForCausalLM(config).save_pretrained(directory)


def save_process_reward(
    directory: pathlib.Path, seed: int, num_classes: int = 2
) -> tuple[torch.nn.Module, torch.nn.Module]:
  """Saves a process reward model with random weights; returns body and head.

  The files have the format of Qwen2.5-Math-PRM.

  Args:
    directory: where it is saved.
    seed: of the weights.
    num_classes: of the head; 2 in models that can be used.
  """
  tokenizer = _bytes((*_SPECIAL, '<extra_0>'))
  torch.manual_seed(seed)
  body = _body(tokenizer)
  width = body.config.hidden_size
  head = torch.nn.Sequential(
      torch.nn.Linear(width, width),
      torch.nn.ReLU(),
      torch.nn.Linear(width, num_classes),
  )
  weights = {f'model.{k}': v for k, v in body.state_dict().items()}
  weights |= {f'score.{k}': v for k, v in head.state_dict().items()}
  _save_scorer(
      directory, tokenizer, body, weights, 'Qwen2ForProcessRewardModel'
  )
  return body, head


def save_value_head(
    directory: pathlib.Path, seed: int, num_values: int = 1
) -> tuple[torch.nn.Module, torch.nn.Module]:
  """Saves a process reward model in the format of Skywork-o1-Open-PRM.

  Args:
    directory: where it is saved.
    seed: of the weights.
    num_values: of the head; 1 in models that can be used.

  Returns:
    The body and the value head.
  """
  tokenizer = _bytes(_SPECIAL)
  tokenizer.bos_token = '<|endoftext|>'
  torch.manual_seed(seed)
  body = _body(tokenizer)
  head = torch.nn.Linear(body.config.hidden_size, num_values)
  weights = {f'model.{k}': v for k, v in body.state_dict().items()}
  # What it was trained from is saved with it.
  weights['lm_head.weight'] = body.embed_tokens.weight.detach().clone()
  weights |= {f'v_head.summary.{k}': v for k, v in head.state_dict().items()}
  _save_scorer(directory, tokenizer, body, weights, 'Qwen2ForPrmModel')
  return body, head


def _body(tokenizer) -> torch.nn.Module:
  """Returns a decoder with random weights."""
  return transformers.Qwen2Model(_config(tokenizer, num_layers=2)).eval()


def _save_scorer(directory, tokenizer, body, weights, architecture) -> None:
  """Saves a process reward model as it is found on the hub."""
  tokenizer.save_pretrained(directory)
  safetensors_torch.save_file(
      weights, directory / 'model.safetensors', {'format': 'pt'}
  )
  saved = body.config.to_dict() | {
      'architectures': [architecture],
      # As on the hub; this code does not exist and must not be asked for.
      'auto_map': {
          'AutoConfig': 'configuration.Qwen2RMConfig',
          'AutoModel': f'modeling.{architecture}',
      },
  }
  (directory / 'config.json').write_text(json.dumps(saved))


def _config(tokenizer, num_layers) -> transformers.Qwen2Config:
  """Returns the shape of a tiny model."""
  return transformers.Qwen2Config(
      vocab_size=len(tokenizer),
      hidden_size=64,
      intermediate_size=64,
      num_hidden_layers=num_layers,
      num_attention_heads=2,  # vLLM's attention on a CPU needs 32 per head.
      num_key_value_heads=1,
      max_position_embeddings=4_096,
      initializer_range=0.3,  # Larger than usual, so that texts differ.
      eos_token_id=tokenizer.convert_tokens_to_ids('<|im_end|>'),
      bos_token_id=None,
      dtype='float32',
  )


def _bytes(special) -> transformers.PreTrainedTokenizerFast:
  """Returns a byte-level tokenizer without merges."""
  levels = tokenizers.pre_tokenizers.ByteLevel
  alphabet = sorted(levels.alphabet())
  model = tokenizers.models.BPE({x: i for i, x in enumerate(alphabet)}, [])
  inner = tokenizers.Tokenizer(model)
  inner.pre_tokenizer = levels(add_prefix_space=False)
  inner.decoder = tokenizers.decoders.ByteLevel()
  inner.add_special_tokens(list(special))
  outer = transformers.PreTrainedTokenizerFast(
      tokenizer_object=inner,
      eos_token='<|im_end|>',
      pad_token='<|endoftext|>',
  )
  outer.chat_template = _CHATML
  return outer
