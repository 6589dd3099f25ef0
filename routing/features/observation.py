"""The observation: a vector of features of a trace, the input of a policy.

`observe` is the only feature function. Training applies it to the traces of
collected records, and a live router to the trace at hand. Its only input is a
`types.Trace`, which holds nothing from after the decision.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import numpy as np

from routing import types
from routing.features import confidence
from routing.features import text

# Of a step's log-probabilities, for thresholds on one number.
UNCERTAINTIES = ('minimum', 'mean', 'first')
GROUPS = ('confidence', 'progress', 'cost', 'text', 'hidden')


@dataclasses.dataclass(frozen=True)
class FeatureConfig:
  """The feature groups of an observation, and their widths.

  The viewed step is the draft, or else the last accepted step.

  groups: names from `GROUPS`, in the order of the vector.
  num_routes: A, the length of the one-hot encoding of the last writer.
  max_decisions: T, the length of the one-hot encoding of the step index.
  hidden_size: H, the length of the small model's hidden state; 0 = the engine
    gives no hidden states.
  question_width: number of hash buckets for the text of the question; 0 = the
    question is left out.
  step_width: number of hash buckets for the text of the viewed step; 0 = this
    text is left out.
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
    # JSON gives a list, but the configuration must be hashable, and equal to
    # one that was made with a tuple.
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
    """F, the number of features in an observation."""
    return len(names(self))


def check_groups(groups: Sequence[str]) -> None:
  """Raises ValueError unless `groups` names one or more groups, each once."""
  for name in groups:
    if name not in GROUPS:
      raise ValueError(
          f'features.groups contains {name!r}; allowed: {", ".join(GROUPS)}.'
      )
  if not groups:
    raise ValueError(
        'features.groups is empty; allowed: one or more of '
        f'{", ".join(GROUPS)}.'
    )
  if len(set(groups)) < len(groups):
    raise ValueError(
        f'features.groups is {groups}; each group may be named only once.'
    )


def configure(
    features: Mapping[str, Any],
    *,
    num_routes: int,
    max_decisions: int,
    hidden_size: int,
) -> FeatureConfig:
  """Returns the `FeatureConfig` of an experiment.

  Args:
    features: the section `features` of the experiment's configuration: groups
      and widths.
    num_routes: A, the number of models.
    max_decisions: T, the largest number of decisions in an answer.
    hidden_size: H, the length of the small model's hidden state; 0 = its engine
      gives no hidden states.
  """
  return FeatureConfig(
      **dict(features),
      num_routes=num_routes,
      max_decisions=max_decisions,
      hidden_size=hidden_size,
  )


# Every decision compares the number of features, which takes as long as to
# compute them where the names are made each time.
@functools.lru_cache(maxsize=64)
def names(config: FeatureConfig) -> tuple[str, ...]:
  """Returns the name of each of the F features, as 'group/entry'.

  The names are in the order in which the functions in `_BUILDERS` fill the
  vector.
  """
  # A saved policy refers to features by position: this order must not change.
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
  """Returns the columns that do not change between decisions on one problem.

  These are the hash buckets of the question. A caller with many decisions on
  one problem may store these columns once instead of once per decision.
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
    first: position of `steps[0]` in the whole answer, for the message.
  """
  for t, step in enumerate(steps, first):
    if not (
        np.isfinite(step.log_probs).all()
        and np.isfinite(step.top_log_probs).all()
    ):
      raise ValueError(
          f'step {t}: a log-probability is not finite; check the engine that '
          'wrote the step.'
      )


def viewed_step(trace: types.Trace) -> types.Step | None:
  """Returns the draft if there is one, otherwise the last accepted step.

  Returns None before the first step. Features of a step describe this one.
  """
  if trace.draft is not None:
    return trace.draft
  return trace.steps[-1] if trace.steps else None


