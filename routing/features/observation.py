"""The observation: what a policy sees of a trace, as one fixed vector.

`observe` is the one feature function: training reads ladders through it, and
the live router reads its traces through it. It sees a `Trace` and nothing else,
hence nothing from the future.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from routing import types
from routing.features import confidence
from routing.features import text

GROUPS = ('confidence', 'progress', 'cost', 'text', 'hidden')


@dataclasses.dataclass(frozen=True)
class FeatureConfig:
  """Which groups an observation has, and how wide they are.

  groups: of `GROUPS`, in the order of the vector.
  num_routes: A, for the one-hot writer.
  max_decisions: T, for the one-hot step index.
  hidden_size: H, length of the small model's hidden state; 0 = it has none.
  question_width, step_width: hash buckets of the two texts; 0 = leave it out.
  max_ngram: longest run of words that is hashed.
  """

  groups: tuple[str, ...]
  num_routes: int
  max_decisions: int
  hidden_size: int = 0
  question_width: int = 256
  step_width: int = 256
  max_ngram: int = 3

  def __post_init__(self):
    object.__setattr__(self, 'groups', tuple(self.groups))  # JSON has lists.
    check_groups(self.groups)
    for name, least in (
        ('num_routes', 2),
        ('max_decisions', 1),
        ('max_ngram', 1),
    ):
      if getattr(self, name) < least:
        raise ValueError(
            f'{name} is {getattr(self, name)}; allowed: >= {least}.'
        )
    if 'hidden' in self.groups and self.hidden_size < 1:
      raise ValueError(
          'The feature group hidden needs an engine that gives hidden states; '
          'this one gives none. Leave hidden out of the groups.'
      )

  @property
  def size(self) -> int:
    """F, the length of an observation."""
    return len(names(self))


def check_groups(groups: Sequence[str]) -> None:
  """Raises ValueError unless these are one or more groups, each named once."""
  if not groups or any(name not in GROUPS for name in groups):
    raise ValueError(
        f'Feature groups are {groups}; allowed: one or more of '
        f'{", ".join(GROUPS)}.'
    )
  if len(set(groups)) < len(groups):
    raise ValueError(f'A feature group is named twice in {groups}.')


def configure(
    features: Mapping[str, Any],
    *,
    num_routes: int,
    max_decisions: int,
    hidden_size: int,
) -> FeatureConfig:
  """The `FeatureConfig` of a configuration's `features` and of its engines."""
  return FeatureConfig(
      **dict(features),
      num_routes=num_routes,
      max_decisions=max_decisions,
      hidden_size=hidden_size,
  )


def names(config: FeatureConfig) -> tuple[str, ...]:
  """A name for each of the F entries, 'group/entry'."""
  entries = {
      'confidence': confidence.NAMES,
      'progress': (
          'index_fraction',
          *(f'index_is_{t}' for t in range(config.max_decisions)),
          'num_tokens',
          *(f'writer_is_{m}' for m in range(config.num_routes)),
      ),
      'cost': ('spent',),
      'text': (
          *(f'question_{i}' for i in range(config.question_width)),
          *(f'step_{i}' for i in range(config.step_width)),
      ),
      'hidden': (
          'is_given',
          *(f'state_{i}' for i in range(config.hidden_size)),
      ),
  }
  return tuple(
      f'{group}/{entry}' for group in config.groups for entry in entries[group]
  )


def constant(config: FeatureConfig) -> slice:
  """The columns that say the same at every decision of a trace."""
  places = [
      i
      for i, name in enumerate(names(config))
      if name.startswith('text/question_')
  ]
  return slice(places[0], places[-1] + 1) if places else slice(0, 0)


def check_log_probs(steps: Sequence[types.Step], first: int = 0) -> None:
  """Raises ValueError if a log-probability is not finite, naming the step.

  Args:
    steps: as they were written.
    first: number of the first of them.
  """
  for t, step in enumerate(steps, first):
    if not (
        np.isfinite(step.log_probs).all()
        and np.isfinite(step.top_log_probs).all()
    ):
      raise ValueError(f'step {t}: a log-probability is not finite.')


def viewed_step(trace: types.Trace) -> types.Step | None:
  """The step under view: the draft, else the last accepted one, else None."""
  if trace.draft is not None:
    return trace.draft
  return trace.steps[-1] if trace.steps else None


def uncertainty(trace: types.Trace) -> float:
  """Minus the least log-probability of the step under view, in nats, >= 0.

  No step yet is no evidence, and so 0. NaN if the engine gave none: then the
  step is not certain, but unknown.
  """
  step = viewed_step(trace)
  if step is None:
    return 0.0
  return -float(step.log_probs.min()) if len(step.log_probs) else float('nan')


def _confidence(trace: types.Trace, config: FeatureConfig) -> np.ndarray:
  del config
  steps = trace.steps if trace.draft is None else (*trace.steps, trace.draft)
  return np.asarray(confidence.describe(viewed_step(trace), steps))


def _progress(trace: types.Trace, config: FeatureConfig) -> np.ndarray:
  """The index of the step to be decided on, tokens accepted, last writer."""
  index = len(trace.steps)
  if index >= config.max_decisions:
    raise ValueError(
        f'The trace has {index} steps; a decision is allowed before step '
        f'{config.max_decisions} at the latest.'
    )
  position = np.zeros(config.max_decisions)
  position[index] = 1.0
  writer = np.zeros(config.num_routes)  # All zero before the first step.
  if trace.steps:
    writer[trace.steps[-1].route] = 1.0
  tokens = sum(int(step.usage.written) for step in trace.steps)
  return np.concatenate(
      [[index / config.max_decisions], position, [tokens], writer]
  )


def _cost(trace: types.Trace, config: FeatureConfig) -> np.ndarray:
  del config
  return np.asarray([trace.spent])


def _text(trace: types.Trace, config: FeatureConfig) -> np.ndarray:
  viewed = viewed_step(trace)
  return np.concatenate(
      [
          text.hash_ngrams(
              trace.question, config.question_width, config.max_ngram
          ),
          text.hash_ngrams(
              viewed.text if viewed else '', config.step_width, config.max_ngram
          ),
      ]
  )


def _hidden(trace: types.Trace, config: FeatureConfig) -> np.ndarray:
  """Of the small model alone: another's state is another space."""
  viewed = viewed_step(trace)
  if viewed is None or viewed.hidden is None or viewed.route > 0:
    return np.zeros(1 + config.hidden_size)
  if viewed.hidden.shape != (config.hidden_size,):
    raise ValueError(
        f'The hidden state has shape {viewed.hidden.shape}; '
        f'({config.hidden_size},) is expected.'
    )
  return np.concatenate([[1.0], viewed.hidden])


_BUILDERS = {
    'confidence': _confidence,
    'progress': _progress,
    'cost': _cost,
    'text': _text,
    'hidden': _hidden,
}


def observe(trace: types.Trace, config: FeatureConfig) -> np.ndarray:
  """What a policy may know of a trace at a step boundary.

  Args:
    trace: question, accepted steps, the draft if there is one, cost so far.
    config: the groups and their widths.

  Returns:
    `[F]` float32, not standardised, in the order of `names(config)`.

  Raises:
    ValueError: if an entry is not finite, naming it, or the trace is longer or
      its hidden state wider than `config` says.
  """
  vector = np.concatenate(
      [_BUILDERS[group](trace, config) for group in config.groups]
  ).astype(np.float32)
  if not np.isfinite(vector).all():
    bad = names(config)[int(np.argmin(np.isfinite(vector)))]
    raise ValueError(f'Feature {bad} is not finite at step {len(trace.steps)}.')
  return vector
