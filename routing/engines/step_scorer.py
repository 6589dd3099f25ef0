"""Defines a step scorer: a model that judges the steps of an answer.

A scorer writes no text. A router may compare its scores with a threshold, so
its compute is charged like that of a route.
"""

from collections.abc import Sequence
import dataclasses
from typing import Protocol

import numpy as np

from routing import types


@dataclasses.dataclass(frozen=True)
class StepScores:
  """The scores of the T steps of one answer, and what computing them took.

  The score of step t depends on the question and on steps 0..t only. It is
  therefore also the score that a live router gets when step t is the newest.

  scores: `[T]` float64 in [0, 1]; 1 = the step is surely right.
  read: `[T]` int, the tokens that step t adds to the scorer's input. Those of
    step 0 include the question and the chat template.
  seconds: `[T]` float64, wall-clock time. The time of a batch is divided among
    its steps in proportion to `read`.
  """

  scores: np.ndarray
  read: np.ndarray
  seconds: np.ndarray

  def usage(self) -> types.Usage:
    """Returns the usage of one live call per step, as arrays `[T]`.

    A live scorer is called again after each step, and takes what it has read
    before from its prefix cache. The route is 0, the only one of a scorer.
    """
    return types.Usage(
        route=0,
        read=self.read,
        cached=np.cumsum(self.read) - self.read,
        written=np.zeros_like(self.read),
        seconds=self.seconds,
    )


class StepScorer(Protocol):
  """Scores each step of an answer."""

  def score(
      self, answers: Sequence[tuple[str, Sequence[str]]]
  ) -> list[StepScores]:
    """Returns the scores of each answer, in order.

    Args:
      answers: (question, texts of the steps); an answer has 1 step or more.

    Raises:
      ValueError: if an answer cannot be scored, e.g. because it is too long.
    """
    ...
