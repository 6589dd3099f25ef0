"""Makes an engine of a model of the embedded pair, or one in its format."""

import dataclasses
import pathlib

from routing.engines import embedded
from routing.lm import export
from routing.lm import tokenizer


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of the embedded engine.

  max_batch: maximum number of requests in one forward pass; on a CPU it never
    has more than 32, which is faster there.
  num_slots: number of sessions whose prefix cache is kept.
  """

  max_batch: int = 128
  num_slots: int = 256


def load(
    name: str, route: int, folder: pathlib.Path, settings: Settings
) -> embedded.EmbeddedEngine:
  """Returns the engine of the model that `folder` holds.

  Raises:
    ValueError: if a setting is out of range.
  """
  shape, params = export.load_pretrained(folder)
  return embedded.EmbeddedEngine(
      name,
      route,
      shape,
      params,
      tokenizer.Tokenizer(),
      max_batch=settings.max_batch,
      num_slots=settings.num_slots,
  )
