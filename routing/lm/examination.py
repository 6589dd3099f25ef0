"""How good a model is: accuracy, step errors, and how confidence tells them."""

from collections.abc import Sequence

import numpy as np

from routing.lm import decoder
from routing.lm import generation
from routing.lm import tokenizer as tokenizer_lib
from routing.problems import arithmetic

_MAX_NEW = 6 * 22 + 12  # The longest answer, and some.


def accuracy(
    params, config: decoder.DecoderConfig, tasks: Sequence[arithmetic.Task]
) -> float:
  """Share of tasks whose greedy answer is right."""
  return float(np.mean(examine(params, config, tasks)['is_correct']))


def examine(
    params, config: decoder.DecoderConfig, tasks: Sequence[arithmetic.Task]
) -> dict[str, np.ndarray]:
  """Lets a model answer greedily and labels every step.

  Returns:
    `is_correct` `[N]` bool by task; and over all S steps of all traces
    `is_right`, `is_relevant`, `in_blind_spot` `[S]` bool, and
    `min_log_prob` `[S]` float, the least token log-probability of the step.
  """
  tokenizer = tokenizer_lib.Tokenizer()
  prompts = [tokenizer.encode(arithmetic.question_text(t)) for t in tasks]
  written = generation.generate(
      params, config, prompts, max_new=_MAX_NEW, stop_id=tokenizer.eos_id
  )
  correct, labels, confidence = [], [], []
  for task, (ids, log_probs) in zip(tasks, written, strict=True):
    ends = 1 + np.flatnonzero(np.equal(ids[:-1], tokenizer.delimiter_id))
    parts = [
        tokenizer.decode(part).removesuffix(tokenizer_lib.EOS)
        for part in np.split(np.array(ids, int), ends)
    ]
    ended = bool(ids) and ids[-1] == tokenizer.eos_id
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
  """Chance that a positive outranks a negative, ties half; Mann-Whitney."""
  from scipy import stats

  ranks = stats.rankdata(scores)
  count = int(positive.sum())
  above = ranks[positive].sum() - count * (count + 1) / 2
  return float(above / (count * (len(scores) - count)))


def summary(found: dict[str, np.ndarray]) -> dict[str, float]:
  """The figures of a model card, from what `examine` found."""
  wrong = ~found['is_right']
  return {
      'accuracy': round(float(found['is_correct'].mean()), 4),
      'step_error': round(float(wrong.mean()), 4),
      'auc_min_log_prob': round(auc(-found['min_log_prob'], wrong), 4),
      'wrong_in_blind_spots': round(
          float(found['in_blind_spot'][wrong].mean()), 4
      ),
      'relevant_steps': round(float(found['is_relevant'].mean()), 4),
  }
