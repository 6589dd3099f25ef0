"""The observation: the fixed-length vector through which a policy sees a trace.

`observe` is the only feature function. Training applies it to the traces of
collected records, the live router to its own trace. Its only input is a
`Trace`, which holds nothing from the future.
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
  """The feature groups of an observation, and their widths.

  groups: names from `GROUPS`, in the order of the vector.
  num_routes: A, the length of the one-hot writer.
  max_decisions: T, the length of the one-hot step index.
  hidden_size: H, length of the small model's hidden state; 0 = none available.
  question_width, step_width: number of hash buckets for the text of the
    question and of the step under view; 0 = leave that text out.
  max_ngram: length of the longest n-grams that are hashed, in words.
  """

  groups: tuple[str, ...]
  num_routes: int
  max_decisions: int
  hidden_size: int = 0
  question_width: int = 256
  step_width: int = 256
  max_ngram: int = 3

  def __post_init__(self):
    # JSON gives a list, but the configuration must be hashable and comparable.
    object.__setattr__(self, 'groups', tuple(self.groups))
    check_groups(self.groups)
    for name, minimum in (
        ('num_routes', 2),
        ('max_decisions', 1),
        ('max_ngram', 1),
    ):
      if getattr(self, name) < minimum:
        raise ValueError(
            f'{name} is {getattr(self, name)}; allowed: >= {minimum}.'
        )
    if 'hidden' in self.groups and self.hidden_size < 1:
      raise ValueError(
          'The feature group hidden needs hidden states, but hidden_size is '
          f'{self.hidden_size}: the small engine gives none. Remove hidden '
          'from features.groups.'
      )

  @property
  def size(self) -> int:
    """F, the length of an observation."""
    return len(names(self))


def check_groups(groups: Sequence[str]) -> None:
  """Raises ValueError unless `groups` are one or more distinct group names."""
  if not groups or any(name not in GROUPS for name in groups):
    raise ValueError(
        f'Feature groups are {groups}; allowed: one or more of '
        f'{", ".join(GROUPS)}.'
    )
  if len(set(groups)) < len(groups):
    raise ValueError(
        f'Feature groups are {groups}; each may be named only once.'
    )


def configure(
    features: Mapping[str, Any],
    *,
    num_routes: int,
    max_decisions: int,
    hidden_size: int,
) -> FeatureConfig:
  """Returns the `FeatureConfig` for a configuration and its engines.

  Args:
    features: the section `features` of a configuration: groups and widths.
    num_routes: A.
    max_decisions: T.
    hidden_size: H of the small engine; 0 = it gives no hidden state.
  """
  return FeatureConfig(
      **dict(features),
      num_routes=num_routes,
      max_decisions=max_decisions,
      hidden_size=hidden_size,
  )


def names(config: FeatureConfig) -> tuple[str, ...]:
  """Returns a name for each of the F entries, as 'group/entry'.

  The names must be in the order in which the functions of `_BUILDERS` fill the
  vector.
  """
  # A saved policy refers to columns by position: keep this order stable.
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
  """Returns the columns that are equal at every decision of a trace.

  These are the hash buckets of the question. A caller that holds many decisions
  of one problem may store them once.
  """
  places = [
      i
      for i, name in enumerate(names(config))
      if name.startswith('text/question_')
  ]
  # The question's buckets are contiguous, so a slice covers them all.
  return slice(places[0], places[-1] + 1) if places else slice(0, 0)


def check_log_probs(steps: Sequence[types.Step], first: int = 0) -> None:
  """Raises ValueError, naming the step, if a log-probability is not finite.

  Args:
    steps: the steps in the order in which they were written.
    first: index of the first of them within the answer.
  """
  for t, step in enumerate(steps, first):
    if not (
        np.isfinite(step.log_probs).all()
        and np.isfinite(step.top_log_probs).all()
    ):
      raise ValueError(
          f'step {t}: a log-probability is not finite; check the engine.'
      )


def viewed_step(trace: types.Trace) -> types.Step | None:
  """Returns the step under view, or None before the first step.

  This is the draft if there is one, and the last accepted step otherwise.
  """
  if trace.draft is not None:
    return trace.draft
  return trace.steps[-1] if trace.steps else None


def uncertainty(trace: types.Trace) -> float:
  """Returns the uncertainty score of the step under view, in nats, >= 0.

  The score is minus the lowest log-probability of its tokens; 0 before the
  first step; NaN if the engine gives no log-probabilities.
  """
  step = viewed_step(trace)
  if step is None:
    return 0.0
  # NaN, not 0: a step without log-probabilities is not a certain one.
  return -float(step.log_probs.min()) if len(step.log_probs) else float('nan')


def _confidence(trace: types.Trace, config: FeatureConfig) -> np.ndarray:
  del config  # Fixed width.
  steps = trace.steps if trace.draft is None else (*trace.steps, trace.draft)
  return np.asarray(confidence.describe(viewed_step(trace), steps))


def _progress(trace: types.Trace, config: FeatureConfig) -> np.ndarray:
  """Returns step index (fraction, one-hot), accepted tokens, one-hot writer."""
  index = len(trace.steps)
  if index >= config.max_decisions:
    raise ValueError(
        f'The trace has {index} steps; a decision is allowed after at most '
        f'{config.max_decisions - 1} (max_decisions is '
        f'{config.max_decisions}).'
    )
  # One-hot as well as a fraction, so that even a linear policy can have a
  # threshold of its own for each step.
  position = np.zeros(config.max_decisions)
  position[index] = 1.0
  writer = np.zeros(config.num_routes)  # All zero before the first step.
  if trace.steps:
    writer[trace.steps[-1].route] = 1.0
  # Not the draft's tokens: the trace may never contain them.
  tokens = sum(int(step.usage.written) for step in trace.steps)
  return np.concatenate(
      [[index / config.max_decisions], position, [tokens], writer]
  )


def _cost(trace: types.Trace, config: FeatureConfig) -> np.ndarray:
  del config
  return np.asarray([trace.spent])


def _text(trace: types.Trace, config: FeatureConfig) -> np.ndarray:
  viewed = viewed_step(trace)
  # `hash_ngrams` caches per string, so the question is hashed once per problem.
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
  """Returns a flag, then the small model's hidden state; zeros without one."""
  viewed = viewed_step(trace)
  # A larger model's hidden state is of another space, and of another width.
  if viewed is None or viewed.hidden is None or viewed.route > 0:
    return np.zeros(1 + config.hidden_size)
  if viewed.hidden.shape != (config.hidden_size,):
    raise ValueError(
        f'The hidden state has shape {viewed.hidden.shape}; hidden_size asks '
        f'for ({config.hidden_size},).'
    )
  return np.concatenate([[1.0], viewed.hidden])


# A group's entries in the order of `names`.
_BUILDERS = {
    'confidence': _confidence,
    'progress': _progress,
    'cost': _cost,
    'text': _text,
    'hidden': _hidden,
}


def observe(trace: types.Trace, config: FeatureConfig) -> np.ndarray:
  """Returns the observation of a trace at a step boundary.

  Args:
    trace: question, accepted steps, the draft if there is one, cost so far.
    config: the groups and their widths.

  Returns:
    `[F]` float32, not standardised, in the order of `names(config)`.

  Raises:
    ValueError: naming the entry, if one is not finite; or if the trace has
      max_decisions steps or more, or a hidden state of another size.
  """
  vector = np.concatenate(
      [_BUILDERS[group](trace, config) for group in config.groups]
  ).astype(np.float32)
  # Checked here, because a single NaN would spread to every weight in training.
  if not np.isfinite(vector).all():
    bad = names(config)[int(np.argmin(np.isfinite(vector)))]
    raise ValueError(f'Feature {bad} is not finite at step {len(trace.steps)}.')
  return vector
