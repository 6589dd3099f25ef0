"""Evaluates an embedded model: accuracy, step errors, quality of confidence."""

from collections.abc import Sequence

import numpy as np

from routing.lm import decoder
from routing.lm import generation
from routing.lm import tokenizer as tokenizer_lib
from routing.tasks import counters

# Number of tokens of the longest answer: 6 steps of 22 tokens and a last line.
MAX_NEW = 6 * 22 + 12


def accuracy(
    params, config: decoder.DecoderConfig, tasks: Sequence[counters.Exercise]
) -> float:
  """Returns the share of tasks that the model answers correctly when greedy."""
  return float(np.mean(examine(params, config, tasks)['is_correct']))


def examine(
    params, config: decoder.DecoderConfig, tasks: Sequence[counters.Exercise]
) -> dict[str, np.ndarray]:
  """Grades the model's greedy answers to N tasks, and each of their steps.

  Args:
    params: parameters of `decoder.Decoder(config)`.
    config: the decoder's shape.
    tasks: the N tasks.

  Returns:
    `is_correct`, `[N]` bool: the answer to the task is correct. The other
    entries have one element for each of the S steps of all answers: `is_right`,
    `is_relevant` and `in_blind_spot`, `[S]` bool, see `counters.label_steps`;
    and `min_log_prob`, `[S]` float, the smallest log-probability of a token of
    the step.
  """
  tokenizer = tokenizer_lib.Tokenizer()
  prompts = [tokenizer.encode(counters.question_text(t)) for t in tasks]
  written = generation.generate(
      params, config, prompts, max_new=MAX_NEW, stop_id=tokenizer.eos_id
  )
  correct, labels, confidence = [], [], []
  for task, (ids, log_probs) in zip(tasks, written, strict=True):
    ends = generation.step_ends(ids, tokenizer.delimiter_id)
    parts = step_texts(ids)
    ended = bool(ids) and ids[-1] == tokenizer.eos_id
    # A correct last line counts only if the model ended the answer after it.
    correct.append(ended and parts[-1] == counters.solution(task)[-1])
    labels += counters.label_steps(task, parts)
    confidence += [part.min() for part in np.split(log_probs, ends)]
  fields = ('is_right', 'is_relevant', 'in_blind_spot')
  return {
      'is_correct': np.array(correct),
      'min_log_prob': np.array(confidence),
      **{f: np.array([getattr(label, f) for label in labels]) for f in fields},
  }


def step_texts(ids: Sequence[int]) -> list[str]:
  """Returns the texts of the steps of an answer, given its token ids."""
  tokenizer = tokenizer_lib.Tokenizer()
  ends = generation.step_ends(ids, tokenizer.delimiter_id)
  return [
      tokenizer.decode(part).removesuffix(tokenizer_lib.EOS)
      for part in np.split(np.array(ids, int), ends)
  ]


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
  """Returns the area under the ROC curve of a score that predicts a label.

  The area is the probability that a random positive example has a higher score
  than a random negative one, where a tie counts half (Mann-Whitney U).

  Args:
    scores: `[S]` numbers; a high score predicts a positive label.
    positive: `[S]` bool, the labels: at least one True and one False.
  """
  from scipy import stats

  ranks = stats.rankdata(scores)
  count = int(positive.sum())
  # With n positives, U = (sum of their ranks) - n (n + 1) / 2 is the number of
  # pairs (positive, negative) in which the positive has the higher score. Tied
  # scores have average ranks, so that a tied pair counts half.
  above = ranks[positive].sum() - count * (count + 1) / 2
  return float(above / (count * (len(scores) - count)))


def summary(found: dict[str, np.ndarray]) -> dict[str, float]:
  """Returns the results for a model card, rounded to 4 decimals.

  Args:
    found: the result of `examine`.
  """
  wrong = ~found['is_right']
  return {
      'accuracy': round(float(found['is_correct'].mean()), 4),
      'step_error': round(float(wrong.mean()), 4),
      # The sign is changed, because a low log-probability should predict a
      # wrong step.
      'auc_min_log_prob': round(auc(-found['min_log_prob'], wrong), 4),
      'wrong_in_blind_spots': round(
          float(found['in_blind_spot'][wrong].mean()), 4
      ),
      'relevant_steps': round(float(found['is_relevant'].mean()), 4),
  }
