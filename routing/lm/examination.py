"""Evaluates a model: accuracy, step errors, and confidence as a predictor."""

from collections.abc import Sequence

import numpy as np

from routing.lm import decoder
from routing.lm import generation
from routing.lm import tokenizer as tokenizer_lib
from routing.problems import arithmetic

_MAX_NEW = 6 * 22 + 12  # The longest answer: 6 steps of 22 tokens, last line.


def accuracy(
    params, config: decoder.DecoderConfig, tasks: Sequence[arithmetic.Task]
) -> float:
  """Returns the share of tasks whose greedy answer is right."""
  return float(np.mean(examine(params, config, tasks)['is_correct']))


def examine(
    params, config: decoder.DecoderConfig, tasks: Sequence[arithmetic.Task]
) -> dict[str, np.ndarray]:
  """Evaluates greedy answers and labels every step.

  Returns:
    `is_correct` `[N]` bool, for each task. Over all S steps of all traces
    `is_right`, `is_relevant`, `in_blind_spot` `[S]` bool, and `min_log_prob`
    `[S]` float, the smallest token log-probability of the step.
  """
  tokenizer = tokenizer_lib.Tokenizer()
  prompts = [tokenizer.encode(arithmetic.question_text(t)) for t in tasks]
  written = generation.generate(
      params, config, prompts, max_new=_MAX_NEW, stop_id=tokenizer.eos_id
  )
  correct, labels, confidence = [], [], []
  for task, (ids, log_probs) in zip(tasks, written, strict=True):
    # Cut after each delimiter, but not after one in last place (ids[:-1]): that
    # would leave an empty step.
    ends = 1 + np.flatnonzero(np.equal(ids[:-1], tokenizer.delimiter_id))
    parts = [
        tokenizer.decode(part).removesuffix(tokenizer_lib.EOS)
        for part in np.split(np.array(ids, int), ends)
    ]
    ended = bool(ids) and ids[-1] == tokenizer.eos_id
    # A right last line counts only if the model ended there by itself.
    correct.append(ended and parts[-1] == arithmetic.solution(task)[-1])
    labels += arithmetic.label_steps(task, parts)
    confidence += [part.min() for part in np.split(log_probs, ends)]
  fields = ('is_right', 'is_relevant', 'in_blind_spot')
  return {
      'is_correct': np.array(correct),
      'min_log_prob': np.array(confidence),
      **{f: np.array([getattr(label, f) for label in labels]) for f in fields},
  }


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
  """Returns the area under the ROC curve.

  It is the probability that a positive has a higher score than a negative, ties
  counting half (Mann-Whitney U).

  Args:
    scores: `[S]` numbers.
    positive: `[S]` bool, with at least one of each kind.
  """
  from scipy import stats

  ranks = stats.rankdata(scores)
  count = int(positive.sum())
  # U = (rank sum of the positives) - n (n + 1) / 2: the number of pairs in
  # which the positive is higher; average ranks count a tie as half.
  above = ranks[positive].sum() - count * (count + 1) / 2
  return float(above / (count * (len(scores) - count)))


def summary(found: dict[str, np.ndarray]) -> dict[str, float]:
  """Returns the figures of a model card.

  Args:
    found: the result of `examine`.
  """
  wrong = ~found['is_right']
  return {
      'accuracy': round(float(found['is_correct'].mean()), 4),
      'step_error': round(float(wrong.mean()), 4),
      # Negated: low confidence should predict a wrong step.
      'auc_min_log_prob': round(auc(-found['min_log_prob'], wrong), 4),
      'wrong_in_blind_spots': round(
          float(found['in_blind_spot'][wrong].mean()), 4
      ),
      'relevant_steps': round(float(found['is_relevant'].mean()), 4),
  }
