"""SpecReason as a method of the comparison.

The small model drafts each step, the large model scores the draft from 0 to 9,
and a draft of at least 7 is kept; else the large model writes the step.
Source: Pan et al. 2025, "SpecReason: Fast and Accurate Inference-Time Compute
via Speculative Reasoning", section 4.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re

import numpy as np

from routing import types
from routing.outcomes import refusal
from routing.routers import informants
from routing.routers import live_thresholds
from routing.routers import router
from routing.routers import step_scores

NAME = 'SpecReason'
PUBLISHED = 7  # Score from which its public code keeps a draft.
NUM_SCORED = 500  # Problems of `train` from which quantiles are taken.
# The wording is our own. The question about a draft begins with that about the
# step before it, but for the last line, so a prefix cache has nearly all of it.
PROMPT = """\
Below are a question and the beginning of a solution. Grade the last step of \
the solution: reply with one digit from 0 (wrong or useless) to 9 (right and \
helpful), and with nothing else.

Question:
{question}

Solution:
{steps}

Grade of the last step:"""


@dataclasses.dataclass(frozen=True)
class Digits:
  """Turns what a judge says into a digit.

  bounds: nine rising numbers; the digit is how many of them a score reaches.
    None = the judge says a digit itself.
  """

  bounds: tuple[float, ...] | None = None

  def __call__(self, said: float) -> int:
    """Returns the digit, in 0..9."""
    if self.bounds is None:
      return int(said)
    return int(np.searchsorted(self.bounds, said, side='right'))


def question_of(trace: types.Trace) -> str:
  """Returns what the judge is asked about a draft."""
  return PROMPT.format(
      question=trace.question.strip(),
      steps=(trace.text + trace.draft.text).strip(),
  )


def digit_of(reply: str) -> float:
  """Returns the digit that a reply begins with; 0 if it is none.

  A judge that says something else has not approved of the step.
  """
  found = re.match(r'\s*([0-9])', reply)
  return float(found[1]) if found else 0.0


@dataclasses.dataclass(frozen=True)
class Shortfall:
  """9 - digit of the draft; a higher number speaks for the large model."""

  digits: Digits

  def __call__(self, trace: types.Trace) -> float:
    """Returns a whole number in 0..9."""
    return float(9 - self.digits(trace.evidence[-1]))


def keeps_from(digit: int) -> float:
  """Returns the knob at which drafts of at least this digit are kept."""
  return 9.5 - digit


# A draft of digit d is kept from digit k on: 9 - d < 9.5 - k. From 0 on all are
# kept, which is the small model alone; from 10 on none is.
KNOBS = tuple(keeps_from(digit) for digit in range(11))


def fit(train, *, setting, seed):
  """Returns the thresholds on the digit; quantiles give digits, if need be."""
  del setting, seed
  large = train.num_routes - 1
  if train.follows_words:
    digits, judge = Digits(), 'words'
    informant = informants.InWords(question_of, digit_of, large)
  elif train.judge is not None:
    scored = step_scores.scored_steps(train, train.judge, NUM_SCORED)
    bounds = np.quantile(
        np.concatenate(scored), np.arange(1, 10) / 10, method='lower'
    )
    digits, judge = Digits(tuple(bounds.tolist())), train.judge.name
    informant = informants.OfDraft(train.judge)
  else:
    raise refusal.Refusal(
        f'{NAME} needs the largest model as a judge; here it neither replies '
        'in words nor scores steps.',
        None,
        note='',
    )
  # Another wording is another judge.
  name = hashlib.sha256(repr((digits, PROMPT)).encode()).hexdigest()[:16]
  return [
      live_thresholds.Thresholds(
          Shortfall(digits),
          KNOBS,
          f'{NAME}/{judge}/{name}/{large}',
          informant,
          large,
      )
  ]


METHOD = router.Method(NAME, router.Needs(router.REDRAFT, judge=True), fit)
