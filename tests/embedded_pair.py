"""The shipped pair as embedded engines, for tests that need the real models."""

from routing.engines import embedded
from routing.lm import export
from routing.lm import tokenizer as tokenizer_lib


def make_engines(num_slots: int = 8) -> list[embedded.EmbeddedEngine]:
  """Returns one engine per model, smallest first; at most 8 traces a batch."""
  return [
      embedded.EmbeddedEngine(
          name,
          route,
          *export.load_pretrained(export.shipped(name)),
          tokenizer_lib.Tokenizer(),
          max_batch=8,
          num_slots=num_slots,
      )
      for route, name in enumerate(('small', 'large'))
  ]