def uncertainties(trace: types.Trace) -> tuple[float, ...]:
  """Returns the uncertainty scores of the viewed step, in nats, >= 0.

  A score is minus a log-probability: of the step's least likely token, the mean
  over its tokens, and of its first token; in the order of `UNCERTAINTIES`. The
  scores are 0 before the first step, and NaN if the engine gives no
  log-probabilities.
  """
  step = viewed_step(trace)
  if step is None:
    return (0.0,) * len(UNCERTAINTIES)
  log_probs = step.log_probs
  if not len(log_probs):
    # NaN, not 0: without log-probabilities the step must not look certain.
    return (float('nan'),) * len(UNCERTAINTIES)
  return (
      -float(log_probs.min()),
      -float(log_probs.mean()),
      -float(log_probs[0]),
  )


def uncertainty(trace: types.Trace, statistic: str = 'minimum') -> float:
  """Returns one of `uncertainties`; `statistic` is one of `UNCERTAINTIES`."""
  return uncertainties(trace)[UNCERTAINTIES.index(statistic)]


def _confidence(trace: types.Trace, config: FeatureConfig) -> np.ndarray:
  """Returns the confidence features of the viewed step and of all steps."""
  del config  # The number of confidence features is fixed.
  steps = trace.steps if trace.draft is None else (*trace.steps, trace.draft)
  return np.asarray(confidence.describe(viewed_step(trace), steps))


def _progress(trace: types.Trace, config: FeatureConfig) -> np.ndarray:
  """Returns features of how far the answer is, and of who wrote last.

  These are the step index as a fraction of T and one-hot, the number of tokens
  of the accepted steps, and the last writer's route, one-hot.
  """
  index = len(trace.steps)
  if index >= config.max_decisions:
    raise ValueError(
        f'The trace has {index} steps; a decision is allowed after at most '
        f'{config.max_decisions - 1} steps (max_decisions is '
        f'{config.max_decisions}).'
    )
  # The index is given one-hot as well as as a fraction, so that even a linear
  # policy can have a different threshold at each step.
  position = np.zeros(config.max_decisions)
  position[index] = 1.0
  writer = np.zeros(config.num_routes)  # Stays 0 before the first step.
  if trace.steps:
    writer[trace.steps[-1].route] = 1.0
  # Tokens of the draft are not counted, since it may be discarded.
  tokens = sum(step.num_tokens for step in trace.steps)
  return np.concatenate(
      [[index / config.max_decisions], position, [tokens], writer]
  )


def _cost(trace: types.Trace, config: FeatureConfig) -> np.ndarray:
  """Returns the cost so far, relative to what the large model alone costs."""
  del config
  return np.asarray([trace.spent])


def _text(trace: types.Trace, config: FeatureConfig) -> np.ndarray:
  """Returns hashed n-gram counts of the question and of the viewed step."""
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
  """Returns 1 and the small model's hidden state at the end of the viewed step.

  Returns zeros if there is no hidden state, or a larger model wrote the step.
  """
  viewed = viewed_step(trace)
  # The hidden states of larger models are not comparable with the small
  # model's, and have another width.
  if viewed is None or viewed.hidden is None or viewed.route > 0:
    return np.zeros(1 + config.hidden_size)
  if viewed.hidden.shape != (config.hidden_size,):
    raise ValueError(
        f'The hidden state has shape {viewed.hidden.shape}; it must have shape '
        f'({config.hidden_size},), as hidden_size says.'
    )
  return np.concatenate([[1.0], viewed.hidden])


# Group -> the function that computes its features, in the order of `names`.
_BUILDERS = {
    'confidence': _confidence,
    'progress': _progress,
    'cost': _cost,
    'text': _text,
    'hidden': _hidden,
}


def observe(trace: types.Trace, config: FeatureConfig) -> np.ndarray:
  """Returns the observation: the feature vector of a trace at a decision.

  Args:
    trace: question, accepted steps, the draft if there is one, cost so far.
    config: the feature groups and their widths.

  Returns:
    `[F]` float32, not standardised, in the order of `names(config)`.

  Raises:
    ValueError: if a feature is not finite (the message names it), the trace has
      max_decisions steps or more, or the hidden state has another size.
  """
  vector = np.concatenate(
      [_BUILDERS[group](trace, config) for group in config.groups]
  ).astype(np.float32)
  # A single NaN would spread to every weight in training.
  if not np.isfinite(vector).all():
    bad = names(config)[int(np.argmin(np.isfinite(vector)))]
    raise ValueError(f'Feature {bad} is not finite at step {len(trace.steps)}.')
  return vector
